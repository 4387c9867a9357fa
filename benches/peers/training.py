#!/usr/bin/env python3
"""Training steps here and in PyTorch with PEFT, the same shapes, random weights, on the CPU: speed and peak memory.

    benches/peers/training.py [--programs target/release] [--python PYTHON] [--turns 3] [--steps 3] [--case NAME]... [--json FILE]

Each measurement is a process of its own, the two programs in turns; a step is forward, cross-entropy, backward, clipping and AdamW, and
the first is not counted. Speeds are medians over the turns' median steps; memory is the largest resident size that a process reached,
its libraries included. PYTHON needs torch, transformers and peft.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "examples/configs"

# Name: config, method, photos in a batch, and what is asked of it: images/s at least, and memory at most, as a share of the peer's.
CASES = {
    "base-224 LoRA": ("beit-base-224", "lora", 8, 1.5, 0.6),
    "large-384 LoRA": ("beit-large-384", "lora", 2, 1.0, 0.6),
    "large-384 full": ("beit-large-384", "full", 2, 1.0, 0.8),
}


def ours(programs, config, method, batch, steps):
    program = [programs / "featherlight-train", "bench", "--config", CONFIGS / config, "--method", method]
    flags = ["--batch-size", batch, "--steps", steps, "--device", "cpu", "--json"]
    lora = ["--lora-rank", 16, "--lora-alpha", 16, "--lora-dropout", 0.1] if method == "lora" else []
    found = subprocess.run(list(map(str, program + flags + lora)), check=True, capture_output=True, text=True)
    found = json.loads(found.stdout)
    return found["images_per_second"], found["peak_memory_bytes"], found["trainable_parameters"]


def peers(python, config, method, batch, steps):
    requests = [
        {"do": "load_training", "config": str(CONFIGS / config), "method": method, "dtype": "f32"},
        {"do": "training", "batch": batch, "steps": steps},
    ]
    peer = [python, str(ROOT / "benches/peers/torch_peer.py"), "--device", "cpu"]
    text = "".join(json.dumps(request) + "\n" for request in requests)
    answers = subprocess.run(peer, input=text, check=True, capture_output=True, text=True).stdout.splitlines()
    loaded, trained = map(json.loads, answers)
    for answer in (loaded, trained):
        if "error" in answer:
            sys.exit(f"the peer: {answer['error']}")
    return trained["images_per_second"], trained["peak_memory_bytes"], loaded["trainable_parameters"]


def compare(name, arguments):
    config, method, batch, speed_wanted, memory_wanted = CASES[name]
    runs = {"featherlight": [], "pytorch": []}
    for _ in range(arguments.turns):
        runs["featherlight"].append(ours(arguments.programs, config, method, batch, arguments.steps))
        runs["pytorch"].append(peers(arguments.python, config, method, batch, arguments.steps))
    (speed, memory), (peer_speed, peer_memory) = (
        (statistics.median(speed for speed, _, _ in found), max(memory for _, memory, _ in found))
        for found in runs.values()
    )
    trained = {program: found[0][2] for program, found in runs.items()}
    return {
        "case": name,
        "batch_size": batch,
        "trainable_parameters": trained,
        "images_per_second": {"featherlight": speed, "pytorch": peer_speed},
        "peak_memory_bytes": {"featherlight": memory, "pytorch": peer_memory},
        "speed_ratio": speed / peer_speed,
        "memory_ratio": memory / peer_memory,
        "reached": speed / peer_speed >= speed_wanted and memory / peer_memory <= memory_wanted,
        "wanted": {"speed_ratio": speed_wanted, "memory_ratio": memory_wanted},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "target/release")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    results = []
    print("| | images/s | PyTorch | ratio | wanted | peak memory | PyTorch | ratio | wanted |\n|---|---|---|---|---|---|---|---|---|")
    for name in arguments.case or CASES:
        result = compare(name, arguments)
        results.append(result)
        speed, memory = result["images_per_second"], result["peak_memory_bytes"]
        print(
            f"| {name}, batch {result['batch_size']} | {speed['featherlight']:.3f} | {speed['pytorch']:.3f} "
            f"| {result['speed_ratio']:.2f} | {result['wanted']['speed_ratio']} | {memory['featherlight'] / 1e9:.2f} GB "
            f"| {memory['pytorch'] / 1e9:.2f} GB | {result['memory_ratio']:.2f} | {result['wanted']['memory_ratio']} |",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

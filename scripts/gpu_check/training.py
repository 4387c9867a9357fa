"""Part `training`: whole steps of LoRA and of full training, ours beside PEFT and PyTorch: time and memory."""

import json

from . import flops
from .check import ROOT, Absent, Failed, say
from .inference import CONFIGS
from .peer import open_peer
from .rounds import Series

METHODS = ("lora", "full")
NOTES = (
    "A step: forward with dropout and drop path, cross-entropy, backward, clipping to 1, AdamW. LoRA: rank 16 on query and "
    "value, dropout 0.1, and the head. Random weights and photos.",
    "PyTorch: f32 weights under autocast, SDPA, no recomputation; photos lie on the device in f32. Ours uploads and "
    "normalises them in every step.",
    "Memory of the device: the most that tensors held at once, on both sides, and beside it what PyTorch's cache had "
    "reserved for them; neither counts the CUDA context. Main memory: PyTorch's grows over the rows, and holds the library "
    "itself.",
)


def run(check):
    folder = ROOT / "tests/goldens/beit-tiny" if check.quick else CONFIGS / "beit-large-384"
    batches, steps, rounds = ((1, 2), 3, 2) if check.quick else ((8, 32), 10, 2)
    config = json.loads((folder / "config.json").read_text())
    rows = []
    check.figures.update(
        dtype=check.dtype, model=folder.name, labels=len(config["id2label"]), steps=steps, notes=list(NOTES), rows=rows,
    )
    peer = open_peer(check)
    try:
        for method in METHODS:
            for batch in batches:
                check.need_time(5 if check.quick else 60, f"{method}, batch {batch}")
                say(f"  {method}, batch {batch}")
                row = {"method": method, "batch_size": batch, "operations_a_photo": flops.training(config, method)}
                rows.append(row)
                measure(check, peer, folder, row, steps, rounds)
    finally:
        if peer:
            peer.close()


def measure(check, peer, folder, row, steps, rounds):
    series, method, batch = Series("images_per_second"), row["method"], row["batch_size"]
    ours_works, peer_works = True, peer is not None
    for done in range(rounds):
        if done and check.remaining() < (2 if check.quick else 45):
            check.leave_out(f"{method}, batch {batch}, round {done + 1}", "out of time")
            break
        if ours_works:
            ours_works = ours(check, folder, row, series, steps)
        if peer_works:
            peer_works = theirs(check, peer, folder, row, series, steps)
    row.update(series.figures())


def ours(check, folder, row, series, steps):
    """One run of `featherlight-train bench`; whether it worked."""
    method, batch = row["method"], row["batch_size"]
    try:
        found = check.run_json(
            "featherlight-train", "bench", "--config", folder, "--method", method, "--batch-size", batch,
            "--steps", steps, "--json", "--device", check.device, "--dtype", check.dtype,
        )
    except Failed as error:
        check.fail(f"{method}, batch {batch}", str(error))
        return False
    series.add("ours", found)
    row["trainable_parameters"] = found["trainable_parameters"]
    row["ours_memory"] = memory(found)
    return True


def theirs(check, peer, folder, row, series, steps):
    """One round of the peer; whether it worked."""
    method, batch = row["method"], row["batch_size"]
    try:
        loaded = peer.ask("load_training", config=str(folder), method=method, dtype=check.dtype)
        row["pytorch_trainable_parameters"] = loaded["trainable_parameters"]
        found = peer.ask("training", batch=batch, steps=steps)
        series.add("pytorch", found)
        row["pytorch_memory"] = memory(found)
        peer.ask("free")  # ours finds the device empty
        return True
    except (Absent, Failed) as error:
        check.leave_out(f"PyTorch, {method}, batch {batch}", str(error))
        return False


def memory(found):
    return {key: value for key, value in found.items() if key.endswith("_bytes") and value is not None}

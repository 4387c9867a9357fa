#!/usr/bin/env python3
"""`scripts/gpu-check --device cpu --quick` with PyTorch beside it: every part, every table, every figure.

    tests/slow/gpu_check.py [--binaries DIR]

`./test slow` calls it after the programs are built. FEATHERLIGHT_PYTHON names a Python with torch, transformers and peft;
without it one is made in target/gpu-check-python, which takes 3 GB and some minutes.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ("torch==2.13.0", "transformers==5.23.0", "peft==0.21.2")
PARTS = ("goldens", "inference", "training", "ceiling", "profile", "service")
HEADINGS = ("Reference outputs", "Inference", "Training", "Ceiling", "Where the time goes", "Service under load",
            "Share of the matmul ceiling")


def python():
    """A Python with the peers in it."""
    given = os.environ.get("FEATHERLIGHT_PYTHON")
    if given:
        return given
    folder = ROOT / "target/gpu-check-python"
    found = folder / "bin/python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([found, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (folder / "complete").touch()
    return str(found)


def check(binaries, output, *more, **environment):
    command = [sys.executable, ROOT / "scripts/gpu-check", "--device", "cpu", "--quick", "--output", output]
    command += ["--binaries", binaries, *more]
    done = subprocess.run(command, env={**os.environ, **environment}, check=False)
    report = json.loads((output / "gpu-report.json").read_text())
    return done.returncode, report["parts"], report, (output / "gpu-report.md").read_text()


def positive(value, what):
    assert isinstance(value, (int, float)) and math.isfinite(value) and value > 0, f"{what}: {value}"


def compared(row, what):
    """A row with both sides and a ratio that is theirs."""
    for side in ("ours", "pytorch"):
        for figure in ("photos_per_second", "median_ms"):
            found = row[side][figure]
            positive(found["median"], f"{what}, {side}, {figure}")
            assert found["min"] <= found["median"] <= found["max"], f"{what}, {side}: {found}"
    positive(row["pytorch"]["ours_times_as_fast"]["median"], what)


def everything(binaries, peers):
    with tempfile.TemporaryDirectory() as temporary:
        status, parts, report, tables = check(binaries, pathlib.Path(temporary), FEATHERLIGHT_PYTHON=peers)
    for name in PARTS:
        part = parts[name]
        if part["status"] != "ok":
            # Every part must be ok: what it says of itself is the failure.
            sys.exit(f"gpu-check test: {name} is {part['status']}: {part['error']}\n" + "\n".join(part["failures"]))
    assert status == 0, status
    for heading in HEADINGS:
        assert f"\n## {heading}\n" in tables, f"no section {heading}\n{tables}"

    goldens = parts["goldens"]["figures"]
    for dtype in ("f32", "bf16", "f16"):
        same = [row for row in goldens["models"] if row["dtype"] == dtype and row["verdict"] == "same"]
        assert len(same) >= 10, f"{dtype}: {len(same)} references compared"
        for row in same:
            assert 0 <= row["difference"] <= row["tolerance"] < row["largest_logit"], row
    assert goldens["agreement"]["photos"] == 30 and goldens["agreement"]["share"] > 0.9, goldens["agreement"]
    subjects = {row["subject"] for row in goldens["training"] if row["verdict"] == "same"}
    assert subjects == {"gradients", "training run"}, subjects

    for model in parts["inference"]["figures"]["models"]:
        assert model["pytorch"]["attention"]["implementation"] == "sdpa", model
        for row in model["rows"]:
            compared(row, f"{model['model']}, batch {row['batch_size']}")
    rows = parts["training"]["figures"]["rows"]
    assert [(row["method"], row["batch_size"]) for row in rows] == [("lora", 1), ("lora", 2), ("full", 1), ("full", 2)]
    for row in rows:
        compared(row, f"{row['method']}, batch {row['batch_size']}")
        assert row["trainable_parameters"] == row["pytorch_trainable_parameters"], row
        positive(row["ours_memory"]["peak_memory_bytes"], "our memory")
    positive(parts["ceiling"]["figures"]["matmul"]["tflops"], "TFLOP/s")
    positive(parts["ceiling"]["figures"]["copy"]["gb_per_second"], "GB/s")
    for row in report["shares"]:
        positive(row["share_of_matmul"], row["what"])
    for row in parts["profile"]["figures"]["rows"]:
        assert row["ops"] and row["total_ms"] > 0, row
    assert parts["profile"]["figures"]["pytorch"][0]["profile"], "PyTorch's profile"
    for model in parts["service"]["figures"]["models"]:
        assert model["exit_status"] == 0 and [row["concurrency"] for row in model["rows"]] == [1, 16, 64], model
        for row in model["rows"]:
            assert row["errors"] == {} and row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"], row
            positive(row["photos_per_second"], "photos a second")


def one_failure(binaries, peers):
    """A part that fails leaves the others alone."""
    with tempfile.TemporaryDirectory() as temporary:
        status, parts, _, tables = check(
            binaries, pathlib.Path(temporary), "--parts", "ceiling,service",
            FEATHERLIGHT_PYTHON=peers, GPU_CHECK_FAIL="ceiling",
        )
    assert status == 1 and parts["ceiling"]["status"] == "failed" and parts["service"]["status"] == "ok", tables
    assert "GPU_CHECK_FAIL" in tables, tables


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binaries", type=pathlib.Path, default=ROOT / "target/debug")
    binaries = parser.parse_args().binaries.resolve()
    peers = python()
    everything(binaries, peers)
    one_failure(binaries, peers)
    print("gpu-check test: every part ran")


if __name__ == "__main__":
    main()

"""The report: gpu-report.json, which parts of several calls gather in, and gpu-report.md, made of it each time."""

import json
import os

from . import tables
from .check import ROOT

JSON, MARKDOWN = "gpu-report.json", "gpu-report.md"
FORMAT = 1


def read(folder):
    """The report of earlier calls, or an empty one."""
    try:
        found = json.loads((folder / JSON).read_text())
        if found.get("format") == FORMAT:
            return found
    except (OSError, ValueError):
        pass
    return {"format": FORMAT, "parts": {}}


def write(whole, folder):
    whole["shares"] = shares(whole["parts"])
    whole["losses"] = losses(whole["parts"])
    # A report is read on other machines: paths are those of the checkout.
    text = json.dumps(whole, indent=1).replace(f"{ROOT}/", "")
    put(folder / JSON, text + "\n")
    put(folder / MARKDOWN, tables.markdown(json.loads(text)))


def put(file, text):
    """Whole or not at all: a part may be ended from outside."""
    beside = file.with_name(file.name + ".partial")
    beside.write_text(text)
    os.replace(beside, file)


def alike(parts, other):
    """The parts that ran on the device of `other` and as long; a report may hold a rehearsal's."""
    if not other:
        return parts
    same = lambda part: all(part.get(key) == other.get(key) for key in ("device", "quick"))  # noqa: E731
    return {name: part for name, part in parts.items() if same(part)}


def measured(parts):
    """Every comparison: what it is, the row, and the operations of a photo."""
    inference = parts.get("inference", {}).get("figures", {})
    for model in inference.get("models", []):
        for row in model["rows"]:
            yield f"{model['model']}, forward, batch {row['batch_size']}", row, model["operations_a_photo"]
    for row in inference.get("compiled", []):
        yield f"{row['model']}, forward, batch {row['batch_size']}, beside torch.compile", row, row["operations_a_photo"]
    training = parts.get("training", {}).get("figures", {})
    for row in training.get("rows", []):
        yield f"{training['model']}, {row['method']} step, batch {row['batch_size']}", row, row["operations_a_photo"]


def shares(parts):
    """Each figure as a share of the large product's rate; see flops.py for what is counted."""
    ceiling = parts.get("ceiling", {}).get("figures", {}).get("matmul", {}).get("tflops")
    rows = []
    parts = alike(parts, parts.get("ceiling"))
    for name, row, operations in measured(parts):
        for side in ("ours", "pytorch", "compiled"):
            if side in row:
                tflops = operations * row[side]["photos_per_second"]["median"] / 1e12
                share = tflops / ceiling if ceiling else None
                rows.append({"what": name, "side": side, "tflops": tflops, "share_of_matmul": share})
    return rows


def losses(parts):
    """Where a peer is faster, the largest loss first."""
    rows = []
    for name, row, _ in measured(parts):
        for side in ("pytorch", "compiled"):
            ratio = row.get(side, {}).get("ours_times_as_fast", {}).get("median")
            if ratio is not None and ratio < 1:
                rows.append({"what": name, "peer": side, "ours_times_as_fast": ratio})
    return sorted(rows, key=lambda row: row["ours_times_as_fast"])

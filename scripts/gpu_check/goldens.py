"""Part `goldens`: are the answers right on this device, in every number format?"""

import csv
import json
import re
import struct

from .check import ROOT, Failed, last_lines

GOLDENS = ROOT / "tests/goldens"
DEMO = ROOT / "models/demo"
# Largest difference of a logit allowed in f32.
F32_TOLERANCE = 1e-3
# In the short formats: as a share of the largest logit. PyTorch 2.13 itself, on the CPU, is off by up to 6.1 % in bf16 and
# 0.9 % in f16 (both on beit-tiny-rslora, whose large factors magnify rounding; by 1.2 % and 0.15 % on beit-tiny).
SHORT_SHARES = {"bf16": 0.08, "f16": 0.01}
# The demo in bf16: the least share of photos with f32's label, and the largest lead that f32 may have had where not.
LEAST_AGREEMENT, LARGEST_MARGIN = 0.99, 0.05
DIFFERENCE = re.compile(r"largest difference (\S+) \((\S+) (\S+)\)")
NOT_SUPPORTED = re.compile(r"model_type .* is not supported")


def run(check):
    rows = check.figures["models"] = []
    for model, adapter, expected in references():
        for dtype in ("f32", *SHORT_SHARES):
            check.need_time(5, f"{expected.parent.name} {dtype}")
            row = compare(check, model, adapter, expected, dtype)
            rows.append(row)
            if row["verdict"] in ("different", "error"):
                check.fail(f"{row['reference']} {dtype}", row["detail"])
    if not any(row["verdict"] == "same" for row in rows):
        check.fail("models", "not one could be compared")
    check.figures["training"] = [row for dtype in ("f32", "bf16") for row in training(check, dtype)]
    check.figures["agreement"] = agreement(check)


def references():
    """Model folder, adapter folder or None, and reference file of every comparison that the goldens allow."""
    for folder in sorted(GOLDENS.iterdir()):
        expected = folder / "expected.safetensors"
        adapter = folder / "adapter_config.json"
        if adapter.is_file():
            yield GOLDENS / json.loads(adapter.read_text())["base_model_name_or_path"], folder, expected
        elif (folder / "config.json").is_file():
            # The same weights in another file have no reference of their own.
            yield folder, None, expected if expected.is_file() else GOLDENS / "beit-tiny/expected.safetensors"


def compare(check, model, adapter, expected, dtype):
    """One run of `featherlight verify`."""
    largest = largest_logit(expected)
    share = SHORT_SHARES.get(dtype)
    tolerance = share * largest if share else F32_TOLERANCE
    row = {
        "reference": (adapter or model).name, "dtype": dtype, "largest_logit": largest, "tolerance": tolerance,
    }
    words = ["verify", "--model", model, "--expected", expected, "--device", check.device, "--dtype", dtype]
    words += ["--tolerance", f"{tolerance:.6e}"] + (["--adapter", adapter] if adapter else [])
    try:
        done = check.run("featherlight", *words, may_fail=True)
    except Failed as error:
        return {**row, "verdict": "error", "detail": str(error)}
    found = DIFFERENCE.search(done.stdout)
    if not found:
        unsupported = NOT_SUPPORTED.search(done.stderr)
        verdict = "not supported" if unsupported else "error"
        return {**row, "verdict": verdict, "detail": unsupported.group() if unsupported else last_lines(done.stderr)}
    difference = float(found.group(1))
    row.update(difference=difference, share_of_largest_logit=difference / largest, ran_on=found.group(2))
    same = done.returncode == 0
    detail = "" if same else f"differs by {difference:.1e}, {tolerance:.1e} allowed"
    return {**row, "verdict": "same" if same else "different", "detail": detail}


def largest_logit(file):
    """The largest absolute value of `logits`."""
    with open(file, "rb") as stream:
        header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
        begin, end = header["logits"]["data_offsets"]
        stream.seek(begin, 1)
        values = struct.unpack(f"<{(end - begin) // 4}f", stream.read(end - begin))
    return max(map(abs, values))


def training(check, dtype):
    """`featherlight-train verify`, whose lines say what became of each reference."""
    words = ["verify", "--goldens", GOLDENS, "--device", check.device, "--dtype", dtype]
    try:
        done = check.run("featherlight-train", *words, may_fail=True)
    except Failed as error:
        check.fail(f"training in {dtype}", str(error))
        return []
    rows = []
    for line in done.stdout.splitlines():
        found = re.match(r"(\S+) (gradients|training run): (same|DIFFERENT|not supported): (.*)", line)
        if found:
            folder, subject, verdict, detail = found.groups()
            name = folder.rstrip("/").rsplit("/", 1)[-1]
            rows.append({"reference": name, "subject": subject, "dtype": dtype, "verdict": verdict.lower(), "detail": detail})
    if done.returncode != 0 or not any(row["verdict"] == "same" for row in rows):
        wrong = [f"{row['reference']} {row['subject']}: {row['detail']}" for row in rows if row["verdict"] == "different"]
        said = "\n".join(wrong) or last_lines(done.stdout + done.stderr)
        check.fail(f"training in {dtype}", f"featherlight-train verify ended with {done.returncode}\n{said}")
    return rows


def agreement(check):
    """The demo on real photos: how often bf16 says what f32 says, and how sure f32 was where not."""
    try:
        short, long = (predictions(check, dtype) for dtype in ("bf16", "f32"))
    except Failed as error:
        check.fail("agreement of bf16 with f32", str(error))
        return None
    if short.keys() != long.keys() or not long:
        check.fail("agreement of bf16 with f32", f"{len(short)} and {len(long)} photos were classified")
        return None
    disagreements, right = [], {"bf16": 0, "f32": 0}
    for file, (label, score, second) in sorted(long.items()):
        folder = file.split("/")[0]
        right["f32"] += label == folder
        right["bf16"] += short[file][0] == folder
        if short[file][0] != label:
            disagreements.append({"file": file, "f32": label, "bf16": short[file][0], "f32_margin": score - second})
    share = 1 - len(disagreements) / len(long)
    figures = {
        "photos": len(long), "share": share, "disagreements": disagreements,
        "accuracy": {dtype: count / len(long) for dtype, count in right.items()},
        "largest_score_difference": max(abs(short[file][1] - long[file][1]) for file in long),
        "least_share": LEAST_AGREEMENT, "largest_margin": LARGEST_MARGIN,
    }
    # Of a few photos one alone is more than a hundredth.
    few = len(disagreements) <= 1 and len(long) < 100
    if share < LEAST_AGREEMENT and not few:
        check.fail("agreement of bf16 with f32", f"{share:.2%} of {len(long)} photos, {LEAST_AGREEMENT:.0%} wanted")
    for row in disagreements:
        if row["f32_margin"] >= LARGEST_MARGIN:
            check.fail("agreement of bf16 with f32", f"{row['file']}: f32 led by {row['f32_margin']:.3f}")
    return figures


def predictions(check, dtype):
    """Label, score and the second label's score of each photo."""
    output = check.temporary / f"{dtype}.csv"
    words = ["predict", "--model", DEMO, "--input", check.photos, "--output", output, "--top-k", 2]
    check.run("featherlight", *words, "--device", check.device, "--dtype", dtype)
    with open(output, newline="") as stream:
        rows = list(csv.DictReader(stream))
    broken = [row for row in rows if row["error"]]
    if broken:
        raise Failed(f"{len(broken)} photos were not classified, the first: {broken[0]['file']}: {broken[0]['error']}")
    return {row["file"]: (row["label_1"], float(row["score_1"]), float(row["score_2"])) for row in rows}

"""Part `profile`: where the time of one forward pass goes, op by op; PyTorch's beside it, where it is there."""

from .check import ROOT, Absent, Failed, OutOfTime
from .inference import CONFIGS
from .peer import open_peer


def run(check):
    folder = ROOT / "tests/goldens/beit-tiny" if check.quick else CONFIGS / "beit-large-384"
    batches = (1, 2) if check.quick else (1, 32)
    check.figures.update(model=folder.name, dtype=check.dtype, rows=[])
    for batch in batches:
        try:
            check.need_time(3 if check.quick else 40, f"batch {batch}")
            check.figures["rows"].append(ours(check, folder, batch))
        except OutOfTime as error:
            check.leave_out(str(error), "out of time")
        except Failed as error:
            check.fail(f"batch {batch}", str(error))
    theirs(check, folder, batches)


def ours(check, folder, batch):
    words = ["bench", "--config", folder, "--batch-size", batch, "--seconds", check.seconds(2, 0.3), "--profile", "--json"]
    words += ["--device", check.device, "--dtype", check.dtype]
    measured = check.run_json("featherlight", *words)
    ops = sorted(measured["profile"], key=lambda op: -op["ms"])
    total = sum(op["ms"] for op in ops)
    forward = measured.get("forward") or [{}]
    return {"batch_size": batch, "ops": ops, "total_ms": total, "pass_median_ms": forward[0].get("median_ms")}


def theirs(check, folder, batches):
    peer = open_peer(check)
    if not peer:
        return
    with peer:
        try:
            peer.ask("load", config=str(folder), dtype=check.dtype)
            check.figures["pytorch"] = [peer.ask("profile", batch=batch) for batch in batches]
        except (Absent, Failed) as error:
            check.leave_out("PyTorch's profile", str(error))

"""Part `profile`: where the time of one forward pass goes, op by op; PyTorch's beside it, where it is there."""

import json

from .check import ROOT, Absent, Failed, OutOfTime, last_lines
from .inference import CONFIGS
from .peer import open_peer


def run(check):
    folder = ROOT / "tests/goldens/beit-tiny" if check.quick else CONFIGS / "beit-large-384"
    batches = (1, 2) if check.quick else (1, 32)
    check.figures.update(model=folder.name, dtype=check.dtype, rows=[])
    absent = None
    for batch in batches:
        try:
            check.need_time(3 if check.quick else 40, f"batch {batch}")
            check.figures["rows"].append(ours(check, folder, batch))
        except Absent as error:
            absent = error
            break
        except OutOfTime as error:
            check.leave_out(str(error), "out of time")
        except Failed as error:
            check.fail(f"batch {batch}", str(error))
    theirs(check, folder, batches)
    if absent:
        raise absent


def ours(check, folder, batch):
    words = ["bench", "--config", folder, "--batch-size", batch, "--seconds", check.seconds(2, 0.3), "--profile", "--json"]
    words += ["--device", check.device, "--dtype", check.dtype]
    done = check.run("featherlight", *words, may_fail=True)
    if done.returncode == 2 and "--profile" in done.stderr:
        raise Absent("not available in this binary: `featherlight bench --profile`")
    if done.returncode != 0:
        raise Failed(f"featherlight bench --profile ended with {done.returncode}\n{last_lines(done.stderr)}")
    measured = json.loads(done.stdout.strip().splitlines()[-1])
    ops = measured.get("profile")
    if not ops:
        raise Absent("not available in this binary: `featherlight bench --profile` printed no `profile`")
    ops = sorted(ops, key=lambda op: -op["ms"])
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

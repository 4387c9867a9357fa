"""Part `inference`: forward passes of whole models, ours beside PyTorch's."""

import json

from . import flops
from .check import ROOT, Absent, Failed, OutOfTime, last_lines, say
from .peer import open_peer
from .rounds import Series

CONFIGS = ROOT / "examples/configs"
MODELS = ("beit-large-384", "beit-base-384", "vit-base-224")
BATCHES = (1, 8, 32, 64)
# torch.compile takes a minute or more a size.
COMPILED, COMPILED_BATCHES = "beit-large-384", (1, 32)
ROUNDS = 3
# Seconds that loading may take on either side, guessed; a part ends before its time rather than in the midst of a model.
LOADING = 30
NOTES = (
    "Random weights; the number of labels is that of the config (1000 in examples/configs).",
    "Ours takes u8 photos from main memory, as the service has them: upload and normalisation count. PyTorch's lie on the "
    "device in the number format of the model already. Both copy the logits back in every pass.",
    "PyTorch: transformers' model, eval(), inference_mode, SDPA. BEiT's position-bias index is kept on the device; "
    "transformers by itself uploads it in every layer, which is slower.",
    "Rounds alternate: ours, PyTorch, ours, …; a figure is the median of the rounds' medians, the extremes beside it.",
)


def plan(check):
    """Config folders, batch sizes, seconds a measurement, rounds."""
    if check.quick:
        return [ROOT / "tests/goldens/beit-tiny", ROOT / "tests/goldens/vit-tiny"], (1, 2), 0.2, 2
    return [CONFIGS / name for name in MODELS], BATCHES, 2.0, ROUNDS


def run(check):
    folders, batches, seconds, rounds = plan(check)
    check.figures.update(dtype=check.dtype, notes=list(NOTES), models=[])
    peer = open_peer(check)
    try:
        for folder in folders:
            model(check, peer, folder, batches, seconds, rounds)
        if check.cuda and peer:
            compiled(check, peer, folders[0], COMPILED_BATCHES if not check.quick else batches, seconds)
        elif peer:
            check.leave_out("torch.compile", "its target is the GPU; on the CPU it would measure a C++ compiler")
    finally:
        if peer:
            peer.close()


def model(check, peer, folder, batches, seconds, rounds):
    """All batch sizes of one model, in rounds."""
    once = LOADING * (not check.quick) + 2 * seconds * len(batches)
    check.need_time(2 * once, folder.name)
    say(f"  {folder.name}")
    config = json.loads((folder / "config.json").read_text())
    figures = {"model": folder.name, "labels": len(config["id2label"]), "rows": []}
    figures["operations_a_photo"] = flops.forward(config)
    check.figures["models"].append(figures)
    series = {batch: Series("photos_per_second") for batch in batches}
    loaded = peer and load(check, peer, folder, figures)
    usable, working = set(batches) if loaded else set(), list(batches)
    for done in range(rounds):
        if done and check.remaining() < once:
            check.leave_out(f"{folder.name}, round {done + 1}", "out of time")
            break
        working = ours_of_all(check, folder, working, seconds, series)
        for batch in sorted(usable):
            try:
                series[batch].add("pytorch", peer.ask("inference", batch=batch, seconds=seconds))
            except Failed as error:
                usable.discard(batch)
                check.leave_out(f"PyTorch, {folder.name}, batch {batch}", str(error))
        figures["rows"] = [{"batch_size": batch, **found.figures()} for batch, found in series.items()]


def load(check, peer, folder, figures):
    try:
        figures["pytorch"] = peer.ask("load", config=str(folder), dtype=check.dtype)
        return True
    except (Absent, Failed) as error:
        check.leave_out(f"PyTorch, {folder.name}", str(error))
        return False


def ours_of_all(check, folder, batches, seconds, series):
    """Every batch size in one run; where that fails, as at the end of the memory, each by itself. Those that worked."""
    groups, working = [batches] if batches else [], []
    while groups:
        group = groups.pop(0)
        try:
            for row in ours(check, folder, group, seconds):
                series[row["batch_size"]].add("ours", row)
            working += group
        except Failed as error:
            if len(group) > 1:
                groups += [[batch] for batch in group]
            else:
                check.fail(f"{folder.name}, batch {group[0]}", str(error))
    return working


def ours(check, folder, batches, seconds):
    """One run of `featherlight bench`."""
    words = ["bench", "--config", folder, "--batch-size", ",".join(map(str, batches)), "--seconds", seconds, "--json"]
    done = check.run("featherlight", *words, "--device", check.device, "--dtype", check.dtype, may_fail=True)
    if done.returncode != 0:
        raise Failed(f"featherlight bench ended with {done.returncode}\n{last_lines(done.stderr)}")
    return json.loads(done.stdout.strip().splitlines()[-1])["forward"]


def compiled(check, peer, folder, batches, seconds):
    """`torch.compile` at its best, beside ours again. Last: it may take all the time that is left."""
    rows = check.figures["compiled"] = []
    operations = flops.forward(json.loads((folder / "config.json").read_text()))
    check.figures["compiled_mode"] = mode = "max-autotune"
    loaded = False
    for batch in batches:
        row = {"model": folder.name, "batch_size": batch, "operations_a_photo": operations}
        series = Series("photos_per_second")
        try:
            check.need_time(90, f"torch.compile, {folder.name}, batch {batch}")
            if not loaded:
                peer.ask("load", config=str(folder), dtype=check.dtype)
                loaded = True
            words = {"batch": batch, "seconds": seconds, "compile": True, "mode": mode}
            # A minute is kept for ours beside it; a compilation that takes more is given up.
            first = peer.ask("inference", limit=check.remaining() - 60, **words)
            row["compile_seconds"] = first["compile_seconds"]
            for done in range(2):
                series.add("ours", ours(check, folder, (batch,), seconds)[0])
                series.add("compiled", peer.ask("inference", **words) if done else first)
        except OutOfTime as error:
            check.leave_out(str(error), "out of time")
        except (Absent, Failed) as error:
            check.leave_out(f"torch.compile, {folder.name}, batch {batch}", str(error))
        if series.found:
            rows.append({**row, **series.figures()})

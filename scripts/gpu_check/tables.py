"""gpu-report.md: the figures of the JSON as tables for people."""

import math

from . import flops

PEERS = {"ours": "ours", "pytorch": "PyTorch", "compiled": "torch.compile"}


def markdown(whole):
    parts = whole["parts"]
    lines = ["# GPU report", "", *summary(parts)]
    for name, section in SECTIONS.items():
        part = parts.get(name)
        if part:
            lines += [f"## {TITLES[name]}", ""]
            if part["error"]:
                lines += [*quoted(f"{part['status']}: {part['error']}"), ""]
            lines += section(part["figures"])
            lines += listed("Failed", part["failures"]) + listed("Left out", part["left_out"])
            lines += listed("Notes", part["figures"].get("notes", []))
    lines += share_table(whole["shares"]) + loss_list(whole["losses"])
    return "\n".join(lines).rstrip() + "\n"


def table(head, rows):
    """A Markdown table; numbers are right-aligned."""
    if not rows:
        return []
    align = ["---" if isinstance(cell, str) and not cell[:1].isdigit() else "--:" for cell in rows[0]]
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [head, align, *cells]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def quoted(text):
    return ["```", *text.splitlines(), "```"]


def listed(title, items):
    """A list; an item of several lines shows its rest as it was printed."""
    if not items:
        return []
    lines = [f"{title}:", ""]
    for item in items:
        first, *rest = str(item).splitlines()
        lines.append(f"- {first}")
        if rest:
            lines += ["", *("  " + line for line in quoted("\n".join(rest))), ""]
    return [*lines, ""]


def number(value, digits=3):
    """Enough digits to compare with, no more."""
    if value is None:
        return "–"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.1e}"
    before = math.floor(math.log10(abs(value))) + 1 if value else 1
    return f"{value:.{max(0, digits - before)}f}"


def spread(found):
    if not found:
        return "–"
    median, least, most = (number(found[key]) for key in ("median", "min", "max"))
    return median if least == most else f"{median} ({least}…{most})"


def summary(parts):
    rows = []
    for name in SECTIONS:
        part = parts.get(name)
        if not part:
            rows.append([name, "not run", "–", "–", "–", "–", "–"])
            continue
        status = {"ok": "ok", "failed": "**FAILED**", "incomplete": "**incomplete**", "absent": "absent"}[part["status"]]
        if part["left_out"]:
            status += f", {len(part['left_out'])} left out"
        on = part["device"] + (", quick" if part["quick"] else "")
        versions = part["environment"]
        peer = part["figures"].get("peer", {}).get("versions", {})
        ours = f"{versions.get('featherlight', '?')} ({versions.get('commit', '?')})"
        peers = ", ".join(f"{key} {peer[key]}" for key in ("torch", "transformers", "peft", "cuda") if peer.get(key))
        rows.append([name, status, on, part["date"], f"{part['seconds']:.0f} s", ours, peers or "–"])
    lines = table(["part", "status", "device", "date", "took", "ours (commit)", "PyTorch"], rows)
    seen = []
    for part in parts.values():
        found = part["environment"]
        machine = ", ".join(str(found[key]) for key in ("gpu", "processor", "system") if found.get(key))
        machine += f", {found.get('cores')} cores, Python {found.get('python')}"
        if machine not in seen:
            seen.append(machine)
    return lines + listed("Machine", seen)


def goldens(figures):
    lines = table(
        ["reference", "format", "verdict", "largest difference", "share of the largest logit", "allowed"],
        [[row["reference"], row["dtype"], row["verdict"], number(row.get("difference")),
          number(row.get("share_of_largest_logit")), number(row["tolerance"])] for row in figures.get("models", [])],
    )
    lines += table(
        ["gradients and training runs", "format", "subject", "verdict", "detail"],
        [[row["reference"], row["dtype"], row["subject"], row["verdict"], row["detail"]] for row in figures.get("training", [])],
    )
    found = figures.get("agreement")
    if found:
        accuracy = found["accuracy"]
        lines += table(
            ["demo, bf16 against f32", "photos", "same label", "accuracy f32", "accuracy bf16", "largest score difference"],
            [["top-1", found["photos"], f"{found['share']:.2%}", f"{accuracy['f32']:.2%}", f"{accuracy['bf16']:.2%}",
              number(found["largest_score_difference"])]],
        )
        lines += table(
            ["other label in bf16", "f32", "bf16", "f32's lead"],
            [[row["file"], row["f32"], row["bf16"], number(row["f32_margin"])] for row in found["disagreements"]],
        )
    return lines


def comparison(row, side):
    found = row.get(side)
    return [spread(found and found["photos_per_second"]), spread(found and found["median_ms"])]


def ratio(row, side):
    found = row.get(side, {}).get("ours_times_as_fast")
    return spread(found) + (" ×" if found else "")


def inference(figures):
    lines = []
    for model in figures.get("models", []):
        lines += table(
            [f"{model['model']}, {figures['dtype']}: batch", "ours, photos/s", "a batch, ms", "PyTorch, photos/s",
             "a batch, ms", "ours is … as fast"],
            [[row["batch_size"], *comparison(row, "ours"), *comparison(row, "pytorch"), ratio(row, "pytorch")]
             for row in model["rows"]],
        )
        attention = model.get("pytorch", {}).get("attention")
        if attention:
            operators = ", ".join(attention["operators"])
            lines += [f"PyTorch's attention: `{attention['implementation']}`, which ran {operators}.", ""]
    lines += table(
        [f"torch.compile ({figures.get('compiled_mode')})", "batch", "ours, photos/s", "a batch, ms",
         "torch.compile, photos/s", "a batch, ms", "ours is … as fast", "compiling, s"],
        [[row["model"], row["batch_size"], *comparison(row, "ours"), *comparison(row, "compiled"),
          ratio(row, "compiled"), number(row.get("compile_seconds"))] for row in figures.get("compiled", [])],
    )
    return lines


def gib(memory, key):
    value = (memory or {}).get(key)
    return "–" if value is None else f"{value / 2**30:.2f}"


def training(figures):
    rows = figures.get("rows", [])
    head = f"{figures.get('model')}, {figures.get('dtype')}: step"
    speed = [[row["method"], row["batch_size"], *comparison(row, "ours"), *comparison(row, "pytorch"),
              ratio(row, "pytorch")] for row in rows]
    memory = []
    for row in rows:
        ours, peer = row.get("ours_memory"), row.get("pytorch_memory")
        memory.append([
            row["method"], row["batch_size"], gib(ours, "device_memory_bytes"), gib(peer, "max_memory_allocated_bytes"),
            gib(peer, "max_memory_reserved_bytes"), gib(ours, "peak_memory_bytes"), gib(peer, "peak_memory_bytes"),
        ])
    return table(
        [head, "batch", "ours, images/s", "a step, ms", "PyTorch, images/s", "a step, ms", "ours is … as fast"], speed
    ) + table(
        ["memory, GiB: step", "batch", "ours, device", "PyTorch, allocated", "PyTorch, reserved", "ours, main",
         "PyTorch, main"], memory
    )


def ceiling(figures):
    matmul, copy = figures.get("matmul"), figures.get("copy")
    if not matmul or not copy:
        return []
    size = matmul["size"]
    rates = [{key: found[name + suffix] for key, suffix in (("median", ""), ("min", "_min"), ("max", "_max"))}
             for found, name in ((matmul, "tflops"), (copy, "gb_per_second"))]
    return table(["ceiling", "rate", "a call, ms"], [
        [f"product {size} × {size} × {size}, {matmul['dtype']}", f"{spread(rates[0])} TFLOP/s", number(matmul["median_ms"])],
        [f"copy of {copy['bytes'] / 2**20:.0f} MiB, read and written", f"{spread(rates[1])} GB/s", number(copy["median_ms"])],
    ])


def profile(figures):
    lines = []
    for whose, rows in (("ours", figures.get("rows", [])), ("PyTorch", figures.get("pytorch", []))):
        for row in rows:
            ops = row.get("ops") or row.get("profile") or []
            total = row.get("total_ms") or sum(op["ms"] for op in ops)
            lines += table(
                [f"{figures.get('model')}, batch {row['batch_size']}, {whose}", "calls", "ms", "share"],
                [[f"`{op['op']}`", f"{op['calls']:g}", number(op["ms"]), f"{op['ms'] / total:.0%}" if total else "–"]
                 for op in ops],
            )
    return lines


def service(figures):
    lines = []
    for model in figures.get("models", []):
        lines += table(
            [f"{model['model']}: clients", "photos/s", "p50, ms", "p90, ms", "p99, ms", "answers", "errors"],
            [[row["concurrency"], number(row["photos_per_second"]), *(number(row[key]) for key in
              ("p50_ms", "p90_ms", "p99_ms")), row["answers"], sum(row["errors"].values())] for row in model["rows"]],
        )
        if "seconds_to_ready" in model:
            lines += [f"Ready after {model['seconds_to_ready']:.1f} s; exit status after SIGTERM: "
                      f"{model.get('exit_status', '–')}.", ""]
    return lines


def share_table(shares):
    if not shares:
        return []
    rows = [[row["what"], PEERS[row["side"]], number(row["tflops"]),
             "–" if row["share_of_matmul"] is None else f"{row['share_of_matmul']:.1%}"] for row in shares]
    formula = flops.__doc__.partition("\n\n")[2].rstrip().splitlines()
    return ["## Share of the matmul ceiling", "", *table(["figure", "whose", "TFLOP/s", "share"], rows),
            "Operations as counted:", "", "```", *formula, "```", ""]


def loss_list(losses):
    if not losses:
        return []
    rows = [[row["what"], PEERS[row["peer"]], f"{number(row['ours_times_as_fast'])} ×"] for row in losses[:3]]
    return ["## The largest losses", "", *table(["figure", "peer", "ours is … as fast"], rows)]


TITLES = {
    "goldens": "Reference outputs", "inference": "Inference", "training": "Training", "ceiling": "Ceiling",
    "profile": "Where the time goes", "service": "Service under load",
}
SECTIONS = {
    "goldens": goldens, "inference": inference, "training": training, "ceiling": ceiling, "profile": profile,
    "service": service,
}

"""The command line, and the parts one after the other."""

import argparse
import datetime
import importlib
import os
import pathlib
import tempfile
import time
import traceback

from . import report
from .check import ROOT, Absent, Check, Failed, OutOfTime, last_lines, say
from .environment import describe

PARTS = ("goldens", "inference", "training", "ceiling", "profile", "service")


def main(words=None):
    options = parse(words)
    options.output.mkdir(parents=True, exist_ok=True)
    whole = report.read(options.output)
    for name in options.parts:
        say(f"{name} …")
        part = run(name, options)
        whole["parts"][name] = part
        report.write(whole, options.output)
        say(f"{name}: {part['status']} ({part['seconds']:.0f} s)")
    say(f"report: {options.output / report.MARKDOWN}")
    return 1 if any(whole["parts"][name]["status"] in ("failed", "incomplete") for name in options.parts) else 0


def parse(words):
    parser = argparse.ArgumentParser(
        prog="gpu-check", description="Correctness, speed and memory of Featherlight on a GPU, in one report. FEATHERLIGHT_PYTHON names a Python "
        "with PyTorch, transformers and PEFT, where this one has none."
    )
    parser.add_argument("--device", default="cuda", type=device, help="cuda, cuda:N or cpu [default: cuda]")
    parser.add_argument("--quick", action="store_true", help="tiny models, seconds: does the check itself work?")
    parser.add_argument("--parts", default=list(PARTS), type=parts, help=f"some of {','.join(PARTS)} [default: all]")
    parser.add_argument("--binaries", type=folder, help="where the programs are [default: target/release, target/debug, dist]")
    parser.add_argument("--output", default=ROOT / "target/gpu-check", type=pathlib.Path,
                        help="for the report, which parts of other calls stay in [default: target/gpu-check]")
    parser.add_argument("--photos", default=ROOT / "tests/data/sign-digits/test", type=folder,
                        help="one folder a class, for the demo and the service [default: tests/data/sign-digits/test, 30 photos]")
    parser.add_argument("--budget-seconds", default=540, type=seconds, help="for each part, which stops before [default: 540]")
    return parser.parse_args(words)


def device(text):
    if text in ("cpu", "cuda") or (text.startswith("cuda:") and text[5:].isdigit()):
        return text
    raise argparse.ArgumentTypeError("cuda, cuda:N or cpu wanted")


def parts(text):
    names = text.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no part `{unknown[0]}`; there are {', '.join(PARTS)}")
    return [name for name in PARTS if name in names]


def folder(text):
    path = pathlib.Path(text).resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"no folder {text}")
    return path


def seconds(text):
    number = float(text)
    if not 1 <= number <= 86400:
        raise argparse.ArgumentTypeError("seconds from 1 to 86400 wanted")
    return number


def run(name, options):
    """One part, whatever becomes of it."""
    start, began = time.monotonic(), datetime.datetime.now(datetime.timezone.utc)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as temporary:
        check = Check(options, pathlib.Path(temporary))
        status, error, environment = "ok", None, {}
        try:
            environment = describe(check)
            injected(name)
            importlib.import_module(f".{name}", __package__).run(check)
        except Absent as problem:
            status, error = "absent", str(problem)
        except OutOfTime as problem:
            check.leave_out(str(problem), "out of time")
            status = "incomplete"
        except Failed as problem:
            status, error = "failed", str(problem)
        except Exception:  # noqa: BLE001 - a part may break in any way; the others must still run
            status, error = "failed", last_lines(traceback.format_exc())
    if check.failures:
        status = "failed"
    return {
        "status": status, "error": error, "failures": check.failures, "left_out": check.left_out,
        "date": began.isoformat(timespec="seconds"), "seconds": round(time.monotonic() - start, 1),
        "device": options.device, "quick": options.quick, "environment": environment, "figures": check.figures,
    }


def injected(name):
    """A failure on demand, so that a test can see that it stays alone."""
    if os.environ.get("GPU_CHECK_FAIL") == name:
        raise Failed("GPU_CHECK_FAIL asked for this failure")

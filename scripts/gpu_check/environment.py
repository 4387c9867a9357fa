"""What a part ran on: machine, device, programs, checkout, as far as they tell."""

import os
import platform
import subprocess

from .check import PROGRAMS, ROOT, Failed


def describe(check):
    found = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": commit(),
    }
    for name in PROGRAMS:
        try:
            found[name] = check.run(name, "--version", limit=20).strip().rsplit(" ", 1)[-1]
        except Failed as error:
            found[name] = f"does not run: {str(error).splitlines()[0]}"
    if check.cuda:
        index = check.device.partition(":")[2] or "0"
        query = "--query-gpu=name,driver_version,memory.total,compute_cap"
        found["gpu"] = said(["nvidia-smi", "-i", index, query, "--format=csv,noheader"]) or "nvidia-smi tells nothing"
    return found


def processor():
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit():
    """Of the checkout; where it came without git, what scripts/gpu-pack wrote down."""
    written = ROOT / "COMMIT"
    if written.is_file():
        return written.read_text().strip()
    found = said(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"])
    if not found:
        return "unknown"
    changed = said(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"])
    return f"{found}, with changes" if changed else found


def said(command):
    """What a command prints, or nothing."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""

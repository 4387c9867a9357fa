"""What a part of the check works with: the device, the programs, folders, the time left, the figures found so far."""

import functools
import glob
import json
import lzma
import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Where programs are looked for, in this order.
PLACES = ("target/release", "target/debug", "dist")
PROGRAMS = ("featherlight", "featherlight-train")
# Lines of a failed program's output that go into the report.
LAST_LINES = 12
# Folders where our programs look for CUDA's libraries first.
LIBRARIES = "FEATHERLIGHT_CUDA_LIBRARIES"


class Failed(Exception):
    """A measurement that was made and went wrong, or could not be made although it should."""


class Absent(Exception):
    """Something that is not there, so that nothing can be measured: a library, a feature of the binary."""


class OutOfTime(Exception):
    """The part's time is up."""


class Check:
    """One part under way."""

    def __init__(self, options, temporary):
        self.device = options.device
        self.quick = options.quick
        self.photos = options.photos
        self.python = os.environ.get("FEATHERLIGHT_PYTHON") or sys.executable
        self.temporary = temporary
        self.binaries = options.binaries
        self.end = time.monotonic() + options.budget_seconds
        # The part's result: goes into the report whatever happens to the part afterwards.
        self.figures = {}
        self.left_out = []
        self.failures = []

    @property
    def cuda(self):
        return self.device.startswith("cuda")

    @property
    def dtype(self):
        """What speed is measured in: the device's usual. On the CPU bf16 would measure the widening."""
        return "bf16" if self.cuda else "f32"

    def seconds(self, full, quick):
        return quick if self.quick else full

    def remaining(self):
        """Seconds left of the part's budget."""
        return self.end - time.monotonic()

    def need_time(self, seconds, what):
        """Ends the part if `what`, which takes about `seconds`, does not fit any more."""
        if self.remaining() < seconds:
            raise OutOfTime(what)

    def leave_out(self, what, why):
        self.left_out.append(f"{what}: {why}")
        say(f"    left out: {what}: {why}")

    def fail(self, what, why):
        """Notes a failure and lets the part go on with the rest."""
        self.failures.append(f"{what}: {why}")
        say(f"    FAILED: {what}: {why}")

    def program(self, name):
        """Path of a program of ours, unpacked where it travelled as NAME.xz."""
        for folder in [self.binaries] if self.binaries else [ROOT / place for place in PLACES]:
            plain, packed = folder / name, folder / f"{name}.xz"
            if plain.is_file():
                return plain
            if packed.is_file():
                # All of them: one program may start another that lies beside it.
                for other in folder.glob("featherlight*.xz"):
                    unpacked(other, self.temporary / "programs" / other.stem)
                return self.temporary / "programs" / name
        where = self.binaries or ", ".join(PLACES)
        raise Failed(f"no program `{name}` (nor {name}.xz) in {where}")

    def run(self, name, *words, limit=None, may_fail=False):
        """Runs a program of ours; its standard output. A failure carries the last lines of what it said."""
        command = [str(self.program(name)), *map(str, words)]
        limit = min(limit or 600, max(self.remaining(), 1))
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=limit,
                env=environment(self), cwd=ROOT,
            )
        except subprocess.TimeoutExpired as late:
            said = b"".join(part for part in (late.stdout, late.stderr) if part).decode(errors="replace")
            raise Failed(f"{shown(command)} did not end within {limit:.0f} s\n{last_lines(said)}") from None
        except OSError as error:
            raise Failed(f"{shown(command)} does not start: {error}") from None
        if done.returncode != 0 and not may_fail:
            raise Failed(f"{shown(command)} ended with {done.returncode}\n{last_lines(done.stdout + done.stderr)}")
        return done if may_fail else done.stdout

    def run_json(self, name, *words, **more):
        """The JSON object that a program prints last."""
        out = self.run(name, *words, **more)
        try:
            return json.loads(out.strip().splitlines()[-1])
        except (ValueError, IndexError):
            raise Failed(f"{name} {' '.join(map(str, words))} printed no JSON\n{last_lines(out)}") from None


def say(line):
    """Progress, for the person who waits."""
    print(line, file=sys.stderr, flush=True)


def shown(command):
    return " ".join([pathlib.Path(command[0]).name, *command[1:]])


def last_lines(text):
    return "\n".join(text.strip().splitlines()[-LAST_LINES:])


def unpacked(packed, target):
    if not target.is_file():
        target.parent.mkdir(exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        with lzma.open(packed) as source, open(partial, "wb") as sink:
            shutil.copyfileobj(source, sink)
        partial.chmod(0o755)
        partial.rename(target)


def environment(check):
    """Our programs' environment: no settings of FEATHERLIGHT_* that a person has made, and CUDA's libraries as PyTorch
    brings them, for a machine that has no others. Where a person named libraries, these come first."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("FEATHERLIGHT_") or name == LIBRARIES}
    if check.cuda:
        folders = [folder for folder in [os.environ.get("LD_LIBRARY_PATH")] if folder]
        ours["LD_LIBRARY_PATH"] = os.pathsep.join(folders + wheel_libraries(check.python))
    return ours


@functools.lru_cache(maxsize=None)
def wheel_libraries(python):
    """Folders with CUDA's libraries among the packages of the Python that runs the peers."""
    try:
        asked = [python, "-c", "import json, sys; print(json.dumps(sys.path))"]
        packages = json.loads(subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return []
    return sorted({lib for package in packages for lib in glob.glob(os.path.join(package, "nvidia", "*", "lib"))})

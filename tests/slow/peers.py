"""What the checks against other people's clients share: a Python with those clients, and a running service.

A Python is made once in target/peers-python with pip; FEATHERLIGHT_PEERS_PYTHON names one that has everything already.
"""

import os
import pathlib
import re
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PATIENCE = 120  # seconds: for a loaded machine; nothing here is timed
PACKAGES = ("huggingface_hub==2.4.0", "tritonclient[http]==2.73.0", "schemathesis==4.32.5")


def python():
    """A Python with the clients in it."""
    if given := os.environ.get("FEATHERLIGHT_PEERS_PYTHON"):
        return given
    folder = TARGET / "peers-python"
    complete = folder / "complete"
    wanted = "\n".join(PACKAGES)
    if not complete.exists() or complete.read_text() != wanted:
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        complete.write_text(wanted)
    return str(folder / "bin/python")


def with_clients():
    """Goes on in the Python that has the clients, where this one is another."""
    wanted = python()
    if os.path.realpath(sys.prefix) != os.path.realpath(pathlib.Path(wanted).parents[1]):
        os.execv(wanted, [wanted, *sys.argv])


class Service:
    """`featherlight serve` on a free port."""

    def __init__(self, program, *flags):
        command = [str(program), "serve", "--port", "0", *map(str, flags)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FEATHERLIGHT_")}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self.address = None
        while self.address is None:
            line = self.process.stdout.readline()
            assert line, f"{command} ended before it served"
            if found := re.search(r"http://[0-9.]+:[0-9]+", line):
                self.address = found.group()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0, "the service did not end well"

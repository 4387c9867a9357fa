"""Part `service`: the program as it is deployed, over a socket, under a closed loop of 1, 16 and 64 clients."""

import json
import re
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

from . import random_model
from .check import ROOT, Failed, OutOfTime, environment, last_lines, say
from .inference import CONFIGS

CONCURRENCY = (1, 16, 64)
NOTES = (
    "Photos: the sign-digits test photos, 100 × 100 pixels, round and round, over HTTP on the same machine. Each client "
    "sends its next photo when the last is answered.",
)


def run(check):
    check.figures.update(dtype=check.dtype, notes=list(NOTES), models=[])
    tiny = ROOT / "tests/goldens/beit-tiny"
    large = [tiny] if check.quick else [CONFIGS / "beit-base-384", CONFIGS / "beit-large-384"]
    for config in [None, *large]:
        name = f"{config.name}, random weights" if config else "demo"
        check.need_time(10 if check.quick else 90, name)
        say(f"  {name}")
        folder = ROOT / "models/demo"
        if config:
            folder = check.temporary / config.name
            random_model.write(config, folder)
        figures = {"model": name, "rows": []}
        check.figures["models"].append(figures)
        try:
            serve(check, folder, figures)
        except Failed as error:
            check.fail(name, str(error))


def serve(check, folder, figures):
    """The whole life of one service."""
    with Service(check, folder) as service:
        figures["seconds_to_ready"] = service.wait_until_ready()
        figures["info"] = service.info()
        for number, concurrency in enumerate(CONCURRENCY):
            try:
                check.need_time(3 if check.quick else 25, f"concurrency {concurrency}")
            except OutOfTime as error:
                check.leave_out(f"{figures['model']}, {error}", "out of time")
                break
            words = ["bench", "--server", service.address, "--decode", check.photos, "--concurrency", concurrency]
            if number == 0:
                check.run_json("featherlight", *words, "--seconds", check.seconds(2, 0.2), "--json")  # warms up
            row = check.run_json("featherlight", *words, "--seconds", check.seconds(10, 1), "--json")["load"]
            figures["rows"].append(row)
            if row["errors"]:
                check.fail(f"{figures['model']}, concurrency {concurrency}", f"errors: {row['errors']}")
        figures["exit_status"] = service.stop()
        if figures["exit_status"] != 0:
            check.fail(figures["model"], f"ended with {figures['exit_status']} after SIGTERM\n{service.said()}")


class Service:
    """`featherlight serve` on a port that the system chooses."""

    def __init__(self, check, folder):
        self.check = check
        self.log = tempfile.TemporaryFile("w+", errors="replace")
        words = ["serve", "--model", folder, "--port", 0, "--device", check.device, "--dtype", check.dtype]
        self.start = time.monotonic()
        self.process = subprocess.Popen(
            [str(check.program("featherlight")), *map(str, words)], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment(check), cwd=ROOT,
        )
        self.address, self.told = None, threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            found = re.search(r"http://[^\s/]+:\d+", line)
            if found and not self.address:
                self.address = found.group()
                self.told.set()
        self.told.set()

    def wait_until_ready(self):
        """Seconds from the start of the process until it is ready."""
        patience = min(180, max(self.check.remaining(), 1))
        self.told.wait(patience)
        while time.monotonic() - self.start < patience and self.process.poll() is None and self.address:
            try:
                with urllib.request.urlopen(f"{self.address}/health/ready", timeout=5):
                    return time.monotonic() - self.start
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise Failed(f"featherlight serve did not become ready (status {self.process.poll()})\n{self.said()}")

    def info(self):
        try:
            with urllib.request.urlopen(f"{self.address}/info", timeout=10) as answer:
                return json.load(answer).get("model")
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise Failed(f"/info: {error}") from None

    def stop(self):
        """The exit status after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=45)
        except subprocess.TimeoutExpired:
            return None

    def said(self):
        self.log.seek(0)
        return last_lines(self.log.read())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

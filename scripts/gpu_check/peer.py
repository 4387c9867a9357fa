"""The PyTorch side: a process that is started once a part, so that its models are loaded once, and asked over pipes."""

import json
import os
import queue
import subprocess
import tempfile
import threading

from .check import ROOT, Absent, Failed, last_lines

PROGRAM = ROOT / "benches/peers/torch_peer.py"


class Peer:
    """Answers requests, or says by [`Absent`] that PyTorch, or a library of it, is not here."""

    def __init__(self, check):
        self.check = check
        self.log = tempfile.TemporaryFile("w+", errors="replace")
        # Threads that wait for each other in turns cost tiny models all their time on a busy machine.
        threads = {"OMP_NUM_THREADS": "1"} if check.quick else {}
        try:
            self.process = subprocess.Popen(
                [check.python, str(PROGRAM), "--device", check.device], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=self.log, text=True, cwd=ROOT, env={**os.environ, **threads},
            )
        except OSError as error:
            raise Failed(f"FEATHERLIGHT_PYTHON: {check.python} cannot be started: {error}") from None
        self.lines = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()

    def _read(self, stream):
        for line in stream:
            self.lines.put(line)
        self.lines.put(None)

    def ask(self, what, limit=None, **request):
        """The answer to one request. One that is late costs the process: nothing can be asked of it any more."""
        try:
            self.process.stdin.write(json.dumps({"do": what, **request}) + "\n")
            self.process.stdin.flush()
            line = self.lines.get(timeout=max(min(limit or 600, self.check.remaining()), 1))
        except queue.Empty:
            self.close()
            raise Failed(f"PyTorch did not answer `{what}` in time") from None
        except (OSError, ValueError):  # a process that ended, or was ended
            line = None
        if line is None:
            raise Failed(f"PyTorch's process ended\n{self.said()}")
        answer = json.loads(line)
        if answer.get("absent"):
            raise Absent(f"PyTorch: {answer['error']}")
        if "error" in answer:
            raise Failed(f"PyTorch: {answer['error']}")
        return answer

    def said(self):
        self.log.seek(0)
        return last_lines(self.log.read())

    def close(self):
        """Ends the process; its memory on the device is free afterwards."""
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def open_peer(check):
    """A peer that has shown that it works, or `None`, noted as left out."""
    peer = None
    try:
        peer = Peer(check)
        check.figures["peer"] = peer.ask("info", limit=180)
    except (Absent, Failed, OSError) as error:
        if peer:
            peer.close()
        check.figures["peer"] = {"absent": str(error)}
        check.leave_out("comparison with PyTorch", str(error))
        return None
    return peer

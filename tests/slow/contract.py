#!/usr/bin/env python3
"""schemathesis against `/openapi.json`, and Prometheus' own promtool against `/metrics`, of a running service.

    tests/slow/contract.py [--program FILE] [--examples N] [--seed N]

`./test slow` calls it after the programs are built. schemathesis comes from PyPI (see peers.py); promtool is Debian's package
`prometheus`, of which the one program is unpacked into target/ where it is not on PATH and apt-get is there.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import urllib.request

import peers

MODEL = peers.ROOT / "models/demo"
CHECKS = pathlib.Path(__file__).with_name("schemathesis.toml")


def promtool():
    """Its path; fetched where that is possible."""
    found = shutil.which("promtool")
    kept = peers.TARGET / "promtool/usr/bin/promtool"
    if not found and not kept.exists() and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        folder = peers.TARGET / "promtool"
        folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            subprocess.run(["apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["apt-get", "download", "-q", "prometheus"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (package,) = folder.glob("prometheus_*.deb")
        subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
        package.unlink()
    found = found or (kept.exists() and str(kept))
    if not found:
        sys.exit("contract test: no promtool found; install Debian's package prometheus, or put promtool on PATH")
    return found


def metrics(service, occasion):
    with urllib.request.urlopen(service.address + "/metrics", timeout=peers.PATIENCE) as answer:
        text = answer.read()
    told = subprocess.run([promtool(), "check", "metrics"], input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert told.returncode == 0 and not told.stdout.strip(), f"{occasion}: {told.stdout.decode()}"
    print(f"promtool: /metrics is accepted {occasion}")


def fuzz(service, options, *flags):
    # Its own files (what it has seen, reports) go where nobody looks for them.
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            pathlib.Path(peers.python()).with_name("schemathesis"), "--config-file", CHECKS, "run", service.address + "/openapi.json",
            "--max-examples", options.examples, "--seed", options.seed, *flags,
        ]
        told = subprocess.run(list(map(str, command)), cwd=scratch, check=False)
    assert told.returncode == 0, "schemathesis has found something: see above"
    assert service.process.poll() is None, "the service has ended"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default=peers.TARGET / "debug/featherlight", metavar="FILE")
    parser.add_argument("--examples", type=int, default=8, help="requests of each kind for each operation, at most")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with peers.Service(options.program, "--model", MODEL) as service:
        metrics(service, "before the first request")
        fuzz(service, options)
        metrics(service, "after thousands")
    with peers.Service(options.program, "--model", MODEL, "--api-key", "secret") as service:
        fuzz(service, options, "--phases", "examples,coverage")
    print("contract: what is answered is what is documented")


if __name__ == "__main__":
    main()

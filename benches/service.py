#!/usr/bin/env python3
"""What the service costs over the engine it stands on, and what it does when asked for too much: `featherlight bench` in turns.

    cargo build --release
    benches/service.py --photos DIR [--model DIR] [--batch-size 8] [--turns 3] [--seconds 10]
    benches/service.py --photos DIR --overload-seconds 60 --timeout-ms 1000

Each turn measures the bare model, the same photos through decode pool and engine without HTTP, and the service under 1 and 32 clients, one
after the other, so that a machine that changes its speed changes it for all of them; every figure is the median of the turns. Prints a
ratio beside each rate. Needs Python 3.9 and nothing else; the photos should be of the size that matters to you.

Who sends three times what a machine can do needs a good part of a small machine's cores for that. `--client-core` keeps one core for the
client and leaves the others to the service and to everything that the service is compared with, as if the client were elsewhere. (Linux)
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
CLIENTS = 32


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=pathlib.Path, required=True, help="a folder of photos")
    parser.add_argument("--model", help="a model folder; without it the demo")
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "target/release/featherlight")
    parser.add_argument("--batch-size", type=int, default=8, help="the batch limit of both (8)")
    parser.add_argument("--turns", type=int, default=3, help="how often everything is measured (3)")
    parser.add_argument("--seconds", type=int, default=10, help="each measurement's length (10)")
    parser.add_argument("--overload-seconds", type=int, default=0, help="then three times the capacity for so long (0: not)")
    parser.add_argument("--timeout-ms", type=int, default=1000, help="the deadline of requests in the overload (1000)")
    parser.add_argument("--client-core", action="store_true", help="the last core is the client's, the others are the service's")
    parser.add_argument("--serve-flag", action="append", default=[], help="one more flag for `serve`, as --serve-flag=--name=value")
    return parser.parse_args()


class Bench:
    """The program and what it is measured with."""

    def __init__(self, settings):
        self.program, self.photos = str(settings.program), str(settings.photos)
        self.model = ["--model", settings.model] if settings.model else []
        self.batch_size, self.seconds = str(settings.batch_size), str(settings.seconds)
        self.flags = settings.serve_flag
        self.cores = self.client_cores = None
        if settings.client_core:
            cores = sorted(os.sched_getaffinity(0))
            self.cores, self.client_cores = set(cores[:-1]), {cores[-1]}

    def run(self, *flags, cores=None):
        command = [self.program, "bench", "--json", "--decode", self.photos, *flags]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, preexec_fn=on(cores))
        if ended.returncode != 0:
            sys.exit(f"{' '.join(command)} ended with {ended.returncode}")
        return json.loads(ended.stdout)

    def bare(self):
        model = self.model or ["--model", str(ROOT / "models/demo")]
        report = self.run(*model, "--batch-size", f"1,{self.batch_size}", "--seconds", self.seconds, cores=self.cores)
        return report["forward"], report["pipeline"]

    def load(self, address, *flags, seconds=None):
        return self.run("--server", address, "--seconds", seconds or self.seconds, *flags, cores=self.client_cores)["rows"]

    def serve(self):
        flags = ["--port", "0", "--max-batch-size", self.batch_size, *self.flags]
        return Service([self.program, "serve", *self.model, *flags], self.cores)


def on(cores):
    """What keeps a process to be started on these cores."""
    return None if cores is None else lambda: os.sched_setaffinity(0, cores)


class Service:
    """`featherlight serve` on a free port."""

    def __init__(self, command, cores):
        # The access log is written, as in production, and read by nobody unless it is the reason of a failure.
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True, preexec_fn=on(cores))
        self.address = None
        while self.address is None:
            line = self.process.stdout.readline()
            if not line:
                self.log.seek(0)
                sys.exit(f"{' '.join(command)} ended before it served:\n{self.log.read().decode()}")
            if found := re.search(r"http://[0-9.]+:[0-9]+", line):
                self.address = found.group()

    def __enter__(self):
        return self.address

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def turn(bench):
    """One round of everything but the overload."""
    forward, pipeline = bench.bare()
    with bench.serve() as address:
        one, many = bench.load(address, "--concurrency", f"1,{CLIENTS}")
    server = one["server"]
    return {
        "forward": forward[-1]["photos_per_second"],
        "pipeline": pipeline["photos_per_second"],
        "service": many["photos_per_second"],
        "mean_batch": many["server"]["mean_batch"],
        "many_p50_ms": many["p50_ms"],
        "many_p99_ms": many["p99_ms"],
        "errors": sum(many["errors"].values()) + sum(one["errors"].values()),
        "service/forward": many["photos_per_second"] / forward[-1]["photos_per_second"],
        "service/pipeline": many["photos_per_second"] / pipeline["photos_per_second"],
        "one_p50_ms": one["p50_ms"],
        # Means of the same requests: the photos differ in size, so a sum of medians would be of none of them.
        "one_decode_ms": server["decode_ms"]["mean"],
        "one_inference_ms": server["inference_ms"]["mean"],
        "one_added_ms": 1000 / one["photos_per_second"] - server["decode_ms"]["mean"] - server["inference_ms"]["mean"],
    }


def overload(bench, settings, capacity, idle_ms):
    """Three times the capacity, and how soon a photo takes its usual time again."""
    with bench.serve() as address:
        bench.load(address, "--concurrency", str(CLIENTS), seconds="3")
        flags = ["--rate", f"{3 * capacity:.0f}", "--timeout-ms", str(settings.timeout_ms)]
        (row,) = bench.load(address, *flags, seconds=str(settings.overload_seconds))
        recovered = recovery(address, sorted(settings.photos.iterdir())[0].read_bytes(), idle_ms)
    memory = row["server"]["memory_bytes"]
    print(f"overload at {3 * capacity:.0f} photos/s for {settings.overload_seconds} s, deadline {settings.timeout_ms} ms:")
    print(f"  goodput        {row['photos_per_second']:.1f} photos/s, {row['photos_per_second'] / capacity:.3f} of the capacity")
    print(f"  accepted       p50 {row['p50_ms']} ms, p99 {row['p99_ms']} ms, max {row['max_ms']} ms")
    refused = row["refused"]
    print(f"  refused        {refused['answers']}, p50 {refused['p50_ms']} ms, p99 {refused['p99_ms']} ms, max {refused['max_ms']} ms")
    print(f"  errors         {row['errors']}, unsent {row.get('unsent')}, sent late (p99) {row.get('late_p99_ms')} ms")
    print("  memory         " + ", ".join(f"{name} {value / 1e6:.0f} MB" for name, value in memory.items()))
    print(f"  usual again    {recovered:.2f} s after the last request")


def recovery(address, photo, idle_ms):
    """Seconds until a single photo takes at most twice its usual time."""
    begin = time.monotonic()
    while True:
        start = time.monotonic()
        request = urllib.request.Request(f"{address}/classify", photo, {"content-type": "image/jpeg"})
        try:
            urllib.request.urlopen(request, timeout=30).read()
            # A connection of its own is the request's, so a little is allowed for it.
            if (time.monotonic() - start) * 1000 <= 2 * idle_ms + 5:
                return start - begin
        except urllib.error.HTTPError as refused:
            refused.read()
        if start - begin > 60:
            return float("inf")


def main():
    settings = arguments()
    bench = Bench(settings)
    turns = []
    for number in range(settings.turns):
        turns.append(turn(bench))
        print(f"turn {number + 1}: " + ", ".join(f"{name} {value:.3f}" for name, value in turns[-1].items()), flush=True)
    median = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    print("\nmedians:")
    for name, value in median.items():
        print(f"  {name:<18} {value:.3f}")
    if settings.overload_seconds:
        print()
        overload(bench, settings, median["service"], median["one_p50_ms"])


if __name__ == "__main__":
    main()

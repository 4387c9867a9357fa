#!/usr/bin/env python3
"""Checks a build with `--features cuda` on a machine without a GPU.

    tests/slow/cuda_build.py FOLDER      the folder of the programs, target/debug say

- The programs are linked to none of CUDA's libraries, and the list of CUDA's functions holds all that cudarc can call.
- Without a driver they start and work; what asks for CUDA ends in one line that names the driver.
- With a driver and libraries made for the purpose (fake_cuda.c): devices are found; what fails ends in one line.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent
PROGRAMS = ["featherlight", "featherlight-train"]
CUDA = re.compile(r"lib(cuda|cublas|cublasLt|curand|nvrtc|cudart)\.so")
FAKED = ["cuda", "cublas", "cublasLt", "curand"]

failures = []


def check(what, right, detail=""):
    print(("ok      " if right else "FAILED  ") + what)
    if not right:
        failures.append(what)
        print(str(detail).strip())


def run(*command, **environment):
    """Runs a command in an environment that names no library of CUDA."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FEATHERLIGHT_", "LD_"))}
    return subprocess.run(
        [str(word) for word in command], env=clean | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def linked(folder):
    for program in PROGRAMS:
        dynamic = run("readelf", "-d", folder / program).stdout
        needed = re.findall(r"NEEDED.*\[(.*)\]", dynamic)
        check(f"{program} is linked to none of CUDA's libraries", needed and not any(map(CUDA.match, needed)), needed)
        symbols = run("readelf", "--dyn-syms", "--wide", folder / program).stdout
        shown = re.findall(r" (cu[A-Z]\w*|cublas\w*|curand\w*|nvrtc\w*)$", symbols, re.MULTILINE)
        check(f"{program} shows no stand-in to the libraries", not shown, shown)
        # What stands in for CUDA's functions, as proof that this is a build with CUDA.
        stand_ins = run("readelf", "--symbols", "--wide", folder / program).stdout
        check(f"{program} has CUDA in it", re.search(r" cuInit$", stand_ins, re.MULTILINE), "no stand-in of cuInit")
    symbols = run(CHECKOUT / "scripts/cuda-symbols", "--check")
    check("the list of CUDA's functions is complete", symbols.returncode == 0, symbols.stderr)


def one_line(ran):
    return len(ran.stderr.strip().splitlines()) == 1


def without_a_driver(folder):
    searched = run(folder / "featherlight", "--version", LD_DEBUG="libs")
    looked_for = [line for line in searched.stderr.splitlines() if "find library=" in line and CUDA.search(line)]
    check("featherlight starts, and looks for no library of CUDA", searched.returncode == 0 and not looked_for, looked_for)
    inspected = run(folder / "featherlight", "inspect")
    told = inspected.returncode == 0 and "libcuda.so.1" in inspected.stdout
    check("inspect works, and says why there is no CUDA device", told, inspected.stdout + inspected.stderr)
    trained = run(folder / "featherlight-train", "--version")
    check("featherlight-train starts", trained.returncode == 0, trained.stderr)
    commands(folder, "without a driver", {}, "libcuda.so.1")


def commands(folder, case, environment, reason):
    """What `--device` does where no CUDA device can be used."""
    golden = CHECKOUT / "tests/goldens/beit-tiny"
    verify = [folder / "featherlight", "verify", "--model", golden, "--expected", golden / "expected.safetensors"]
    ran = run(*verify, "--device", "cuda", **environment)
    check(
        f"{case}: --device cuda ends in one line with the reason",
        ran.returncode == 1 and one_line(ran) and reason in ran.stderr,
        f"exit {ran.returncode}: {ran.stderr}",
    )
    ran = run(*verify, "--device", "auto", **environment)
    lines = [line for line in ran.stderr.splitlines() if reason in line]
    check(
        f"{case}: --device auto runs on the CPU and says why in one line",
        ran.returncode == 0 and len(lines) == 1,
        f"exit {ran.returncode}: {ran.stdout}{ran.stderr}",
    )
    ran = run(*verify, "--device", "cpu", **environment)
    check(f"{case}: --device cpu says nothing of CUDA", ran.returncode == 0 and reason not in ran.stderr, ran.stderr)


def beside_fakes(folder):
    text = (CHECKOUT / "src/ops/device/libraries.rs").read_text()
    check("the fakes have the libraries' names", all(f'"lib{name}.so.' in text for name in FAKED), FAKED)
    with tempfile.TemporaryDirectory() as fakes:
        first = pathlib.Path(fakes) / "libcuda.so.1"
        flags = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", first]
        subprocess.run(["cc", *flags, CHECKOUT / "tests/slow/fake_cuda.c"], check=True)
        # A driver and no libraries.
        if not any(CUDA.search(line) for line in run("ldconfig", "-p").stdout.splitlines() if "libcublas" in line):
            commands(folder, "a driver alone", {"FEATHERLIGHT_CUDA_LIBRARIES": fakes}, "libcublas")
        real_libraries(folder, fakes)
        for name in FAKED[1:]:
            for major in [10, 12, 13]:
                shutil.copy(first, pathlib.Path(fakes) / f"lib{name}.so.{major}")
        here = {"FEATHERLIGHT_CUDA_LIBRARIES": fakes, "FAKE_CUDA_DEVICES": "0"}
        commands(folder, "a driver without a device", here, "no CUDA device")
        here["FAKE_CUDA_DEVICES"] = "1"
        commands(folder, "an older driver", {**here, "FAKE_CUDA_VERSION": "11040"}, "for CUDA 11.4")
        commands(folder, "an older card", {**here, "FAKE_CUDA_MAJOR": "7"}, "compute capability 7.0")


def real_libraries(folder, fakes):
    """NVIDIA's own libraries, of the toolkit that this was built with, load beside the fake driver."""
    home = os.environ.get("CUDA_HOME")
    if not home:
        print("skipped the toolkit's own libraries: CUDA_HOME names no toolkit")
        return
    golden = CHECKOUT / "tests/goldens/beit-tiny"
    asked = ["--model", golden, "--expected", golden / "expected.safetensors", "--device", "cuda:5"]
    folders = f"{fakes}:{home}/lib64"
    ran = run(folder / "featherlight", "verify", *asked, FEATHERLIGHT_CUDA_LIBRARIES=folders, FAKE_CUDA_DEVICES="1")
    check(
        "the toolkit's own libraries load, and the devices there are get named",
        ran.returncode == 1 and one_line(ran) and "cuda:0 (Fake 40)" in ran.stderr,
        f"exit {ran.returncode}: {ran.stderr}",
    )


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1]).resolve()
    linked(folder)
    if CUDA.search("\n".join(line for line in run("ldconfig", "-p").stdout.splitlines() if "libcuda.so" in line)):
        print("        (this machine has a driver: what happens without one is not checked)")
    else:
        without_a_driver(folder)
    beside_fakes(folder)
    if failures:
        sys.exit(f"{len(failures)} failed")


if __name__ == "__main__":
    main()

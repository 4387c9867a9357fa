#!/usr/bin/env bash
# Compiles our kernels and those of candle that the programs use for compute capability 8.0, 8.9 and 9.0, each in both ways: the source
# for that capability (CUDA_COMPUTE_CAP), and the PTX for 8.0, which a build holds by default, as the driver of such a card
# compiles it when the program starts. Needs nvcc and ptxas on PATH, and candle's sources (`cargo fetch`).
set -euo pipefail
cd "$(dirname "$0")/../.."

host=$(rustc -vV | sed -n 's/^host: //p')
sources=$(cargo metadata --format-version=1 --locked --features cuda --filter-platform "$host" |
  python3 -c 'import json, os, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "candle-kernels":
        print(os.path.dirname(package["manifest_path"]) + "/src")')
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

compiled=0
for capability in 80 89 90; do
  for source in "$sources"/*.cu; do
    kernel=$(basename "$source" .cu)
    # The kernels for quantised weights that are left out of the programs (src/ops/device/trampolines.rs).
    case "$kernel" in moe_* | mmvq_gguf | mmq_*) continue ;; esac
    ptx=$out/$kernel.$capability.ptx
    # candle-kernels' own flags.
    nvcc --ptx -arch="sm_$capability" --expt-relaxed-constexpr -std=c++17 -O3 --default-stream per-thread -I "$sources" \
      -o "$ptx" "$source"
    ptxas -arch="sm_$capability" -o "$out/cubin" "$ptx"
    ptxas -arch="sm_$capability" -o "$out/cubin" "$out/$kernel.80.ptx"
    compiled=$((compiled + 1))
  done
  for source in src/ops/*.cu; do
    kernel=own_$(basename "$source" .cu)
    ptx=$out/$kernel.$capability.ptx
    # build.rs's flags.
    nvcc --ptx -arch="sm_$capability" -std=c++17 -O3 -o "$ptx" "$source"
    ptxas -arch="sm_$capability" -o "$out/cubin" "$ptx"
    ptxas -arch="sm_$capability" -o "$out/cubin" "$out/$kernel.80.ptx"
    compiled=$((compiled + 1))
  done
  echo "compute capability ${capability%?}.${capability#?}: every kernel compiles"
done
[ "$compiled" -ge 39 ] || { echo "only $compiled kernels were found" >&2; exit 1; }

// Enough of CUDA to run the project's kernels on the CPU: a thread for every thread of a block, one block after the other,
// and shuffles that meet at a barrier of their warp. Kernels see the same indices and the same arithmetic; speed and memory
// order are not emulated.
#pragma once

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#define __device__
#define __global__

struct float2 {
  float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

struct Index {
  unsigned x, y, z;
};

inline thread_local Index threadIdx, blockIdx, blockDim;

struct Warp {
  std::barrier<> meet{32};
  float values[32];
};

inline thread_local Warp *warp;

inline float __shfl_xor_sync(unsigned, float value, int lane) {
  warp->values[threadIdx.x] = value;
  warp->meet.arrive_and_wait();
  const float other = warp->values[threadIdx.x ^ lane];
  warp->meet.arrive_and_wait();
  return other;
}

// A grid of blocks of `width` × `height` threads; a row of 32 is a warp.
inline void launch(unsigned blocks, unsigned width, unsigned height, const std::function<void()> &kernel) {
  for (unsigned block = 0; block < blocks; ++block) {
    std::vector<std::unique_ptr<Warp>> warps;
    for (unsigned y = 0; y < height; ++y) warps.push_back(std::make_unique<Warp>());
    std::vector<std::thread> threads;
    for (unsigned y = 0; y < height; ++y) {
      for (unsigned x = 0; x < width; ++x) {
        threads.emplace_back([&, x, y] {
          threadIdx = {x, y, 0};
          blockIdx = {block, 0, 0};
          blockDim = {width, height, 1};
          warp = warps[y].get();
          kernel();
        });
      }
    }
    for (auto &thread : threads) thread.join();
  }
}

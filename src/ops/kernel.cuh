// What the CUDA kernels share: number formats, and sums over a warp.
//
// Every kernel exists for f32, f16 and bf16 values and computes in f32. A kernel over rows gives each row to one warp
// (blockDim.x is 32, blockDim.y rows a block), so that rows need no shared memory and no barrier.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stddef.h>
#include <stdint.h>

__device__ inline float wide(float value) { return value; }
__device__ inline float wide(__half value) { return __half2float(value); }
__device__ inline float wide(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T> __device__ inline T narrow(float value);
template <> __device__ inline float narrow<float>(float value) { return value; }
template <> __device__ inline __half narrow<__half>(float value) { return __float2half(value); }
template <> __device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float value) { return __float2bfloat16(value); }

__device__ inline float warp_sum(float value) {
  for (int lane = 16; lane > 0; lane >>= 1) value += __shfl_xor_sync(0xffffffffu, value, lane);
  return value;
}

__device__ inline float warp_max(float value) {
  for (int lane = 16; lane > 0; lane >>= 1) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, lane));
  return value;
}

// The row of this warp; a kernel returns where it is not below the number of rows.
__device__ inline size_t warp_row() { return (size_t)blockIdx.x * blockDim.y + threadIdx.y; }

// The value of this thread, in kernels over single values.
__device__ inline size_t thread_index() { return (size_t)blockIdx.x * blockDim.x + threadIdx.x; }

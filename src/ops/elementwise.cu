// Kernels over single values: dropout.rs, gelu.rs, linear.rs and residual.rs.
#include "kernel.cuh"

// randomness.rs, indexed_uniform: SplitMix64 entered at `index`.
__device__ inline float indexed_uniform(uint64_t key, uint64_t index) {
  uint64_t word = key + (index + 1) * 0x9e3779b97f4a7c15ull;
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9ull;
  word = (word ^ (word >> 27)) * 0x94d049bb133111ebull;
  word ^= word >> 31;
  return (float)(word >> 40) * (1.0f / 16777216.0f);
}

template <typename T>
__device__ inline void dropout(T *y, const T *x, uint64_t key, float probability, float factor, size_t count) {
  const size_t i = thread_index();
  if (i >= count) return;
  y[i] = indexed_uniform(key, i) >= probability ? narrow<T>(wide(x[i]) * factor) : narrow<T>(0.0f);
}

// d/dx x·Φ(x) = Φ(x) + x·φ(x).
template <typename T>
__device__ inline void gelu_backward(T *grad_x, const T *x, const T *grad, size_t count) {
  const size_t i = thread_index();
  if (i >= count) return;
  const float value = wide(x[i]);
  const float distribution = 0.5f + 0.5f * erff(value * 0.70710678f);
  const float density = 0.39894228f * expf(-0.5f * value * value);
  grad_x[i] = narrow<T>(wide(grad[i]) * (distribution + value * density));
}

// x + factor · scale ∘ y; without x (its gradient to y) the sum's second part. The scale, one a column, and the factors,
// one a sample, may be absent.
template <typename T>
__device__ inline void residual(T *out, const T *x, const T *y, const T *scale, const float *factors, float factor,
                                size_t count, unsigned hidden, size_t sample_size) {
  const size_t i = thread_index();
  if (i >= count) return;
  if (factors != nullptr) factor = factors[i / sample_size];
  float value = wide(y[i]) * factor;
  if (scale != nullptr) value *= wide(scale[i % hidden]);
  if (x != nullptr) value += wide(x[i]);
  out[i] = narrow<T>(value);
}

// x + bias, one bias a column.
template <typename T>
__device__ inline void add_bias(T *out, const T *x, const T *bias, size_t count, unsigned columns) {
  const size_t i = thread_index();
  if (i >= count) return;
  out[i] = narrow<T>(wide(x[i]) + wide(bias[i % columns]));
}

#define ELEMENTWISE(T, NAME)                                                                                       \
  extern "C" __global__ void dropout_##NAME(T *y, const T *x, uint64_t key, float probability, float factor,      \
                                            size_t count) {                                                       \
    dropout<T>(y, x, key, probability, factor, count);                                                            \
  }                                                                                                                \
  extern "C" __global__ void add_bias_##NAME(T *out, const T *x, const T *bias, size_t count, unsigned columns) { \
    add_bias<T>(out, x, bias, count, columns);                                                                    \
  }                                                                                                                \
  extern "C" __global__ void gelu_backward_##NAME(T *grad_x, const T *x, const T *grad, size_t count) {           \
    gelu_backward<T>(grad_x, x, grad, count);                                                                     \
  }                                                                                                                \
  extern "C" __global__ void residual_##NAME(T *out, const T *x, const T *y, const T *scale, const float *factors, \
                                             float factor, size_t count, unsigned hidden, size_t sample_size) {   \
    residual<T>(out, x, y, scale, factors, factor, count, hidden, sample_size);                                   \
  }

ELEMENTWISE(float, f32)
ELEMENTWISE(__half, f16)
ELEMENTWISE(__nv_bfloat16, bf16)

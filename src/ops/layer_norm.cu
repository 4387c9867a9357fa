// Layer normalisation over rows, a warp a row; see layer_norm.rs.
#include "kernel.cuh"

// Mean and inverse deviation of a row.
template <typename T>
__device__ inline float2 moments(const T *row, float eps, unsigned hidden) {
  float sum = 0.0f;
  for (unsigned i = threadIdx.x; i < hidden; i += 32) sum += wide(row[i]);
  const float mean = warp_sum(sum) / hidden;
  float squares = 0.0f;
  for (unsigned i = threadIdx.x; i < hidden; i += 32) {
    const float centred = wide(row[i]) - mean;
    squares += centred * centred;
  }
  return make_float2(mean, 1.0f / sqrtf(warp_sum(squares) / hidden + eps));
}

template <typename T>
__device__ inline void forward(T *y, const T *x, const T *weight, const T *bias, float eps, size_t rows,
                               unsigned hidden) {
  if (warp_row() >= rows) return;
  const size_t start = warp_row() * hidden;
  const float2 moment = moments(x + start, eps, hidden);
  for (unsigned i = threadIdx.x; i < hidden; i += 32) {
    const float normalized = (wide(x[start + i]) - moment.x) * moment.y;
    y[start + i] = narrow<T>(normalized * wide(weight[i]) + wide(bias[i]));
  }
}

// The gradient of x alone.
template <typename T>
__device__ inline void backward(T *grad_x, const T *x, const T *weight, const T *grad, float eps, size_t rows,
                                unsigned hidden) {
  if (warp_row() >= rows) return;
  const size_t start = warp_row() * hidden;
  const float2 moment = moments(x + start, eps, hidden);
  float sum = 0.0f, products = 0.0f;
  for (unsigned i = threadIdx.x; i < hidden; i += 32) {
    const float scaled = wide(grad[start + i]) * wide(weight[i]);
    sum += scaled;
    products += scaled * (wide(x[start + i]) - moment.x) * moment.y;
  }
  const float mean_grad = warp_sum(sum) / hidden, mean_product = warp_sum(products) / hidden;
  for (unsigned i = threadIdx.x; i < hidden; i += 32) {
    const float scaled = wide(grad[start + i]) * wide(weight[i]);
    const float normalized = (wide(x[start + i]) - moment.x) * moment.y;
    grad_x[start + i] = narrow<T>(moment.y * (scaled - mean_grad - normalized * mean_product));
  }
}

#define LAYER_NORM(T, NAME)                                                                                        \
  extern "C" __global__ void layer_norm_##NAME(T *y, const T *x, const T *weight, const T *bias, float eps,        \
                                               size_t rows, unsigned hidden) {                                    \
    forward<T>(y, x, weight, bias, eps, rows, hidden);                                                            \
  }                                                                                                                \
  extern "C" __global__ void layer_norm_backward_##NAME(T *grad_x, const T *x, const T *weight, const T *grad,    \
                                                        float eps, size_t rows, unsigned hidden) {                \
    backward<T>(grad_x, x, weight, grad, eps, rows, hidden);                                                      \
  }

LAYER_NORM(float, f32)
LAYER_NORM(__half, f16)
LAYER_NORM(__nv_bfloat16, bf16)

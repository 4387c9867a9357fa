// The softmax between attention's two products, forward and backward, a warp a row of scores; see composed_attention.rs.
#include "kernel.cuh"

// softmax(scores + bias). Rows are those of [samples, heads, tokens, tokens]; the bias, f32 and maybe absent, is
// [matrices, tokens, tokens]: a matrix a head, or a head of each window, taken in turn. May run in place.
template <typename T>
__device__ inline void probabilities(T *out, const T *scores, const float *bias, size_t rows,
                                     unsigned matrices, unsigned tokens) {
  const size_t row = warp_row();
  if (row >= rows) return;
  scores += row * tokens;
  out += row * tokens;
  const size_t place = row % ((size_t)matrices * tokens);
  const float *row_bias = bias == nullptr ? nullptr : bias + place * tokens;
  float largest = -INFINITY;
  for (unsigned i = threadIdx.x; i < tokens; i += 32) {
    const float score = wide(scores[i]) + (row_bias == nullptr ? 0.0f : row_bias[i]);
    largest = fmaxf(largest, score);
  }
  largest = warp_max(largest);
  float sum = 0.0f;
  for (unsigned i = threadIdx.x; i < tokens; i += 32) {
    const float score = wide(scores[i]) + (row_bias == nullptr ? 0.0f : row_bias[i]);
    sum += expf(score - largest);
  }
  sum = warp_sum(sum);
  for (unsigned i = threadIdx.x; i < tokens; i += 32) {
    const float score = wide(scores[i]) + (row_bias == nullptr ? 0.0f : row_bias[i]);
    out[i] = narrow<T>(expf(score - largest) / sum);
  }
}

// The gradient of the scores: p ∘ (dp − Σ dp ∘ p).
template <typename T>
__device__ inline void score_gradients(T *out, const T *p, const T *grad, size_t rows,
                                       unsigned tokens) {
  const size_t row = warp_row();
  if (row >= rows) return;
  const size_t start = row * tokens;
  float dot = 0.0f;
  for (unsigned i = threadIdx.x; i < tokens; i += 32) dot += wide(grad[start + i]) * wide(p[start + i]);
  dot = warp_sum(dot);
  for (unsigned i = threadIdx.x; i < tokens; i += 32) {
    out[start + i] = narrow<T>(wide(p[start + i]) * (wide(grad[start + i]) - dot));
  }
}

#define ATTENTION(T, NAME)                                                                                         \
  extern "C" __global__ void probabilities_##NAME(T *out, const T *scores, const float *bias,                     \
                                                  size_t rows, unsigned matrices, unsigned tokens) {                 \
    probabilities<T>(out, scores, bias, rows, matrices, tokens);                                              \
  }                                                                                                                \
  extern "C" __global__ void score_gradients_##NAME(T *out, const T *p, const T *grad, size_t rows, \
                                                    unsigned tokens) {                                            \
    score_gradients<T>(out, p, grad, rows, tokens);                                                        \
  }

ATTENTION(float, f32)
ATTENTION(__half, f16)
ATTENTION(__nv_bfloat16, bf16)

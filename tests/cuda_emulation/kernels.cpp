// The project's CUDA kernels, run on the CPU and compared with their formulas in double precision. Prints a line a
// comparison; exits with 1 where one differs. `kernels uniform KEY` prints the dropout kernel's numbers instead.
#include "emulation.hpp"

#include "../../src/ops/attention.cu"
namespace layer_norm_file {
#include "../../src/ops/layer_norm.cu"
}
#include "../../src/ops/elementwise.cu"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

using namespace layer_norm_file;

static bool failed = false;

static double next_random() {
  static uint64_t state = 88172645463325252ull;
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (double)(state >> 11) / 9007199254740992.0 * 4.0 - 2.0;
}

// Random values as the format holds them.
template <typename T> std::vector<T> random_values(size_t count) {
  std::vector<T> values(count);
  for (auto &value : values) value = narrow<T>((float)next_random());
  return values;
}

// `poison` values: a kernel must write every one.
template <typename T> std::vector<T> poison(size_t count) { return std::vector<T>(count, narrow<T>(NAN)); }

template <typename T>
void compare(const char *name, const char *format, double tolerance, const std::vector<T> &found,
             const std::function<double(size_t)> &want) {
  double worst = 0.0;
  for (size_t i = 0; i < found.size(); ++i) {
    const double difference = std::fabs((double)wide(found[i]) - want(i)) / std::max(1.0, std::fabs(want(i)));
    worst = difference <= worst ? worst : difference; // a NaN stays
    if (std::isnan(difference)) worst = difference;
  }
  const bool same = worst <= tolerance;
  failed |= !same;
  std::printf("%s %s: %g (at most %g): %s\n", name, format, worst, tolerance, same ? "same" : "DIFFERENT");
}

static unsigned blocks_of(size_t work, unsigned a_block) { return (unsigned)((work + a_block - 1) / a_block); }

template <typename T> struct Kernels;
#define KERNELS(T, NAME)                                                         \
  template <> struct Kernels<T> {                                                \
    static constexpr const char *name = #NAME;                                   \
    static constexpr auto layer_norm = layer_norm_##NAME;                        \
    static constexpr auto layer_norm_backward = layer_norm_backward_##NAME;      \
    static constexpr auto probabilities = probabilities_##NAME;                  \
    static constexpr auto score_gradients = score_gradients_##NAME;              \
    static constexpr auto dropout = dropout_##NAME;                              \
    static constexpr auto add_bias = add_bias_##NAME;                            \
    static constexpr auto gelu_backward = gelu_backward_##NAME;                  \
    static constexpr auto residual = residual_##NAME;                            \
  };
KERNELS(float, f32)
KERNELS(__half, f16)
KERNELS(__nv_bfloat16, bf16)

template <typename T> void layer_norms(double tolerance) {
  const size_t rows = 11;
  const unsigned hidden = 70;
  const float eps = 1e-5f;
  auto x = random_values<T>(rows * hidden), grad = random_values<T>(rows * hidden);
  auto weight = random_values<T>(hidden), bias = random_values<T>(hidden);
  auto y = poison<T>(rows * hidden), grad_x = y;
  launch(blocks_of(rows, 4), 32, 4, [&] {
    Kernels<T>::layer_norm(y.data(), x.data(), weight.data(), bias.data(), eps, rows, hidden);
  });
  launch(blocks_of(rows, 4), 32, 4, [&] {
    Kernels<T>::layer_norm_backward(grad_x.data(), x.data(), weight.data(), grad.data(), eps, rows, hidden);
  });
  std::vector<double> mean(rows), inverse(rows), mean_grad(rows), mean_product(rows);
  auto normalized = [&](size_t i) { return (wide(x[i]) - mean[i / hidden]) * inverse[i / hidden]; };
  for (size_t r = 0; r < rows; ++r) {
    double sum = 0, squares = 0;
    for (unsigned i = 0; i < hidden; ++i) sum += wide(x[r * hidden + i]);
    mean[r] = sum / hidden;
    for (unsigned i = 0; i < hidden; ++i) squares += std::pow(wide(x[r * hidden + i]) - mean[r], 2);
    inverse[r] = 1 / std::sqrt(squares / hidden + eps);
    for (unsigned i = 0; i < hidden; ++i) {
      const double scaled = (double)wide(grad[r * hidden + i]) * wide(weight[i]);
      mean_grad[r] += scaled / hidden;
      mean_product[r] += scaled * normalized(r * hidden + i) / hidden;
    }
  }
  compare<T>("layer_norm", Kernels<T>::name, tolerance, y,
             [&](size_t i) { return normalized(i) * wide(weight[i % hidden]) + wide(bias[i % hidden]); });
  compare<T>("layer_norm_backward", Kernels<T>::name, tolerance, grad_x, [&](size_t i) {
    const double scaled = (double)wide(grad[i]) * wide(weight[i % hidden]);
    return inverse[i / hidden] * (scaled - mean_grad[i / hidden] - normalized(i) * mean_product[i / hidden]);
  });
}

template <typename T> void attention(double tolerance, bool with_bias) {
  const unsigned samples = 2, heads = 3, tokens = 37;
  const size_t rows = (size_t)samples * heads * tokens, count = rows * tokens;
  auto scores = random_values<T>(count), grad = random_values<T>(count);
  auto bias = random_values<float>((size_t)heads * tokens * tokens);
  auto p = poison<T>(count), grad_scores = p;
  launch(blocks_of(rows, 8), 32, 8, [&] {
    Kernels<T>::probabilities(p.data(), scores.data(), with_bias ? bias.data() : nullptr, rows, heads, tokens);
  });
  launch(blocks_of(rows, 8), 32, 8, [&] {
    Kernels<T>::score_gradients(grad_scores.data(), p.data(), grad.data(), rows, tokens);
  });
  auto exponential = [&](size_t i) {
    const size_t place = i % ((size_t)heads * tokens * tokens);
    return std::exp((double)wide(scores[i]) + (with_bias ? bias[place] : 0.0f));
  };
  std::vector<double> sum(rows), dot(rows);
  for (size_t i = 0; i < count; ++i) {
    sum[i / tokens] += exponential(i);
    dot[i / tokens] += (double)wide(p[i]) * wide(grad[i]);
  }
  compare<T>(with_bias ? "probabilities with bias" : "probabilities", Kernels<T>::name, tolerance, p,
             [&](size_t i) { return exponential(i) / sum[i / tokens]; });
  compare<T>("score_gradients", Kernels<T>::name, tolerance, grad_scores,
             [&](size_t i) { return wide(p[i]) * (wide(grad[i]) - dot[i / tokens]); });
}

template <typename T> void single_values(double tolerance) {
  const size_t samples = 3, tokens = 5, count = samples * tokens * 18;
  const unsigned hidden = 18;
  auto x = random_values<T>(count), y = random_values<T>(count), scale = random_values<T>(hidden);
  const std::vector<float> factors{0.0f, 1.25f, 0.5f};
  auto out = poison<T>(count);
  const unsigned blocks = blocks_of(count, 64);
  for (int absent = 0; absent < 8; ++absent) {
    const T *sum = absent & 1 ? nullptr : x.data(), *columns = absent & 2 ? nullptr : scale.data();
    const float *each = absent & 4 ? nullptr : factors.data();
    out = poison<T>(count);
    launch(blocks, 64, 1, [&] {
      Kernels<T>::residual(out.data(), sum, y.data(), columns, each, 0.75f, count, hidden, tokens * hidden);
    });
    compare<T>("residual", Kernels<T>::name, tolerance, out, [&](size_t i) {
      const double factor = each == nullptr ? 0.75 : factors[i / (tokens * hidden)];
      const double column = columns == nullptr ? 1.0 : wide(scale[i % hidden]);
      return (sum == nullptr ? 0.0 : wide(x[i])) + factor * column * wide(y[i]);
    });
  }
  out = poison<T>(count);
  launch(blocks, 64, 1, [&] { Kernels<T>::add_bias(out.data(), x.data(), scale.data(), count, hidden); });
  compare<T>("add_bias", Kernels<T>::name, tolerance, out,
             [&](size_t i) { return (double)wide(x[i]) + wide(scale[i % hidden]); });
  out = poison<T>(count);
  launch(blocks, 64, 1, [&] { Kernels<T>::gelu_backward(out.data(), x.data(), y.data(), count); });
  compare<T>("gelu_backward", Kernels<T>::name, tolerance, out, [&](size_t i) {
    const double value = wide(x[i]);
    const double slope = 0.5 + 0.5 * std::erf(value / std::sqrt(2.0)) +
                         value * std::exp(-0.5 * value * value) / std::sqrt(2.0 * std::acos(-1.0));
    return wide(y[i]) * slope;
  });
  out = poison<T>(count);
  launch(blocks, 64, 1, [&] { Kernels<T>::dropout(out.data(), x.data(), 7, 0.4f, 1.0f / 0.6f, count); });
  compare<T>("dropout", Kernels<T>::name, tolerance, out,
             [&](size_t i) { return indexed_uniform(7, i) >= 0.4f ? wide(x[i]) / 0.6 : 0.0; });
}

template <typename T> void all(double tolerance) {
  layer_norms<T>(tolerance);
  attention<T>(tolerance, true);
  attention<T>(tolerance, false);
  single_values<T>(tolerance);
}

int main(int count, char **arguments) {
  if (count == 3 && std::string(arguments[1]) == "uniform") {
    for (uint64_t i = 0; i < 64; ++i) std::printf("%.9g\n", indexed_uniform(std::strtoull(arguments[2], nullptr, 10), i));
    return 0;
  }
  all<float>(1e-5);
  all<__half>(2e-3);
  all<__nv_bfloat16>(1.2e-2);
  return failed ? 1 : 0;
}

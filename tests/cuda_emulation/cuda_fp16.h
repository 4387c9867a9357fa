// Half precision as CUDA has it, for kernels compiled for the CPU (see emulation.hpp).
#pragma once

struct __half {
  _Float16 value;
};

inline float __half2float(__half half) { return (float)half.value; }
inline __half __float2half(float value) { return {(_Float16)value}; }

/* Stands in for the driver and the libraries of CUDA where there is no GPU: one file, built under each of their names. It
 * lists no device, or one with a name; the other functions write down what they were called with, so that a test sees
 * whether the arguments came through. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char seen[512];

/* What the last of the functions below was called with. */
const char *fake_seen(void) { return seen; }

static int number(const char *variable, int otherwise) {
  const char *text = getenv(variable);
  return text ? atoi(text) : otherwise;
}

static int devices(void) { return number("FAKE_CUDA_DEVICES", 0); }

/* CUDA_ERROR_NO_DEVICE where there is none, as the real one. */
int cuInit(unsigned flags) { return flags == 0 && devices() > 0 ? 0 : 100; }

int cuDriverGetVersion(int *version) {
  *version = number("FAKE_CUDA_VERSION", 99000);
  return 0;
}

int cuDeviceGetCount(int *count) {
  *count = devices();
  return 0;
}

int cuDeviceGet(int *device, int ordinal) {
  *device = 40 + ordinal;
  return ordinal < devices() ? 0 : 101;
}

int cuDeviceGetName(char *name, int length, int device) {
  snprintf(name, length, "Fake %d", device);
  return 0;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
  *bytes = device >= 40 ? (size_t)80 << 30 : 0;
  return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
  /* 75 and 76: the compute capability. */
  *value = device < 40 ? -1 : attribute == 75 ? number("FAKE_CUDA_MAJOR", 9) : attribute == 76 ? 0 : -1;
  return 0;
}

int cuGetErrorString(int error, const char **text) {
  *text = error == 100 ? "no CUDA-capable device is detected" : "some error";
  return 0;
}

/* Eleven integers and pointers: six in registers, five on the stack. */
int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, void *stream, void **params, void **extra) {
  snprintf(seen, sizeof seen, "%p %u %u %u %u %u %u %u %p %p %p", function, grid_x, grid_y, grid_z, block_x, block_y,
           block_z, shared, stream, (void *)params, (void *)extra);
  return 0;
}

/* Integers and floating-point numbers by turns. */
int curandGenerateNormal(void *generator, float *output, size_t count, float mean, float deviation) {
  snprintf(seen, sizeof seen, "%p %p %zu %g %g", generator, (void *)output, count, mean, deviation);
  return 0;
}

int curandGenerateLogNormalDouble(void *generator, double *output, size_t count, double mean, double deviation) {
  snprintf(seen, sizeof seen, "%p %p %zu %g %g", generator, (void *)output, count, mean, deviation);
  return 0;
}

/* Fourteen, of them eight on the stack. */
int cublasSgemm_v2(void *handle, int transa, int transb, int m, int n, int k, const float *alpha, const float *a, int lda,
                   const float *b, int ldb, const float *beta, float *c, int ldc) {
  snprintf(seen, sizeof seen, "%p %d %d %d %d %d %g %p %d %p %d %g %p %d", handle, transa, transb, m, n, k, *alpha,
           (void *)a, lda, (void *)b, ldb, *beta, (void *)c, ldc);
  return 0;
}

/* As many of both kinds as registers hold, and one more of each: no function of CUDA, but a test has a stand-in for it. */
double featherlight_test_many(long i0, double f0, long i1, double f1, long i2, double f2, long i3, double f3, long i4,
                              double f4, long i5, double f5, long i6, double f6, long i7, double f7, long i8, double f8) {
  snprintf(seen, sizeof seen, "%ld %ld %ld %ld %ld %ld %ld %ld %ld %g %g %g %g %g %g %g %g %g", i0, i1, i2, i3, i4, i5, i6,
           i7, i8, f0, f1, f2, f3, f4, f5, f6, f7, f8);
  return 2.5;
}

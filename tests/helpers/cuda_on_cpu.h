// What CUDA C++ as TVM writes it needs to run on a CPU: types, functions, and matrices of a warp.
//
// cuda_on_cpu.cc runs the threads. What a GPU would not do (a wide access beside its alignment, a
// place beyond an array, a barrier that not all threads reach) is an error.
// C's own header: a tenth of a second less for each program than C++'s.
#define _GLIBCXX_INCLUDE_NEXT_C_HEADERS
#include <math.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)
#define CUDART_INF_F INFINITY

struct uint3 { unsigned x, y, z; };
struct alignas(4) ushort2 { unsigned short x, y; };
struct alignas(8) ushort4 { unsigned short x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };

using half = _Float16;
using __half = half;
struct alignas(4) half2 { half x, y; };
using __half2 = half2;

static inline half2 make_half2(half x, half y) { return {x, y}; }
static inline half __float2half(float x) { return x; }
static inline half __float2half_rn(float x) { return x; }
static inline float __half2float(half x) { return x; }
static inline bool __hgt(half a, half b) { return a > b; }
static inline bool __hlt(half a, half b) { return a < b; }

static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

static inline int max(int a, int b) { return a < b ? b : a; }
static inline int min(int a, int b) { return b < a ? b : a; }
static inline int64_t max(int64_t a, int64_t b) { return a < b ? b : a; }
static inline int64_t min(int64_t a, int64_t b) { return b < a ? b : a; }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline float min(float a, float b) { return fminf(a, b); }
#define __expf(x) expf(x)
static inline float __int_as_float(int bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

namespace cpu {

// TVM's values: a type, and a number or a pointer.
struct Value {
  int32_t type;
  uint32_t padding;
  int64_t number;
};

void wait_for_block();
void wait_for_warp();
bool first_of_warp();

// Asynchronous copies are made when they are waited for.
void copy_later(void* target, const void* source, size_t bytes);
void commit_copies();
// Waits for all groups but the last so many.
void wait_for_copies(size_t but);

// Ends a thread before it does what it should not.
void fail(const char* message);

// Runs a kernel in all threads of a grid. Of the values after its arguments, `extents` says what
// they are of: 0 to 2 for the grid, 3 to 5 for a block, 6 for memory.
int launch(void (*kernel)(const Value*), const int* extents, int count, const Value* values,
           int arguments);

}  // namespace cpu

extern uint3 threadIdx, blockIdx;

// For "extern __shared__" arrays.
extern unsigned char shared_memory[];

static inline void __syncthreads() { cpu::wait_for_block(); }
static inline void __syncwarp() { cpu::wait_for_warp(); }

// A warp's matrix is its first thread's. All of its threads come to each call, and wait.
namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
enum layout_t { mem_row_major };

template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment { T values[16][16]; };

// What the hardware asks of an address and of the distance of rows.
template <typename T>
static void check(const T* matrix, unsigned row) {
  if (reinterpret_cast<uintptr_t>(matrix) % 32 || row * sizeof(T) % 16) {
    cpu::fail("a matrix beside its alignment");
  }
}

template <typename Fragment, typename T>
static void fill_fragment(Fragment& fragment, T value) {
  __syncwarp();
  for (auto& row : fragment.values) {
    for (auto& element : row) element = value;
  }
}

template <typename Use, typename T>
static void load_matrix_sync(fragment<Use, 16, 16, 16, T, row_major>& fragment, const T* matrix,
                             unsigned row) {
  check(matrix, row);
  if (!cpu::first_of_warp()) return;
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) fragment.values[i][j] = matrix[i * row + j];
  }
}

template <typename T>
static void store_matrix_sync(T* matrix, const fragment<accumulator, 16, 16, 16, T>& fragment,
                              unsigned row, layout_t) {
  check(matrix, row);
  if (!cpu::first_of_warp()) return;
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) matrix[i * row + j] = fragment.values[i][j];
  }
}

template <typename Sums, typename Data, typename Weights>
static void mma_sync(Sums& result, const Data& data, const Weights& weights, const Sums& sums) {
  if (!cpu::first_of_warp()) return;
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) {
      float sum = sums.values[i][j];
      for (int k = 0; k < 16; ++k) sum += float(data.values[i][k]) * float(weights.values[k][j]);
      result.values[i][j] = sum;
    }
  }
}

}  // namespace nvcuda::wmma

namespace cpu {

template <typename... Parameters, size_t... I>
void call(void (*function)(Parameters...), const Value* values, std::index_sequence<I...>) {
  function(reinterpret_cast<Parameters>(values[I].number)...);
}

template <typename... Parameters>
void call(void (*function)(Parameters...), const Value* values) {
  call(function, values, std::index_sequence_for<Parameters...>());
}

template <typename... Parameters>
constexpr int count(void (*)(Parameters...)) { return sizeof...(Parameters); }

}  // namespace cpu

// C++ wants its own word before `static`, for which `__shared__` stands.
#define alignas(bytes) __attribute__((aligned(bytes)))

// Lets TVM's host code find a kernel.
#define EXPORT(name, ...)                                                                    \
  extern "C" int __tvm_ffi_##name(void*, const cpu::Value* values, int, void*) {             \
    const int extents[] = {__VA_ARGS__};                                                     \
    auto kernel = [](const cpu::Value* arguments) { cpu::call(name, arguments); };           \
    return cpu::launch(kernel, extents, sizeof extents / sizeof(int), values,                \
                       cpu::count(name));                                                    \
  }

// What CUDA C++ as TVM writes it needs to run on a CPU.
//
// The threads of a block are coroutines: one runs until it waits for others, and a warp until it
// waits for other warps. They take turns in an order of chance, so that results differ where a
// barrier is missing. What a GPU would not do (a wide access beside its alignment, a place beyond
// an array, a barrier that not all threads reach) is an error.
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <numeric>
#include <random>
#include <tuple>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)

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

static inline int max(int a, int b) { return std::max(a, b); }
static inline int min(int a, int b) { return std::min(a, b); }
static inline float max(float a, float b) { return std::fmax(a, b); }
static inline float min(float a, float b) { return std::fmin(a, b); }
#define __expf(x) std::exp(x)

namespace cpu {

enum class State { ready, at_block_barrier, at_warp_barrier, finished, failed };

struct Copy { void* target; const void* source; size_t bytes; };

struct Thread {
  ucontext_t context;
  uint3 index;
  State state;
  // Asynchronous copies, by group; the last is not complete. They are made when waited for.
  std::deque<std::vector<Copy>> copies;
};

constexpr size_t kWarp = 32;
constexpr size_t kStack = 1 << 16;

static ucontext_t scheduler;
static std::vector<Thread> threads;
static std::vector<char> stacks;
static Thread* current;
static std::function<void()> kernel;
static const char* error;

static void wait(State state) {
  current->state = state;
  swapcontext(&current->context, &scheduler);
}

static void commit_copies() { current->copies.emplace_back(); }

// Waits for all groups but the last so many.
static void wait_for_copies(size_t but) {
  for (auto& copies = current->copies; copies.size() > but + 1; copies.pop_front()) {
    for (const Copy& copy : copies.front()) std::memcpy(copy.target, copy.source, copy.bytes);
  }
}

// Ends a thread before it does what it should not.
static void fail(const char* message) {
  error = message;
  wait(State::failed);
}

static void copy_later(void* target, const void* source, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(target) % bytes || reinterpret_cast<uintptr_t>(source) % bytes) {
    fail("a copy beside its alignment");
  }
  current->copies.back().push_back({target, source, bytes});
}

static void run_thread() {
  kernel();
  current->state = State::finished;
}

static bool release(size_t first, size_t last, State state) {
  auto begin = threads.begin() + first, end = threads.begin() + last;
  if (!std::all_of(begin, end, [=](const Thread& thread) { return thread.state == state; })) {
    return false;
  }
  std::for_each(begin, end, [](Thread& thread) { thread.state = State::ready; });
  return true;
}

}  // namespace cpu

static uint3 threadIdx, blockIdx;

// For "extern __shared__" arrays.
alignas(1024) static unsigned char shared_memory[48 * 1024];

static inline void __syncthreads() { cpu::wait(cpu::State::at_block_barrier); }
static inline void __syncwarp() { cpu::wait(cpu::State::at_warp_barrier); }

// A warp's matrix is its first thread's. All of its threads come to each call, and wait.
namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
enum layout_t { mem_row_major };

template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment { T values[16][16]; };

static bool first_of_warp() {
  __syncwarp();
  return (cpu::current - cpu::threads.data()) % cpu::kWarp == 0;
}

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
  for (auto& row : fragment.values) std::fill(std::begin(row), std::end(row), value);
}

template <typename Use, typename T>
static void load_matrix_sync(fragment<Use, 16, 16, 16, T, row_major>& fragment, const T* matrix,
                             unsigned row) {
  check(matrix, row);
  if (!first_of_warp()) return;
  for (int i = 0; i < 16; ++i) std::copy_n(matrix + i * row, 16, fragment.values[i]);
}

template <typename T>
static void store_matrix_sync(T* matrix, const fragment<accumulator, 16, 16, 16, T>& fragment,
                              unsigned row, layout_t) {
  check(matrix, row);
  if (!first_of_warp()) return;
  for (int i = 0; i < 16; ++i) std::copy_n(fragment.values[i], 16, matrix + i * row);
}

template <typename Sums, typename Data, typename Weights>
static void mma_sync(Sums& result, const Data& data, const Weights& weights, const Sums& sums) {
  if (!first_of_warp()) return;
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

static void start_block(uint3 size) {
  threads.resize(size.x * size.y * size.z);
  stacks.resize(threads.size() * kStack);
  for (unsigned i = 0; i < threads.size(); ++i) {
    Thread& thread = threads[i];
    thread.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    thread.state = State::ready;
    thread.copies.assign(1, {});
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = &stacks[i * kStack];
    thread.context.uc_stack.ss_size = kStack;
    thread.context.uc_link = &scheduler;
    makecontext(&thread.context, run_thread, 0);
  }
}

static std::vector<size_t> shuffled(size_t first, size_t last) {
  static std::mt19937 chance;
  std::vector<size_t> numbers(last - first);
  std::iota(numbers.begin(), numbers.end(), first);
  std::shuffle(numbers.begin(), numbers.end(), chance);
  return numbers;
}

// Runs a warp until its threads wait for the block, or for what never comes.
static void run_warp(size_t first, size_t last) {
  do {
    for (size_t i : shuffled(first, last)) {
      current = &threads[i];
      threadIdx = current->index;
      if (current->state == State::ready) swapcontext(&scheduler, &current->context);
    }
  } while (release(first, last, State::at_warp_barrier));
}

static void run_block(uint3 size) {
  start_block(size);
  size_t count = threads.size();
  do {
    for (size_t warp : shuffled(0, (count + kWarp - 1) / kWarp)) {
      run_warp(warp * kWarp, std::min((warp + 1) * kWarp, count));
    }
  } while (release(0, count, State::at_block_barrier));
  for (Thread& thread : threads) {
    if (!error && thread.state != State::finished) error = "not all threads reach a barrier";
  }
}

// TVM's values: a type, and a number or a pointer.
struct Value {
  int32_t type;
  uint32_t padding;
  int64_t number;
};

// Runs a kernel with arguments as TVM's host code gives them: the kernel's own, then extents, of
// which `extents` says what they are of: 0 to 2 for the grid, 3 to 5 for a block, 6 for memory.
template <typename... Parameters>
int launch(void (*function)(Parameters...), const std::vector<int>& extents, const Value* values) {
  uint3 sizes[3] = {{1, 1, 1}, {1, 1, 1}};
  const Value* extent = values + sizeof...(Parameters);
  for (int place : extents) (&sizes[place / 3].x)[place % 3] = (extent++)->number;
  // An argument of a call in braces is evaluated after the one before it.
  kernel = [=] {
    const Value* value = values;
    std::tuple<Parameters...> arguments{reinterpret_cast<Parameters>((value++)->number)...};
    std::apply(function, arguments);
  };
  error = nullptr;
  for (unsigned z = 0; z < sizes[0].z; ++z) {
    for (unsigned y = 0; y < sizes[0].y; ++y) {
      for (unsigned x = 0; x < sizes[0].x; ++x) {
        blockIdx = {x, y, z};
        run_block(sizes[1]);
      }
    }
  }
  return error ? -1 : 0;
}

}  // namespace cpu

// What GCC calls where its checks (-fsanitize=alignment,bounds,object-size) fail.
extern "C" void __ubsan_handle_type_mismatch_v1(void*, void*) {
  cpu::fail("a wide access beside its alignment, or beyond an array");
}
extern "C" void __ubsan_handle_out_of_bounds(void*, void*) { cpu::fail("beyond an array"); }
extern "C" void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* message);

// C++ wants its own word before `static`, for which `__shared__` stands.
#define alignas(bytes) __attribute__((aligned(bytes)))

// Lets TVM's host code find a kernel.
#define EXPORT(name, ...)                                                                    \
  extern "C" int __tvm_ffi_##name(void*, const cpu::Value* values, int, void*) {             \
    if (cpu::launch(name, {__VA_ARGS__}, values) == 0) return 0;                             \
    TVMFFIErrorSetRaisedFromCStr("RuntimeError", cpu::error);                                \
    return -1;                                                                               \
  }

// Host code chooses a device before it launches.
extern "C" int __tvm_ffi___tvm_set_device(void*, const cpu::Value*, int, void*) { return 0; }

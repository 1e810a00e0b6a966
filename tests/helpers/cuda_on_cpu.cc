// Runs the threads of CUDA kernels on a CPU; cuda_on_cpu.h is what the kernels see of it.
//
// The threads of a block are coroutines: one runs until it waits for others, and a warp until it
// waits for other warps. They take turns in an order of chance, so that results differ where a
// barrier is missing.
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <numeric>
#include <random>
#include <vector>

#include "cuda_on_cpu.h"

extern "C" void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* message);

uint3 threadIdx, blockIdx;
alignas(1024) unsigned char shared_memory[48 * 1024];

namespace cpu {

enum class State { ready, at_block_barrier, at_warp_barrier, finished, failed };

struct Copy { void* target; const void* source; size_t bytes; };

struct Thread {
  ucontext_t context;
  uint3 index;
  State state;
  // Asynchronous copies, by group; the last is not complete.
  std::deque<std::vector<Copy>> copies;
};

constexpr size_t kWarp = 32;
constexpr size_t kStack = 1 << 16;

static ucontext_t scheduler;
static std::vector<Thread> threads;
static std::vector<char> stacks;
static Thread* current;
static void (*kernel)(const Value*);
static const Value* values;
static const char* error;

static void wait(State state) {
  current->state = state;
  swapcontext(&current->context, &scheduler);
}

void wait_for_block() { wait(State::at_block_barrier); }

void wait_for_warp() { wait(State::at_warp_barrier); }

bool first_of_warp() {
  wait_for_warp();
  return (current - threads.data()) % kWarp == 0;
}

void commit_copies() { current->copies.emplace_back(); }

void wait_for_copies(size_t but) {
  for (auto& copies = current->copies; copies.size() > but + 1; copies.pop_front()) {
    for (const Copy& copy : copies.front()) std::memcpy(copy.target, copy.source, copy.bytes);
  }
}

void fail(const char* message) {
  error = message;
  wait(State::failed);
}

void copy_later(void* target, const void* source, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(target) % bytes || reinterpret_cast<uintptr_t>(source) % bytes) {
    fail("a copy beside its alignment");
  }
  current->copies.back().push_back({target, source, bytes});
}

static void run_thread() {
  kernel(values);
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

int launch(void (*function)(const Value*), const int* extents, int count, const Value* given,
           int arguments) {
  uint3 sizes[3] = {{1, 1, 1}, {1, 1, 1}};
  for (int i = 0; i < count; ++i) {
    (&sizes[extents[i] / 3].x)[extents[i] % 3] = given[arguments + i].number;
  }
  kernel = function;
  values = given;
  error = nullptr;
  for (unsigned z = 0; z < sizes[0].z; ++z) {
    for (unsigned y = 0; y < sizes[0].y; ++y) {
      for (unsigned x = 0; x < sizes[0].x; ++x) {
        blockIdx = {x, y, z};
        run_block(sizes[1]);
      }
    }
  }
  if (!error) return 0;
  TVMFFIErrorSetRaisedFromCStr("RuntimeError", error);
  return -1;
}

}  // namespace cpu

// What GCC calls where its checks (-fsanitize=alignment,bounds,object-size) fail.
extern "C" void __ubsan_handle_type_mismatch_v1(void*, void*) {
  cpu::fail("a wide access beside its alignment, or beyond an array");
}
extern "C" void __ubsan_handle_out_of_bounds(void*, void*) { cpu::fail("beyond an array"); }

// Host code chooses a device before it launches.
extern "C" int __tvm_ffi___tvm_set_device(void*, const cpu::Value*, int, void*) { return 0; }

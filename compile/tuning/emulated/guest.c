/* The program in which a candidate is counted: it needs no libraries, and calls the candidate once.
 *
 *     program PARAMETER...
 *
 * Each parameter is a tensor's DLPack type code, its bits and its shape, as in `2,32,1,14,14,384`.
 * All tensors are zeros, since what is computed does not steer the code. Those with a leading `+`
 * are read before the call, the first one last, so that they are in the caches as in a network.
 * The call is section 1 of `counter.c`.
 */
#include <stddef.h>
#include <stdint.h>

enum { MOST_TENSORS = 32, MOST_AXES = 6, TENSOR = 7, LINE = 64, MARK = 0x41524d43 };

#if defined(__aarch64__)
enum { SYS_EXIT = 93, SYS_PRCTL = 167, SYS_MMAP = 222 };
__asm__(".globl _start\n_start: mov x0, sp\n b run\n");
static long call_system(long number, long a, long b, long c, long d) {
  register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c, x3 __asm__("x3") = d, x4 __asm__("x4") = -1;
  register long x5 __asm__("x5") = 0;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                   : "memory");
  return x0;
}
#elif defined(__x86_64__)
enum { SYS_EXIT = 60, SYS_PRCTL = 157, SYS_MMAP = 9 };
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call run\n");
static long call_system(long number, long a, long b, long c, long d) {
  register long r10 __asm__("r10") = d, r8 __asm__("r8") = -1, r9 __asm__("r9") = 0;
  __asm__ volatile("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return number;
}
#endif

/* As in tvm/ffi/c_api.h and dlpack.h. */
typedef struct {
  int32_t type, padding;
  void* value;
} Any;
typedef struct {
  void* data;
  int32_t device_type, device;
  int32_t axes;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} Tensor;
typedef struct {
  void* handle;
  int32_t tasks;
} Environment;

typedef int (*Body)(int task, Environment*, void* closure);
extern int __tvm_ffi_main(void*, const Any*, int32_t, Any*);
/* The runtime sets these when it loads a module. */
__attribute__((weak)) int (*__TVMBackendParallelLaunch)(Body, void*, int);
__attribute__((weak)) void* (*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int);
__attribute__((weak)) int (*__TVMBackendFreeWorkspace)(int, int, void*);

static void leave(int status) { call_system(SYS_EXIT, status, 0, 0, 0); }

static void* allocate(uint64_t bytes) {
  enum { READ_WRITE = 3, PRIVATE_ANONYMOUS = 0x22 };
  long found = call_system(SYS_MMAP, 0, (long)bytes, READ_WRITE, PRIVATE_ANONYMOUS);
  if (found < 0 && found > -4096) leave(2);
  return (void*)found;
}

static int launch(Body body, void* closure, int tasks) {
  (void)tasks;
  Environment environment = {NULL, 1};
  return body(0, &environment, closure);
}

static void* allocate_workspace(int type, int device, uint64_t bytes, int code, int bits) {
  (void)type, (void)device, (void)code, (void)bits;
  static void* memory;
  static uint64_t size;
  if (bytes > size) memory = allocate(size = bytes);
  return memory;
}

static int free_workspace(int type, int device, void* memory) {
  (void)type, (void)device, (void)memory;
  return 0;
}

void* memset(void* to, int value, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) ((volatile char*)to)[i] = (char)value;
  return to;
}

void* memcpy(void* restrict to, const void* restrict from, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) ((volatile char*)to)[i] = ((const char*)from)[i];
  return to;
}

static void touch(const Tensor* tensor, uint64_t bytes) {
  for (uint64_t i = 0; i < bytes; i += LINE) (void)((const volatile char*)tensor->data)[i];
}

void run(char** stack) {
  static int64_t shapes[MOST_TENSORS][MOST_AXES];
  static Tensor tensors[MOST_TENSORS];
  static uint64_t bytes[MOST_TENSORS];
  static int warm[MOST_TENSORS];
  static Any arguments[MOST_TENSORS], result;
  int count = (int)(intptr_t)stack[0] - 1;
  if (count < 1 || count > MOST_TENSORS) leave(2);
  for (int i = 0; i < count; i++) {
    char* text = stack[2 + i];
    int64_t numbers[2 + MOST_AXES] = {0}, elements = 1;
    int found = 0;
    if (*text == '+') text++, warm[i] = 1;
    for (; *text; text++) {
      if (*text == ',') {
        if (++found == 2 + MOST_AXES) leave(2);
      } else {
        numbers[found] = 10 * numbers[found] + *text - '0';
      }
    }
    for (int axis = 2; axis <= found; axis++) elements *= shapes[i][axis - 2] = numbers[axis];
    bytes[i] = (uint64_t)(elements * numbers[1] / 8);
    tensors[i] = (Tensor){.device_type = 1, .axes = found - 1, .code = (uint8_t)numbers[0],
                          .bits = (uint8_t)numbers[1], .lanes = 1, .shape = shapes[i]};
    /* Spread over the sets of a cache. */
    tensors[i].data = (char*)allocate(bytes[i] + (64 << 10)) + (uint64_t)(i + 1) * 37 * LINE;
    arguments[i] = (Any){TENSOR, 0, &tensors[i]};
  }
  __TVMBackendParallelLaunch = launch;
  __TVMBackendAllocWorkspace = allocate_workspace;
  __TVMBackendFreeWorkspace = free_workspace;
  call_system(SYS_PRCTL, MARK, 0, 0, 0);
  for (int i = count - 1; i >= 0; i--)
    if (warm[i]) touch(&tensors[i], bytes[i]);
  call_system(SYS_PRCTL, MARK, 0, 0, 0);
  int status = __tvm_ffi_main(NULL, arguments, count, &result);
  call_system(SYS_PRCTL, MARK, 1, 0, 0);
  leave(status != 0);
}

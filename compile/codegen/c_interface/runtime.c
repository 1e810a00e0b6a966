/* Contexts, threads and working memory of a compiled model.
 *
 * The generated source of a model includes this file, after the macros that describe it. Names that
 * the linker sees begin with the model's, so that one program can have several.
 */
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
  ALIGNMENT = CONSTANT(ALIGNMENT),
  /* A worker that waits longer sleeps. Layers follow each other within microseconds. */
  SPINS = 2000,
  /* musl's threads have 128 KiB, a tile of registers that spills may take some of it. */
  STACK_BYTES = 1 << 20,
};

/* States of a context. Memory in which there was none is unlikely to hold the first two. */
enum { READY = 0x52454459, RUNNING = 0x52554e4e, DESTROYED = 0 };

/* States of a worker: it spins, sleeps, has a job, or has to end. */
enum { IDLE, ASLEEP, WORKING, STOPPED };

/* What TVM's code gets of a parallel loop, and the body of one (TVM's c_backend_api.h). */
typedef struct {
  void *unused;
  int32_t tasks;
} group;
typedef int32_t body_function(int32_t task, group *environment, void *data);

/* A kernel's argument, and what it points to (TVM's and DLPack's tensors). As all shapes are static,
 * and checks are off, generated code reads only a tensor's data and device. */
typedef struct {
  int32_t type, padding;
  const void *pointer;
} argument;
typedef struct {
  const void *data;
  int32_t device_kind, device_number;
  int32_t axes;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} tensor;
typedef int32_t kernel(void *self, const argument *arguments, int32_t count, argument *result);
enum { TENSOR_POINTER = 7, CPU = 1 };

/* One of a context's threads. The first is the one that calls `run`. */
typedef struct {
  _Alignas(ALIGNMENT) atomic_int state;
  int index;
  struct MODEL(context) *context;
  unsigned char *scratch;
  size_t used;
  sem_t wake;
  pthread_t thread;
} worker;

struct MODEL(context) {
  _Alignas(ALIGNMENT) atomic_uint state;
  bool allocated;
  int threads;
  pid_t process;
  unsigned char *memory;
  /* The parallel loop that the threads work on, and how many of them have not finished. */
  body_function *body;
  void *data;
  group environment;
  atomic_int failed;
  sem_t done;
  _Alignas(ALIGNMENT) atomic_int pending;
  worker workers[];
};
typedef struct MODEL(context) context;
typedef MODEL(status) status;

/* The worker that this thread is while it computes. */
static _Thread_local worker *current;

static size_t rounded(size_t bytes) {
  return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static bool aligned(const void *pointer) {
  return (uintptr_t)pointer % ALIGNMENT == 0;
}

static void relax(int turn) {
  if (turn % 32 == 31)
    sched_yield();
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static void wait_for(sem_t *semaphore) {
  while (sem_wait(semaphore) != 0) { /* A signal interrupted it. */
  }
}

/* What TVM's generated code calls. */

static void work(worker *self) {
  context *const c = self->context;
  for (int32_t task = self->index; task < c->environment.tasks; task += c->threads)
    if (c->body(task, &c->environment, c->data) != 0)
      atomic_store_explicit(&c->failed, 1, memory_order_relaxed);
}

static int32_t parallel_launch(body_function *body, void *data, int32_t tasks) {
  worker *const self = current;
  context *const c = self->context;
  c->body = body;
  c->data = data;
  c->environment.tasks = tasks ? tasks : c->threads;
  atomic_store_explicit(&c->pending, c->threads, memory_order_relaxed);
  for (int i = 1; i < c->threads; ++i)
    if (atomic_exchange(&c->workers[i].state, WORKING) == ASLEEP)
      sem_post(&c->workers[i].wake);
  work(self);
  int turn = 0;
  while (atomic_load_explicit(&c->pending, memory_order_acquire) > 1 && turn < SPINS)
    relax(turn++);
  /* This thread counts too: whoever is the last after it goes to sleep wakes it. */
  if (atomic_load_explicit(&c->pending, memory_order_acquire) > 1 &&
      atomic_fetch_sub(&c->pending, 1) > 1)
    wait_for(&c->done);
  return atomic_load_explicit(&c->failed, memory_order_relaxed) ? -1 : 0;
}

static void *work_until_stopped(void *pointer) {
  worker *const self = current = pointer;
  context *const c = self->context;
  for (;;) {
    int turn = 0, state;
    while ((state = atomic_load_explicit(&self->state, memory_order_acquire)) == IDLE &&
           turn < SPINS)
      relax(turn++);
    if (state == IDLE && atomic_compare_exchange_strong(&self->state, &state, ASLEEP)) {
      wait_for(&self->wake);
      state = atomic_load_explicit(&self->state, memory_order_acquire);
    }
    if (state == STOPPED)
      return NULL;
    atomic_store_explicit(&self->state, IDLE, memory_order_relaxed);
    work(self);
    if (atomic_fetch_sub(&c->pending, 1) == 1)
      sem_post(&c->done);
  }
}

/* Working memory of a kernel, freed in the reverse order. */
static void *alloc_workspace(int32_t device_kind, int32_t device, uint64_t bytes, int32_t code,
                             int32_t bits) {
  (void)device_kind, (void)device, (void)code, (void)bits;
  worker *const self = current;
  if (rounded(bytes) > SCRATCH_BYTES - self->used)
    return NULL;
  unsigned char *const start = self->scratch + self->used;
  self->used += rounded(bytes);
  return start;
}

static int32_t free_workspace(int32_t device_kind, int32_t device, void *pointer) {
  (void)device_kind, (void)device;
  current->used = (size_t)((unsigned char *)pointer - current->scratch);
  return 0;
}

/* Generated code calls them through these pointers. */
HIDDEN int32_t (*const MODEL(_TVMBackendParallelLaunch))(body_function *, void *, int32_t) =
    parallel_launch;
HIDDEN void *(*const MODEL(_TVMBackendAllocWorkspace))(int32_t, int32_t, uint64_t, int32_t,
                                                       int32_t) = alloc_workspace;
HIDDEN int32_t (*const MODEL(_TVMBackendFreeWorkspace))(int32_t, int32_t, void *) = free_workspace;

static int32_t call(kernel *function, int count, const void *const *pointers) {
  tensor tensors[MAX_ARGUMENTS];
  argument arguments[MAX_ARGUMENTS], result;
  for (int i = 0; i < count; ++i) {
    tensors[i] = (tensor){.data = pointers[i], .device_kind = CPU};
    arguments[i] = (argument){.type = TENSOR_POINTER, .pointer = &tensors[i]};
  }
  return function(NULL, arguments, count, &result);
}

/* What the CPU has; only one of these is used, by the model's CPU_FITS. */

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>

static inline bool has(unsigned leaf, unsigned subleaf, int place, unsigned bits) {
  unsigned found[4];
  return __get_cpuid_count(leaf, subleaf, &found[0], &found[1], &found[2], &found[3]) &&
         (found[place] & bits) == bits;
}

/* Whether the system saves these parts of the registers' state. */
static inline bool saves(unsigned bits) {
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & bits) == bits;
}

/* Linux lets a process use AMX's tiles only after it has asked (arch/x86/xstate.rst). */
static inline bool may_use_tiles(void) {
  return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

static inline bool has(unsigned long type, unsigned long bits) {
  return (getauxval(type) & bits) == bits;
}
#endif

/* The interface. */

static size_t context_bytes(int threads) {
  return rounded(sizeof(context) + (size_t)threads * sizeof(worker));
}

size_t MODEL(workspace_size)(int threads) {
  if (threads < 1 || threads > CONSTANT(MAX_THREADS))
    return 0;
  return context_bytes(threads) + MEMORY_BYTES + (size_t)threads * SCRATCH_BYTES;
}

/* Whether the context's threads are those of a process from which this one was forked. */
static bool forked(const context *c) {
  return c->threads > 1 && getpid() != c->process;
}

static void stop(context *c, int threads) {
  for (int i = 1; i < threads && !forked(c); ++i) {
    worker *const w = &c->workers[i];
    if (atomic_exchange(&w->state, STOPPED) == ASLEEP)
      sem_post(&w->wake);
    pthread_join(w->thread, NULL);
    sem_destroy(&w->wake);
  }
  sem_destroy(&c->done);
  atomic_store(&c->state, DESTROYED);
  if (c->allocated)
    free(c);
}

/* Start a thread that handles no signals of the program's, but those of its own faults. */
static bool start(worker *w) {
  static const int faults[] = {SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
  sigset_t others, before;
  sigfillset(&others);
  for (size_t i = 0; i < sizeof faults / sizeof *faults; ++i)
    sigdelset(&others, faults[i]);
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0)
    return false;
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  sem_init(&w->wake, 0, 0);
  pthread_sigmask(SIG_SETMASK, &others, &before);
  const bool started = pthread_create(&w->thread, &attributes, work_until_stopped, w) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  if (!started)
    sem_destroy(&w->wake);
  return started;
}

status MODEL(create)(int threads, void *workspace, size_t workspace_bytes, context **created) {
  if (!created)
    return CONSTANT(NULL_POINTER);
  *created = NULL;
  const size_t bytes = MODEL(workspace_size)(threads);
  if (bytes == 0)
    return CONSTANT(BAD_THREADS);
  if (!CPU_FITS)
    return CONSTANT(BAD_CPU);
  if (!aligned(workspace))
    return CONSTANT(UNALIGNED);
  if (workspace && workspace_bytes < bytes)
    return CONSTANT(SMALL_WORKSPACE);
  void *memory = workspace;
  if (!memory && posix_memalign(&memory, ALIGNMENT, bytes) != 0)
    return CONSTANT(OUT_OF_MEMORY);
  context *const c = memory;
  memset(c, 0, context_bytes(threads));
  c->allocated = !workspace;
  c->threads = threads;
  c->process = getpid();
  c->memory = (unsigned char *)memory + context_bytes(threads);
  sem_init(&c->done, 0, 0);
  for (int i = 0; i < threads; ++i) {
    worker *const w = &c->workers[i];
    w->index = i;
    w->context = c;
    w->scratch = c->memory + MEMORY_BYTES + (size_t)i * SCRATCH_BYTES;
    if (i > 0 && !start(w)) {
      stop(c, i);
      return CONSTANT(NO_THREAD);
    }
  }
  atomic_store(&c->state, READY);
  *created = c;
  return CONSTANT(OK);
}

static status check(const void *pointer) {
  if (!pointer)
    return CONSTANT(NULL_POINTER);
  return aligned(pointer) ? CONSTANT(OK) : CONSTANT(UNALIGNED);
}

/* Take a context for oneself, from READY to another state. */
static status take(context *c, unsigned state) {
  unsigned expected = READY;
  if (atomic_compare_exchange_strong(&c->state, &expected, state))
    return CONSTANT(OK);
  return expected == RUNNING ? CONSTANT(BUSY) : CONSTANT(NO_CONTEXT);
}

status MODEL(destroy)(context *c) {
  if (!c)
    return CONSTANT(OK);
  status found = check(c);
  if (found == CONSTANT(OK))
    found = take(c, DESTROYED);
  if (found == CONSTANT(OK))
    stop(c, c->threads);
  return found;
}

static int32_t compute(unsigned char *memory, const void *const *in, void *const *out);

static status run(context *c, const void *const *in, void *const *out) {
  status found = check(c);
  for (int i = 0; i < INPUTS && found == CONSTANT(OK); ++i)
    found = check(in[i]);
  for (int i = 0; i < OUTPUTS && found == CONSTANT(OK); ++i)
    found = check(out[i]);
  if (found == CONSTANT(OK))
    found = take(c, RUNNING);
  if (found != CONSTANT(OK))
    return found;
  if (forked(c)) {
    atomic_store(&c->state, READY);
    return CONSTANT(FORKED);
  }
  current = &c->workers[0];
  const int32_t failed = compute(c->memory, in, out);
  current = NULL;
  if (failed) {
    /* A kernel that fails does not free its working memory. */
    atomic_store_explicit(&c->failed, 0, memory_order_relaxed);
    for (int i = 0; i < c->threads; ++i)
      c->workers[i].used = 0;
  }
  atomic_store(&c->state, READY);
  return failed ? CONSTANT(INTERNAL) : CONSTANT(OK);
}

const char *MODEL(status_text)(status value) {
  switch (value) {
    case CONSTANT(OK):
      return "success";
    case CONSTANT(NULL_POINTER):
      return "a pointer is null";
    case CONSTANT(UNALIGNED):
      return "a pointer is not aligned";
    case CONSTANT(BAD_THREADS):
      return "the number of threads is below 1 or above the maximum";
    case CONSTANT(SMALL_WORKSPACE):
      return "the workspace is too small for this number of threads";
    case CONSTANT(OUT_OF_MEMORY):
      return "out of memory";
    case CONSTANT(NO_THREAD):
      return "a thread could not be started";
    case CONSTANT(BAD_CPU):
      return "the CPU lacks a feature that the model's code uses";
    case CONSTANT(BUSY):
      return "another thread is using the context";
    case CONSTANT(NO_CONTEXT):
      return "the context was destroyed or never created";
    case CONSTANT(FORKED):
      return "the context's threads are in the process from which this one was forked";
    case CONSTANT(INTERNAL):
      return "a layer failed";
  }
  return "unknown status";
}

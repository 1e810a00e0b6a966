/* Runs the model that macros name where the system fails, forks and sends signals.
 *
 * It has to be linked with -Wl,--wrap=pthread_create,--wrap=posix_memalign.
 */
#include MODEL_HEADER
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXPECT(condition)                                    \
  do {                                                       \
    if (!(condition)) {                                      \
      fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
      _exit(1);                                              \
    }                                                        \
  } while (0)

#define ALIGNED __attribute__((aligned(CONSTANT(ALIGNMENT))))
static ALIGNED float input[CONSTANT(INPUT_0_ELEMENTS)], output[CONSTANT(OUTPUT_0_ELEMENTS)];
static ALIGNED float expected[CONSTANT(OUTPUT_0_ELEMENTS)];
static ALIGNED unsigned char workspace[1 << 22];

static int threads_left = 1000, allocations_left = 1000;

int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*body)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*body)(void *), void *argument) {
  return threads_left-- > 0 ? __real_pthread_create(thread, attributes, body, argument) : EAGAIN;
}

int __real_posix_memalign(void **, size_t, size_t);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes) {
  return allocations_left-- > 0 ? __real_posix_memalign(memory, alignment, bytes) : ENOMEM;
}

static int count_threads(void) {
  DIR *folder = opendir("/proc/self/task");
  int count = -2; /* "." and ".." */
  while (folder && readdir(folder))
    ++count;
  if (folder)
    closedir(folder);
  return count;
}

static int runs(MODEL(context) *context) {
  memset(output, 0xff, sizeof output);
  return MODEL(run)(context, input, output) == CONSTANT(OK) &&
         memcmp(output, expected, sizeof output) == 0;
}

/* A context whose threads cannot all start leaves no thread and no memory. */
static void try_without_resources(void) {
  MODEL(context) *context;
  const int before = count_threads();
  for (int started = 0; started < 4; ++started) {
    context = (void *)workspace;
    threads_left = started;
    EXPECT(MODEL(create)(5, NULL, 0, &context) == CONSTANT(NO_THREAD) && !context);
    threads_left = started;
    EXPECT(MODEL(create)(5, workspace, sizeof workspace, &context) == CONSTANT(NO_THREAD));
    EXPECT(MODEL(run)((void *)workspace, input, output) == CONSTANT(NO_CONTEXT));
    /* A thread that was waited for may be listed for a moment. */
    for (int waits = 0; waits < 1000 && count_threads() != before; ++waits)
      usleep(1000);
    EXPECT(count_threads() == before);
  }
  threads_left = 1000;
  allocations_left = 0;
  EXPECT(MODEL(create)(1, NULL, 0, &context) == CONSTANT(OUT_OF_MEMORY) && !context);
  EXPECT(MODEL(create)(2, workspace, sizeof workspace, &context) == CONSTANT(OK));
  allocations_left = 1000;
  EXPECT(runs(context) && MODEL(destroy)(context) == CONSTANT(OK));
}

/* A forked process has the memory, but not the threads. */
static void try_forked(MODEL(context) *alone, MODEL(context) *with_threads) {
  memset(output, 0xff, sizeof output);
  fflush(NULL);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    EXPECT(MODEL(run)(with_threads, input, output) == CONSTANT(FORKED));
    for (size_t i = 0; i < sizeof output; ++i)
      EXPECT(((unsigned char *)output)[i] == 0xff);
    EXPECT(runs(alone) && MODEL(destroy)(alone) == CONSTANT(OK));
    EXPECT(MODEL(destroy)(with_threads) == CONSTANT(OK));
    EXPECT(MODEL(create)(2, NULL, 0, &with_threads) == CONSTANT(OK) && runs(with_threads));
    EXPECT(MODEL(destroy)(with_threads) == CONSTANT(OK));
    _exit(0);
  }
  int status;
  EXPECT(waitpid(child, &status, 0) == child && status == 0);
  EXPECT(runs(alone) && runs(with_threads));
}

static pthread_t first;
static volatile sig_atomic_t signals, elsewhere;

static void handle(int number) {
  (void)number;
  ++signals;
  if (!pthread_equal(pthread_self(), first))
    elsewhere = 1;
}

/* Signals interrupt waiting, and are the program's: its threads handle them. */
static void try_with_signals(MODEL(context) *context) {
  struct sigaction action = {.sa_handler = handle};
  struct itimerval timer = {{0, 50}, {0, 50}};
  first = pthread_self();
  sigaction(SIGALRM, &action, NULL);
  setitimer(ITIMER_REAL, &timer, NULL);
  while (signals < 500)
    EXPECT(runs(context));
  timer = (struct itimerval){{0, 0}, {0, 0}};
  setitimer(ITIMER_REAL, &timer, NULL);
  EXPECT(!elsewhere);
}

int main(void) {
  MODEL(context) *alone, *with_threads;
  for (int i = 0; i < CONSTANT(INPUT_0_ELEMENTS); ++i)
    input[i] = (float)(i % 251) / 251;
  EXPECT(MODEL(create)(1, NULL, 0, &alone) == CONSTANT(OK));
  EXPECT(MODEL(create)(3, NULL, 0, &with_threads) == CONSTANT(OK));
  EXPECT(MODEL(run)(alone, input, expected) == CONSTANT(OK));
  try_without_resources();
  try_forked(alone, with_threads);
  try_with_signals(with_threads);
  EXPECT(MODEL(destroy)(alone) == CONSTANT(OK) && MODEL(destroy)(with_threads) == CONSTANT(OK));
  return 0;
}

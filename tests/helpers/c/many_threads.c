/* Runs the model that macros name from threads of the program: many_threads CALLS THREADS.
 *
 * Every thread has a context of its own; all outputs have to be the same.
 */
#include MODEL_HEADER
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CALLERS = 4 };
#define ALIGNED __attribute__((aligned(CONSTANT(ALIGNMENT))))
typedef struct {
  ALIGNED unsigned char output[CONSTANT(OUTPUT_0_BYTES)];
  int calls, threads, failed;
} caller;
static ALIGNED unsigned char input[CONSTANT(INPUT_0_BYTES)];
static caller callers[CALLERS + 1];

static void *call(void *pointer) {
  caller *self = pointer;
  MODEL(context) *context;
  self->failed = MODEL(create)(self->threads, NULL, 0, &context);
  for (int i = 0; i < self->calls && !self->failed; ++i) {
    memset(self->output, 0xff, sizeof self->output);
    self->failed = MODEL(run)(context, (const void *)input, (void *)self->output);
    if (self != callers && memcmp(self->output, callers[0].output, sizeof self->output) != 0)
      self->failed = -1;
  }
  MODEL(destroy)(context);
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 3)
    return 2;
  float *values = (void *)input;
  for (int i = 0; i < CONSTANT(INPUT_0_ELEMENTS); ++i)
    values[i] = (float)(i % 251) / 251;
  callers[0].calls = callers[0].threads = 1;
  call(&callers[0]);
  pthread_t threads[CALLERS + 1];
  for (int i = 1; i <= CALLERS; ++i) {
    callers[i].calls = atoi(argv[1]) / CALLERS;
    callers[i].threads = atoi(argv[2]);
    if (pthread_create(&threads[i], NULL, call, &callers[i]) != 0)
      return 2;
  }
  int failed = callers[0].failed;
  for (int i = 1; i <= CALLERS; ++i) {
    pthread_join(threads[i], NULL);
    failed |= callers[i].failed;
  }
  return failed ? 1 : 0;
}

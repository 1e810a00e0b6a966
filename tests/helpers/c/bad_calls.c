/* Makes bad calls of the model that macros name; says which line got another status. */
#include MODEL_HEADER
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define EXPECT(name, call)                                                           \
  do {                                                                               \
    MODEL(status) got = (call);                                                      \
    if (got != CONSTANT(name)) {                                                     \
      fprintf(stderr, "line %d: %s\n", __LINE__, MODEL(status_text)(got));           \
      return 1;                                                                      \
    }                                                                                \
  } while (0)

#define ALIGNED __attribute__((aligned(CONSTANT(ALIGNMENT))))
static ALIGNED unsigned char input_bytes[CONSTANT(INPUT_0_BYTES) + CONSTANT(ALIGNMENT)];
static ALIGNED unsigned char output_bytes[CONSTANT(OUTPUT_0_BYTES) + CONSTANT(ALIGNMENT)];
static ALIGNED unsigned char workspace[1 << 22];
static float *const input = (void *)input_bytes, *const output = (void *)output_bytes;

static atomic_int stopped;

static void *keep_running(void *context) {
  while (!stopped)
    MODEL(run)(context, input, output);
  return NULL;
}

int main(void) {
  MODEL(context) *context = (void *)workspace;
  const size_t bytes = MODEL(workspace_size)(2);
  if (bytes == 0 || bytes > sizeof workspace || MODEL(workspace_size)(0) != 0 ||
      MODEL(workspace_size)(-1) != 0 || MODEL(workspace_size)(CONSTANT(MAX_THREADS) + 1) != 0)
    return 2;

  EXPECT(NULL_POINTER, MODEL(create)(1, NULL, 0, NULL));
  EXPECT(BAD_THREADS, MODEL(create)(0, NULL, 0, &context));
  if (context)
    return 2;
  EXPECT(BAD_THREADS, MODEL(create)(-5, NULL, 0, &context));
  EXPECT(BAD_THREADS, MODEL(create)(CONSTANT(MAX_THREADS) + 1, NULL, 0, &context));
  EXPECT(UNALIGNED, MODEL(create)(1, workspace + 8, sizeof workspace - 8, &context));
  EXPECT(SMALL_WORKSPACE, MODEL(create)(2, workspace, bytes - 1, &context));
  EXPECT(NULL_POINTER, MODEL(run)(NULL, input, output));
  EXPECT(OK, MODEL(destroy)(NULL));
  EXPECT(UNALIGNED, MODEL(run)((void *)(workspace + 8), input, output));
  EXPECT(UNALIGNED, MODEL(destroy)((void *)(workspace + 8)));
  EXPECT(NO_CONTEXT, MODEL(run)((void *)workspace, input, output));
  EXPECT(NO_CONTEXT, MODEL(destroy)((void *)workspace));

  EXPECT(OK, MODEL(create)(2, workspace, bytes, &context));
  EXPECT(NULL_POINTER, MODEL(run)(context, NULL, output));
  EXPECT(NULL_POINTER, MODEL(run)(context, input, NULL));
  EXPECT(UNALIGNED, MODEL(run)(context, input + 1, output));
  EXPECT(UNALIGNED, MODEL(run)(context, input, output + 1));
  EXPECT(OK, MODEL(run)(context, input, output));
  EXPECT(OK, MODEL(destroy)(context));
  EXPECT(NO_CONTEXT, MODEL(run)(context, input, output));
  EXPECT(NO_CONTEXT, MODEL(destroy)(context));

  /* Memory can be used again, and a context in use is busy. */
  EXPECT(OK, MODEL(create)(1, workspace, bytes, &context));
  pthread_t thread;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  /* As much stack as the header says, and what the system itself takes of it. */
  pthread_attr_setstacksize(&attributes, 80 << 10);
  if (pthread_create(&thread, &attributes, keep_running, context) != 0)
    return 2;
  MODEL(status) found = CONSTANT(OK);
  for (int tries = 0; tries < 1000000 && found == CONSTANT(OK); ++tries)
    found = MODEL(run)(context, input, output);
  stopped = 1;
  pthread_join(thread, NULL);
  EXPECT(BUSY, found);
  EXPECT(OK, MODEL(run)(context, input, output));
  EXPECT(OK, MODEL(destroy)(context));

  for (int status = CONSTANT(OK); status <= CONSTANT(INTERNAL); ++status)
    if (strcmp(MODEL(status_text)((MODEL(status))status), "unknown status") == 0)
      return 2;
  return strcmp(MODEL(status_text)((MODEL(status))99), "unknown status") == 0 ? 0 : 2;
}

/* Runs the model that macros name on a file: run_model THREADS INPUT OUTPUT. */
#include MODEL_HEADER
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Return memory that ends at a page that cannot be touched, as near as its alignment allows. */
static unsigned char *allocate(size_t bytes) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE), end = (bytes + page - 1) / page * page;
  unsigned char *memory =
      mmap(NULL, end + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory + end, page, PROT_NONE) != 0)
    return NULL;
  return memory + (end - bytes) / CONSTANT(ALIGNMENT) * CONSTANT(ALIGNMENT);
}

static int use(const char *path, const char *mode, unsigned char *data, size_t bytes) {
  FILE *file = fopen(path, mode);
  if (!file)
    return 0;
  size_t done = mode[0] == 'r' ? fread(data, 1, bytes, file) : fwrite(data, 1, bytes, file);
  return fclose(file) == 0 && done == bytes;
}

int main(int argc, char **argv) {
  unsigned char *input = allocate(CONSTANT(INPUT_0_BYTES));
  unsigned char *output = allocate(CONSTANT(OUTPUT_0_BYTES));
  unsigned char *again = allocate(CONSTANT(OUTPUT_0_BYTES));
  if (argc != 4 || !input || !output || !again)
    return 2;
  int threads = atoi(argv[1]);
  size_t bytes = MODEL(workspace_size)(threads);
  unsigned char *workspace = allocate(bytes);
  if (!workspace || !use(argv[2], "rb", input, CONSTANT(INPUT_0_BYTES)))
    return 2;
  memset(workspace, 0xff, bytes);

  /* One context has memory of its own, the other has the caller's. */
  MODEL(context) *first = NULL, *second = NULL;
  MODEL(status) status = MODEL(create)(threads, NULL, 0, &first);
  if (!status)
    status = MODEL(create)(threads, workspace, bytes, &second);
  for (int round = 0; round < 2 && !status; ++round) {
    status = MODEL(run)(first, (const void *)input, (void *)output);
    if (!status)
      status = MODEL(run)(second, (const void *)input, (void *)again);
    if (!status && memcmp(output, again, CONSTANT(OUTPUT_0_BYTES)) != 0)
      return 3;
  }
  if (status) {
    fprintf(stderr, "%s\n", MODEL(status_text)(status));
    return 1;
  }
  if (MODEL(destroy)(first) || MODEL(destroy)(second))
    return 4;
  return use(argv[3], "wb", output, CONSTANT(OUTPUT_0_BYTES)) ? 0 : 2;
}

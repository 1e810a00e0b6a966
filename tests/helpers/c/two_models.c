/* Runs two models in turn, with two threads each, and prints their outputs. */
#include "mobilenet_v2.h"
#include "model.h"
#include <stdio.h>

#define ALIGNED __attribute__((aligned(64)))
static ALIGNED float first_input[MOBILENET_V2_INPUT_0_ELEMENTS], input[MODEL_INPUT_0_ELEMENTS];
static ALIGNED float first_output[MOBILENET_V2_OUTPUT_0_ELEMENTS], output[MODEL_OUTPUT_0_ELEMENTS];

static void fill(float *values, int count) {
  for (int i = 0; i < count; ++i)
    values[i] = 0.5f;
}

static void print(const float *values, int count) {
  for (int i = 0; i < count; ++i)
    printf("%.9g\n", (double)values[i]);
}

int main(void) {
  mobilenet_v2_context *first;
  model_context *context;
  fill(first_input, MOBILENET_V2_INPUT_0_ELEMENTS);
  fill(input, MODEL_INPUT_0_ELEMENTS);
  if (mobilenet_v2_create(2, NULL, 0, &first) || model_create(2, NULL, 0, &context))
    return 1;
  for (int round = 0; round < 3; ++round)
    if (mobilenet_v2_run(first, first_input, first_output) || model_run(context, input, output))
      return 2;
  if (mobilenet_v2_destroy(first) || model_destroy(context))
    return 3;
  print(first_output, MOBILENET_V2_OUTPUT_0_ELEMENTS);
  print(output, MODEL_OUTPUT_0_ELEMENTS);
  return 0;
}

/* Classify a picture: classify PICTURE.ppm [THREADS]
 *
 * Prints the five most likely classes. The picture is a binary PPM (P6), as `convert cat.jpg cat.ppm`
 * writes it; its centre is scaled to the network's input.
 */
#include "mobilenet_v2.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define ALIGNED __attribute__((aligned(MOBILENET_V2_ALIGNMENT)))

enum { CHANNELS = 3, CLASSES = MOBILENET_V2_OUTPUT_0_ELEMENTS, SHOWN = 5 };
static const int shape[MOBILENET_V2_INPUT_0_RANK] = MOBILENET_V2_INPUT_0_SHAPE;
static ALIGNED float input[MOBILENET_V2_INPUT_0_ELEMENTS];
static ALIGNED float output[MOBILENET_V2_OUTPUT_0_ELEMENTS];

/* As in the training of the network. */
static const float mean[CHANNELS] = {0.485f, 0.456f, 0.406f};
static const float deviation[CHANNELS] = {0.229f, 0.224f, 0.225f};

typedef struct {
  int width, height;
  unsigned char *pixels;
} picture;

/* Read a number of a PPM's header, after white space and comments; -1 if there is none. */
static int read_number(FILE *file) {
  int c = getc(file), number = 0;
  while (isspace(c) || c == '#') {
    if (c == '#')
      while (c != '\n' && c != EOF)
        c = getc(file);
    c = getc(file);
  }
  if (!isdigit(c))
    return -1;
  for (; isdigit(c) && number < 100000; c = getc(file))
    number = 10 * number + (c - '0');
  return number;
}

static int read_picture(const char *path, picture *read) {
  FILE *file = fopen(path, "rb");
  if (!file)
    return 0;
  int good = getc(file) == 'P' && getc(file) == '6';
  read->width = read_number(file);
  read->height = read_number(file);
  good = good && read->width > 0 && read->height > 0 && read_number(file) == 255;
  const size_t bytes = good ? (size_t)read->width * (size_t)read->height * CHANNELS : 0;
  read->pixels = good ? malloc(bytes) : NULL;
  good = read->pixels && fread(read->pixels, 1, bytes, file) == bytes;
  fclose(file);
  return good;
}

static float pixel(const picture *from, int x, int y, int channel) {
  const size_t number = (size_t)y * (size_t)from->width + (size_t)x;
  return from->pixels[number * CHANNELS + (size_t)channel];
}

/* Return a value between the four pixels around a place. */
static float at(const picture *from, float x, float y, int channel) {
  const int left = (int)x, top = (int)y;
  const int right = left + 1 < from->width ? left + 1 : left;
  const int bottom = top + 1 < from->height ? top + 1 : top;
  const float dx = x - (float)left, dy = y - (float)top;
  const float upper =
      pixel(from, left, top, channel) * (1 - dx) + pixel(from, right, top, channel) * dx;
  const float lower =
      pixel(from, left, bottom, channel) * (1 - dx) + pixel(from, right, bottom, channel) * dx;
  return upper * (1 - dy) + lower * dy;
}

/* Fill the input, [1, channels, height, width], with the centre of a picture. */
static void prepare(const picture *from) {
  const int height = shape[2], width = shape[3];
  const int side = from->width < from->height ? from->width : from->height;
  const float left = (float)(from->width - side) / 2, top = (float)(from->height - side) / 2;
  float *value = input;
  for (int channel = 0; channel < CHANNELS; ++channel)
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x) {
        const float fx = ((float)x + 0.5f) * (float)side / (float)width - 0.5f;
        const float fy = ((float)y + 0.5f) * (float)side / (float)height - 0.5f;
        const float found = at(from, left + fmaxf(fx, 0), top + fmaxf(fy, 0), channel) / 255;
        *value++ = (found - mean[channel]) / deviation[channel];
      }
}

static void print_classes(void) {
  float largest = output[0], sum = 0;
  for (int i = 1; i < CLASSES; ++i)
    largest = fmaxf(largest, output[i]);
  for (int i = 0; i < CLASSES; ++i)
    sum += output[i] = expf(output[i] - largest);
  for (int shown = 0; shown < SHOWN && shown < CLASSES; ++shown) {
    int best = 0;
    for (int i = 1; i < CLASSES; ++i)
      if (output[i] > output[best])
        best = i;
    printf("%.3f  class %d\n", (double)(output[best] / sum), best);
    output[best] = -1;
  }
}

int main(int argc, char **argv) {
  picture read;
  if (argc < 2 || argc > 3) {
    fprintf(stderr, "usage: %s PICTURE.ppm [THREADS]\n", argv[0]);
    return 2;
  }
  if (!read_picture(argv[1], &read)) {
    fprintf(stderr, "%s: not a binary PPM of 8 bits a channel that can be read\n", argv[1]);
    return 1;
  }
  prepare(&read);
  free(read.pixels);
  mobilenet_v2_context *context;
  mobilenet_v2_status status =
      mobilenet_v2_create(argc > 2 ? atoi(argv[2]) : 1, NULL, 0, &context);
  if (status == MOBILENET_V2_OK)
    status = mobilenet_v2_run(context, input, output);
  if (status != MOBILENET_V2_OK) {
    fprintf(stderr, "%s\n", mobilenet_v2_status_text(status));
    return 1;
  }
  mobilenet_v2_destroy(context);
  print_classes();
  return 0;
}

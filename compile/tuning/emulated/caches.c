#include "caches.h"

#include <stdlib.h>
#include <string.h>

static CacheLevel make_level(uint64_t bytes, uint64_t ways) {
  CacheLevel level = {bytes / (LINE_BYTES * ways), ways, NULL};
  level.lines = calloc(level.sets * ways, sizeof(uint64_t));
  if (!level.lines) abort();
  return level;
}

/* Makes a line the most recently used one of its set; returns whether it was there. */
static int use(CacheLevel* level, uint64_t line) {
  uint64_t* set = level->lines + line % level->sets * level->ways;
  uint64_t tag = line + 1, place = 0;
  while (place < level->ways - 1 && set[place] != tag) place++;
  int found = set[place] == tag;
  memmove(set + 1, set, place * sizeof(uint64_t));
  set[0] = tag;
  return found;
}

void caches_make(Caches* caches, uint64_t l1_bytes, uint64_t l1_ways, uint64_t l2_bytes,
                 uint64_t l2_ways) {
  caches->l1 = make_level(l1_bytes, l1_ways);
  caches->l2 = make_level(l2_bytes, l2_ways);
}

void caches_touch(Caches* caches, uint64_t address, uint64_t bytes, uint64_t* from_l2,
                  uint64_t* from_memory) {
  uint64_t last = (address + bytes - 1) / LINE_BYTES;
  for (uint64_t line = address / LINE_BYTES; line <= last; line++) {
    if (use(&caches->l1, line)) continue;
    ++*from_l2;
    if (!use(&caches->l2, line)) ++*from_memory;
  }
}

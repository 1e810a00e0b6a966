/* Simulates the data caches of one core: two levels, least-recently-used replacement. */
#ifndef CACHES_H
#define CACHES_H

#include <stdint.h>

#define LINE_BYTES 64

typedef struct {
  uint64_t sets, ways;
  uint64_t* lines; /* per set, the most recently used one first; a line's number plus 1, or 0 */
} CacheLevel;

typedef struct {
  CacheLevel l1, l2;
} Caches;

/* Makes empty caches. */
void caches_make(Caches* caches, uint64_t l1_bytes, uint64_t l1_ways, uint64_t l2_bytes,
                 uint64_t l2_ways);

/* Reads or writes memory, and adds the lines that it takes from the second level, and those of them
 * that come from memory. A write takes its line as a read does; lines written back do not count. */
void caches_touch(Caches* caches, uint64_t address, uint64_t bytes, uint64_t* from_l2,
                  uint64_t* from_memory);

#endif

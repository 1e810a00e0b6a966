/* A plug-in for qemu's user-mode emulation: counts what a program executes.
 *
 *     qemu-aarch64 -plugin counter.so,out=FILE,l1_bytes=32768,l1_ways=4,...
 *
 * The program ends a section with prctl(MARK, NUMBER), and the first one starts with its first mark.
 * FILE gets each section whose number is not 0: a line `section NUMBER`, and a line for each block
 * of instructions that was executed in it, with hexadecimal numbers: its address, its executions,
 * the cache lines that it took from the second level, those of them that came from memory, and its
 * instructions, of which x86-64's are cut or padded to four bytes. What threads execute at the same time is not counted reliably.
 *
 * The declarations are the part of the interface that is used here, of version 1, which qemu 4.2 to
 * 8.2 have.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "caches.h"

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { QEMU_PLUGIN_CB_NO_REGS = 0 };
enum { QEMU_PLUGIN_MEM_RW = 3 };
enum { QEMU_PLUGIN_INLINE_ADD_U64 = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t,
                                           void (*)(qemu_plugin_id_t, struct qemu_plugin_tb*));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb*, int operation, void* counter,
                                              uint64_t operand);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn*,
                                      void (*)(unsigned cpu, qemu_plugin_meminfo_t,
                                               uint64_t address, void* data),
                                      int flags, int accesses, void* data);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t,
                                          void (*)(qemu_plugin_id_t, unsigned cpu, int64_t number,
                                                   uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                                   uint64_t, uint64_t, uint64_t));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb*);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t index);
const void* qemu_plugin_insn_data(const struct qemu_plugin_insn*);
unsigned qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t);

EXPORT int qemu_plugin_version = 1;

/* prctl's number on aarch64 and on x86-64. */
enum { AARCH64_PRCTL = 167, X86_64_PRCTL = 157, MARK = 0x41524d43 };

typedef struct Block {
  struct Block* next;
  uint64_t address, executions, from_l2, from_memory;
  size_t size;
  uint32_t words[];
} Block;

static Block* blocks;
static Caches caches;
static bool counting;
static FILE* out;

static void access_memory(unsigned cpu, qemu_plugin_meminfo_t info, uint64_t address, void* data) {
  (void)cpu;
  if (!counting) return;
  Block* block = data;
  uint64_t bytes = UINT64_C(1) << qemu_plugin_mem_size_shift(info);
  caches_touch(&caches, address, bytes, &block->from_l2, &block->from_memory);
}

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb* tb) {
  (void)id;
  size_t size = qemu_plugin_tb_n_insns(tb);
  Block* block = calloc(1, sizeof(Block) + size * sizeof(uint32_t));
  if (!block) abort();
  *block = (Block){.next = blocks, .address = qemu_plugin_tb_vaddr(tb), .size = size};
  blocks = block;
  qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &block->executions, 1);
  for (size_t i = 0; i < size; i++) {
    struct qemu_plugin_insn* insn = qemu_plugin_tb_get_insn(tb, i);
    memcpy(&block->words[i], qemu_plugin_insn_data(insn), sizeof(uint32_t));
    qemu_plugin_register_vcpu_mem_cb(insn, access_memory, QEMU_PLUGIN_CB_NO_REGS,
                                     QEMU_PLUGIN_MEM_RW, block);
  }
}

static void end_section(uint64_t number) {
  if (number) fprintf(out, "section %" PRIu64 "\n", number);
  for (Block* block = blocks; block; block = block->next) {
    if (number && block->executions) {
      fprintf(out, "%" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64, block->address,
              block->executions, block->from_l2, block->from_memory);
      for (size_t i = 0; i < block->size; i++) fprintf(out, " %" PRIx32, block->words[i]);
      fputc('\n', out);
    }
    block->executions = block->from_l2 = block->from_memory = 0;
  }
  if (fflush(out)) {
    perror("counter");
    exit(1);
  }
  counting = true;
}

static void call_system(qemu_plugin_id_t id, unsigned cpu, int64_t number, uint64_t a, uint64_t b,
                        uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
  (void)id, (void)cpu, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
  if ((number == AARCH64_PRCTL || number == X86_64_PRCTL) && a == MARK) end_section(b);
}

/* Returns the value of an argument, `NAME=VALUE`. */
static const char* argument(int argc, char** argv, const char* name) {
  size_t length = strlen(name);
  for (int i = 0; i < argc; i++)
    if (!strncmp(argv[i], name, length) && argv[i][length] == '=') return argv[i] + length + 1;
  fprintf(stderr, "counter: no argument %s=\n", name);
  exit(1);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void* info, int argc, char** argv) {
  (void)info;
  const char* path = argument(argc, argv, "out");
  out = fopen(path, "w");
  if (!out) {
    perror(path);
    return 1;
  }
  caches_make(&caches, strtoull(argument(argc, argv, "l1_bytes"), NULL, 10),
              strtoull(argument(argc, argv, "l1_ways"), NULL, 10),
              strtoull(argument(argc, argv, "l2_bytes"), NULL, 10),
              strtoull(argument(argc, argv, "l2_ways"), NULL, 10));
  qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
  qemu_plugin_register_vcpu_syscall_cb(id, call_system);
  return 0;
}

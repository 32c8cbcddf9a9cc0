/* How many instructions did a program execute, and of which kinds? A plugin of qemu's emulator (TCG), by translation block.
 *
 * Built by tests/arm/instructions. Debian's qemu-user loads plugins but ships no header for them, so the few functions of
 * the interface (version 1, qemu 4.2 and later) are declared here. Argument: kinds=A:B:C counts, besides all instructions,
 * those whose mnemonic is A, B or C; with A/x only those whose first operand begins with the letter x, for 32-bit ARM
 * calls what is done to one number (vmla.f32 s0, …) and to four (vmla.f32 q0, …) by one name. When the program ends, a
 * line of "name count" pairs goes to qemu's log (-D FILE).
 *
 * A block is counted when it is entered, so one that a fault or a signal leaves half way counts whole: the program under it
 * should have one thread and no timers. */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

/* ---- the interface, as qemu documents it ("QEMU TCG Plugins") ---- */
typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum inline_op { INLINE_ADD_U64 };
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum inline_op, void *, uint64_t);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern char *qemu_plugin_insn_disas(const struct qemu_plugin_insn *);
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
extern void qemu_plugin_outs(const char *);
EXPORT int qemu_plugin_version = 1;

/* ---- the counts ---- */
enum { KINDS_MAX = 16 };
static uint64_t all;
static char *kinds[KINDS_MAX];
static uint64_t counts[KINDS_MAX];
static size_t kinds_count;

/* Whether the disassembled line begins with that mnemonic, and its operands with that letter where the kind has one. */
static bool is_kind(const char *line, const char *kind) {
  size_t length = strcspn(kind, "/");
  line += strspn(line, " \t");
  if (strncmp(line, kind, length) != 0 || (line[length] != '\0' && strchr(" \t.", line[length]) == NULL)) {
    return false;
  }
  const char *operands = line + strcspn(line, " \t");
  operands += strspn(operands, " \t");
  return kind[length] == '\0' || *operands == kind[length + 1];
}

static void on_translation(plugin_id id, struct qemu_plugin_tb *tb) {
  (void)id;
  size_t length = qemu_plugin_tb_n_insns(tb);
  qemu_plugin_register_vcpu_tb_exec_inline(tb, INLINE_ADD_U64, &all, length);
  uint64_t found[KINDS_MAX] = {0};
  for (size_t at = 0; kinds_count != 0 && at < length; at++) {
    char *line = qemu_plugin_insn_disas(qemu_plugin_tb_get_insn(tb, at));
    for (size_t kind = 0; line != NULL && kind < kinds_count; kind++) {
      found[kind] += is_kind(line, kinds[kind]);
    }
    free(line);
  }
  for (size_t kind = 0; kind < kinds_count; kind++) {
    if (found[kind] != 0) {
      qemu_plugin_register_vcpu_tb_exec_inline(tb, INLINE_ADD_U64, &counts[kind], found[kind]);
    }
  }
}

static void on_exit_of_program(plugin_id id, void *data) {
  (void)id;
  (void)data;
  char line[64 + KINDS_MAX * 64];
  int at = snprintf(line, sizeof line, "instructions %" PRIu64, all);
  for (size_t kind = 0; kind < kinds_count; kind++) {
    at += snprintf(line + at, sizeof line - (size_t)at, " %.32s %" PRIu64, kinds[kind], counts[kind]);
  }
  snprintf(line + at, sizeof line - (size_t)at, "\n");
  qemu_plugin_outs(line);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
  (void)info;
  for (int at = 0; at < argc; at++) {
    if (strncmp(argv[at], "kinds=", 6) != 0) {
      fprintf(stderr, "count: unknown argument %s\n", argv[at]);
      return 1;
    }
    char *names = strdup(argv[at] + 6);
    for (char *name = strtok(names, ":"); name != NULL; name = strtok(NULL, ":")) {
      if (kinds_count == KINDS_MAX) {
        fprintf(stderr, "count: more than %d kinds\n", KINDS_MAX);
        return 1;
      }
      kinds[kinds_count++] = name;
    }
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  qemu_plugin_register_atexit_cb(id, on_exit_of_program, NULL);
  return 0;
}

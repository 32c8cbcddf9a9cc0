/* Becomes qemu-user for a program that the kernel's binfmt_misc hands over (flag P: file, its own name, its arguments).
   The kernel cannot give options, and variables get lost where a program starts another without them: so they are here. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **given) {
  if (count < 3) {
    fputs("this is for binfmt_misc with the flag P\n", stderr);
    return 64;
  }
  char *const options[] = {QEMU, "-0", given[2], "-cpu", CPU, "-L", PREFIX, given[1]};
  const int own = sizeof options / sizeof *options;
  char **all = calloc((size_t)(own + count), sizeof *all);
  if (all == NULL) return 71;
  for (int i = 0; i < own; i++) all[i] = options[i];
  for (int i = 3; i < count; i++) all[own + i - 3] = given[i];
  execv(QEMU, all);
  perror(QEMU);
  return 71;
}

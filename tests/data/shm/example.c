/*
 * How an L1 tells Neap its load. Compile:  cc -std=c99 -O2 -Iinclude -o example tests/data/shm/example.c
 *
 *     example PATH CELL DL UL LATE [gone]    write one reading (permille) and ring
 *     example layout                         print where each field is
 */
#include "neap_load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELD(name) printf(#name " %lu\n", (unsigned long)offsetof(struct neap_load_page, name))

static int print_layout(void) {
    printf("size %lu\n", (unsigned long)sizeof(struct neap_load_page));
    printf("MAGIC %lu\nEND %lu\n", (unsigned long)NEAP_LOAD_MAGIC, (unsigned long)NEAP_LOAD_END);
    printf("VERSION %lu\nGONE %lu\n", (unsigned long)NEAP_LOAD_VERSION, (unsigned long)NEAP_LOAD_GONE);
    FIELD(magic);
    FIELD(version);
    FIELD(sequence);
    FIELD(doorbell);
    FIELD(cell_low);
    FIELD(dl_permille);
    FIELD(ul_permille);
    FIELD(late_low);
    FIELD(stamp_ns_low);
    FIELD(flags);
    FIELD(reserved);
    FIELD(end);
    return 0;
}

int main(int count, char **arguments) {
    struct neap_load load;
    uint64_t cell;
    int error;
    if (count == 2 && strcmp(arguments[1], "layout") == 0)
        return print_layout();
    if (count < 6) {
        fprintf(stderr, "usage: example PATH CELL DL UL LATE [gone]\n");
        return 64;
    }
    error = neap_load_open(&load, arguments[1]);
    if (error != 0) {
        fprintf(stderr, "%s: %s\n", arguments[1], strerror(error));
        return 69;
    }
    cell = strtoull(arguments[2], NULL, 10);
    if (count > 6) {
        neap_load_write_gone(&load, cell, neap_load_now());
    } else {
        uint32_t dl = (uint32_t)strtoul(arguments[3], NULL, 10);
        uint32_t ul = (uint32_t)strtoul(arguments[4], NULL, 10);
        neap_load_write(&load, cell, dl, ul, strtoull(arguments[5], NULL, 10), neap_load_now());
    }
    neap_load_ring(&load);
    neap_load_close(&load);
    return 0;
}

/*
 * neap_load.h - tell Neap how busy the radio is, through shared memory.
 *
 * Neap runs inference in the troughs of a base station's load and stops it within microseconds when the load rises.
 * This is the fastest way to tell it: a page of 64 bytes under a sequence lock, and a futex as doorbell.
 * One file, no library, C99 or later with GCC or Clang on Linux. SPDX-License-Identifier: Apache-2.0
 *
 *     struct neap_load load;
 *     int error = neap_load_open(&load, "/run/neap/load.shm");            once, at start
 *     ...
 *     neap_load_write(&load, cell, dl, ul, late, neap_load_now());        each slot, or as often as the load is known
 *     if (the load rose, or a slot was late)
 *         neap_load_ring(&load);                                          now, not at the next look
 *
 * Who makes the file: the agent (`neap run`), from a [[load]] of kind "shm", and it leaves it there when it ends, so that
 * this mapping stays good when the agent restarts. neap_load_open gives ENOENT before the agent's first start: try again
 * later. Nobody else may make, truncate, replace or remove it while anybody uses it: a truncated page raises SIGBUS in
 * your process (the agent survives it, and treats the node as busy until both are restarted with a new file).
 *
 * Which thread: any ONE thread at a time writes the page. Two that write at once make readings that are mixtures; guard
 * the calls, or let one of them do it. neap_load_ring may be called by any thread. All functions but neap_load_open and
 * neap_load_close may be called from real-time threads: no lock, no allocation, no wait.
 *
 * Cost: neap_load_write is some 15 stores to one cache line, tens of nanoseconds, and no system call. neap_load_ring is one
 * FUTEX_WAKE, about a microsecond, more when it wakes the sentinel (then it also sends an interrupt to its core).
 *
 * When to ring: when the load rises above what inference may run beside (busy_above in Neap's configuration), when the
 * count of late slots changes, and when a cell comes or goes. To ring for each reading is right too, up to some thousand
 * a second. A reading without a ring is seen at the latest after a third of freshness_ms, which is early enough for load
 * that falls. Ring AFTER neap_load_write: the ring then carries the reading with it (release, acquire).
 *
 * How often to write: a reading counts for freshness_ms (2 s unless configured) from its stamp; after that the node is
 * busy. Write at least three times in that span, also while nothing changes.
 *
 * What the agent makes of it: it takes the higher of dl and ul. A level above 1000, an unknown flag, a stamp more than
 * 10 ms ahead of the clock, or a writer that dies half way through a reading all mean "busy" until the next good reading.
 * A count of late slots that changes in any direction stops inference for at least a second, whatever the levels.
 *
 * Several cells: one page carries one reading, so write the busiest cell, always under the same cell id, or use Neap's
 * push source, which takes one line for each cell.
 *
 * Byte order and layout: 32-bit words in the byte order of the host; 64-bit values as two words, low half first, so that
 * machines without 64-bit atomics need no lock for them. The sequence is odd while a reading is being written.
 */
#ifndef NEAP_LOAD_H
#define NEAP_LOAD_H

/* clock_gettime and O_CLOEXEC are POSIX, not C99: ask for them before the first system header. */
#if !defined(_POSIX_C_SOURCE) && !defined(_GNU_SOURCE) && !defined(_DEFAULT_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if !defined(CLOCK_MONOTONIC) || !defined(O_CLOEXEC)
#error "include neap_load.h before the system headers, or compile with -D_POSIX_C_SOURCE=200809L"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* From <unistd.h>, where it is hidden from strict C99. */
long syscall(long number, ...);

#define NEAP_LOAD_MAGIC 0x5041454eu   /* "NEAP" on a little-endian host */
#define NEAP_LOAD_END 0x4e454150u     /* the same, backwards */
#define NEAP_LOAD_VERSION 1u
#define NEAP_LOAD_PERMILLE_MAX 1000u  /* all PRBs in use */
#define NEAP_LOAD_GONE 1u             /* flag: the cell was taken out of service */

/* The page. Use the functions below; the fields are for those who must write it in other ways. */
struct neap_load_page {
    uint32_t magic;         /* by the agent, once */
    uint32_t version;       /* by the agent, once */
    uint32_t sequence;      /* odd while a reading is being written; 0 before the first */
    uint32_t doorbell;      /* raised by one, then FUTEX_WAKE */
    uint32_t cell_low;      /* PCI or NCGI */
    uint32_t cell_high;
    uint32_t dl_permille;   /* RRU.PrbTotDl of 3GPP TS 28.552 in permille, 0 to 1000 */
    uint32_t ul_permille;   /* RRU.PrbTotUl in permille, 0 to 1000 */
    uint32_t late_low;      /* running count of late or missed slots since the RAN started */
    uint32_t late_high;
    uint32_t stamp_ns_low;  /* when it was measured, CLOCK_MONOTONIC */
    uint32_t stamp_ns_high;
    uint32_t flags;         /* NEAP_LOAD_GONE or 0 */
    uint32_t reserved[2];   /* 0 */
    uint32_t end;           /* by the agent, once */
};

/* Compiles only if the page is 64 bytes. */
typedef char neap_load_page_is_64_bytes[sizeof(struct neap_load_page) == 64 ? 1 : -1];

struct neap_load {
    struct neap_load_page *page;
};

/* Maps the page. 0, or an errno value: ENOENT before the agent's first start, EACCES for a user outside the file's group,
 * EINVAL for a file that is no page of this version. */
static inline int neap_load_open(struct neap_load *load, const char *path) {
    struct stat found;
    void *mapped;
    struct neap_load_page *page;
    int error;
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    load->page = NULL;
    if (fd < 0)
        return errno;
    if (fstat(fd, &found) != 0) {
        error = errno;
        close(fd);
        return error;
    }
    if (!S_ISREG(found.st_mode) || found.st_size != (off_t)sizeof(struct neap_load_page)) {
        close(fd);
        return EINVAL;
    }
    mapped = mmap(NULL, sizeof(struct neap_load_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    error = errno;
    close(fd);
    if (mapped == MAP_FAILED)
        return error;
    page = (struct neap_load_page *)mapped;
    if (page->magic != NEAP_LOAD_MAGIC || page->version != NEAP_LOAD_VERSION || page->end != NEAP_LOAD_END) {
        munmap(mapped, sizeof(struct neap_load_page));
        return EINVAL;
    }
    load->page = page;
    return 0;
}

/* Unmaps the page. The file stays; the last reading counts until it is too old. */
static inline void neap_load_close(struct neap_load *load) {
    if (load->page != NULL)
        munmap(load->page, sizeof(struct neap_load_page));
    load->page = NULL;
}

/* Now, as a stamp: nanoseconds of CLOCK_MONOTONIC. */
static inline uint64_t neap_load_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* One word. Relaxed: the fences and the sequence below give the order. */
static inline void neap_load_store(uint32_t *word, uint32_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

/* Writes a reading with flags; see neap_load_write. One writer at a time. Repairs what a writer that died has left. */
static inline void neap_load_write_flags(struct neap_load *load, uint64_t cell, uint32_t dl_permille,
                                         uint32_t ul_permille, uint64_t late, uint64_t stamp_ns, uint32_t flags) {
    struct neap_load_page *page = load->page;
    uint32_t odd = __atomic_load_n(&page->sequence, __ATOMIC_RELAXED) | 1u;
    neap_load_store(&page->sequence, odd);
    /* No word below becomes visible before the odd sequence does... */
    __atomic_thread_fence(__ATOMIC_RELEASE);
    neap_load_store(&page->cell_low, (uint32_t)cell);
    neap_load_store(&page->cell_high, (uint32_t)(cell >> 32));
    neap_load_store(&page->dl_permille, dl_permille);
    neap_load_store(&page->ul_permille, ul_permille);
    neap_load_store(&page->late_low, (uint32_t)late);
    neap_load_store(&page->late_high, (uint32_t)(late >> 32));
    neap_load_store(&page->stamp_ns_low, (uint32_t)stamp_ns);
    neap_load_store(&page->stamp_ns_high, (uint32_t)(stamp_ns >> 32));
    neap_load_store(&page->flags, flags);
    /* ...and the even sequence does not before all of them have. */
    __atomic_store_n(&page->sequence, odd + 1u, __ATOMIC_RELEASE);
}

/* Writes a reading: PRB usage down and up in permille, the running count of late or missed slots (0 if there is no such
 * count), and when it was measured. No system call. */
static inline void neap_load_write(struct neap_load *load, uint64_t cell, uint32_t dl_permille, uint32_t ul_permille,
                                   uint64_t late, uint64_t stamp_ns) {
    neap_load_write_flags(load, cell, dl_permille, ul_permille, late, stamp_ns, 0);
}

/* Says that the cell was taken out of service and counts no longer. With no cell left the node is busy, not idle. */
static inline void neap_load_write_gone(struct neap_load *load, uint64_t cell, uint64_t stamp_ns) {
    neap_load_write_flags(load, cell, 0, 0, 0, stamp_ns, NEAP_LOAD_GONE);
}

/* Rings: the sentinel looks now. One system call; never waits. */
static inline void neap_load_ring(struct neap_load *load) {
    uint32_t *doorbell = &load->page->doorbell;
    __atomic_fetch_add(doorbell, 1u, __ATOMIC_RELEASE);
    /* 1 = FUTEX_WAKE, shared between processes; all who sleep there, so that no stranger takes the one wake. */
#ifdef SYS_futex
    syscall(SYS_futex, doorbell, 1, INT_MAX, NULL, NULL, 0);
#else
    syscall(SYS_futex_time64, doorbell, 1, INT_MAX, NULL, NULL, 0);
#endif
}

#ifdef __cplusplus
}
#endif

#endif

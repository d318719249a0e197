/* Resolving the guest's faults: the uffd, the fill that makes a page present, and the counts of both. */
#ifndef EXITSCOPE_GUEST_PAGING_H
#define EXITSCOPE_GUEST_PAGING_H

#include "delay.h"
#include "memory.h"

#include <stdatomic.h>

/* Faults on one vCPU's pages, on a cache line of its own. */
struct fault_counts {
    _Alignas(64) _Atomic uint64_t faults; /* first event (uffd) or -EFAULT (exit) of a page in a round */
    _Atomic uint64_t repeats;             /* any further one of the same page in the same round */
};

struct paging {
    const struct options *options;
    struct memory *memory;
    int uffd;                    /* -1: none, or closed */
    _Atomic uint8_t *faulted;    /* per page, in this round */
    struct fault_counts *counts; /* per vCPU */
    _Atomic uint64_t demand_fills, background_fills, present_already;
};

enum fill { FILL_DEMAND, FILL_BACKGROUND };

/* Opens the uffd (mode uffd and exit) and registers all of the memory with it. */
void paging_create(struct paging *paging, const struct options *options, struct memory *memory);

/* Notes a fault of `page`, seen by a handler thread or by the vCPU thread. */
void paging_count_fault(struct paging *paging, uint64_t page);

/* Makes `page` present by UFFDIO_COPY of `scratch` (PAGE_SIZE bytes, overwritten) or by UFFDIO_CONTINUE, and
 * wakes who waits for it. False when somebody else had filled it (EEXIST). */
bool paging_fill(struct paging *paging, uint64_t page, enum fill kind, uint8_t *scratch);

/* A page for paging_fill to copy from; the caller frees it. */
uint8_t *paging_scratch(void);

/* "COPY", "CONTINUE" or NULL (mode none). */
const char *paging_resolver(const struct paging *paging);

/* Drops all pages and begins a round; no vCPU may be running. */
void paging_drop(struct paging *paging);

/* Closes the uffd: the kernel lets all waiters go, and they find zero pages (missing) or the page cache
 * (minor). No handler thread may be left: a poll of the uffd would keep it open. */
void paging_close(struct paging *paging);

#endif

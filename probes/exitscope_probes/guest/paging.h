/* Resolving the guest's faults: the uffd, the fill that makes a page present, and the counts of both. */
#ifndef EXITSCOPE_GUEST_PAGING_H
#define EXITSCOPE_GUEST_PAGING_H

#include "delay.h"
#include "resolver.h"

#include <stdatomic.h>

/* Faults on the pages of one who touches them, on a cache line of its own. */
struct fault_counts {
    _Alignas(64) _Atomic uint64_t faults; /* first event (uffd) or -EFAULT (exit) of a page in a round */
    _Atomic uint64_t repeats;             /* any further one of the same page in the same round */
};

struct paging {
    const struct options *options;
    struct memory *memory;
    int uffd;                    /* -1: none, or closed */
    int vm_fd;                   /* mode memory_fault: whose memslots are to be changed */
    _Atomic uint8_t *faulted;    /* per page, in this round */
    _Atomic uint8_t *ranges;     /* --fill-pages: state of each range in this round, else NULL */
    struct fault_counts *counts; /* per vCPU, then per vCPU thread in userspace, then of the VMM thread */
    _Atomic uint64_t demand_fills, background_fills, present_already;
    _Atomic uint64_t repaired; /* pages poisoned before */
};

enum fill { FILL_DEMAND, FILL_BACKGROUND };

/* Opens the uffd (mode uffd and exit) and registers all of the memory with it. */
void paging_create(struct paging *paging, const struct options *options, struct memory *memory);

/* Counts of the faults that a vCPU has had in the guest, its thread in userspace, the VMM thread. */
struct fault_counts *counts_of_vcpu(const struct paging *paging, uint64_t vcpu);
struct fault_counts *counts_of_device(const struct paging *paging, uint64_t vcpu);
struct fault_counts *counts_of_vmm(const struct paging *paging);

/* Notes a fault of `page`, seen by a handler thread or by the vCPU thread. */
void paging_count_fault(struct paging *paging, uint64_t page);

/* Makes `page` present, with --fill-pages the whole range that it is in, and wakes who waits for it. `scratch`: of
 * scratch_create. False when somebody else had filled it. */
bool paging_fill(struct paging *paging, uint64_t page, enum fill kind, uint8_t *scratch);

/* Puts content where UFFDIO_POISON left a mark. */
void paging_repair(struct paging *paging, uint64_t page, uint8_t *scratch);

/* Drops all pages and begins a round; no vCPU may be running. */
void paging_drop(struct paging *paging);

/* Closes the uffd: the kernel lets all waiters go, and they find zero pages (missing) or the page cache
 * (minor). No handler thread may be left: a poll of the uffd would keep it open. */
void paging_close(struct paging *paging);

#endif

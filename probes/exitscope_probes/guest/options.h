/* The command line of `exitscope guest`. */
#ifndef EXITSCOPE_GUEST_OPTIONS_H
#define EXITSCOPE_GUEST_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#define MAX_VCPUS 256
#define MAX_HANDLERS 64
#define MAX_BATCH 256
#define NEVER UINT64_MAX
#define MAX_FILL_PAGES 512
#define MAX_PAGES (1UL << 24)  /* 64 GiB of guest memory, what the guest's page tables map */
#define MAX_GMEM_PAGES 30000UL /* a memslot and a mapping each: KVM_USER_MEM_SLOTS, vm.max_map_count */

enum mode { MODE_NONE, MODE_UFFD, MODE_EXIT, MODE_MEMORY_FAULT };
enum backing { BACKING_ANON, BACKING_SHMEM, BACKING_GMEM };
enum fault { FAULT_MISSING, FAULT_MINOR };
enum resolver {
    RESOLVER_OTHER, /* nobody (mode none), or a new memslot (mode memory_fault) */
    RESOLVER_COPY,
    RESOLVER_CONTINUE,
    RESOLVER_ZEROPAGE,
    RESOLVER_MOVE,
    RESOLVER_POISON,
    RESOLVER_POPULATE,
};
enum page_order { ORDER_SEQ, ORDER_RANDOM };
enum delay_dist { DELAY_NONE, DELAY_FIXED, DELAY_EXP };

struct options {
    enum mode mode;
    enum backing backing;
    enum fault fault;
    enum resolver resolver;
    enum page_order order;
    enum delay_dist delay_dist;
    uint64_t vcpus, pages, handlers, batch, rounds, seed;
    uint64_t delay_ns, think_ns;
    uint64_t prefill_percent, fill_pages;
    uint64_t vmm_touch, vcpu_touch; /* pages beside `pages`: of the VMM thread, of each vCPU thread */
    bool interleave, gather;
    bool async, thread_id, verify, fault_free_pass, wait_start;
    const char *name;
    uint64_t pause_before_exit_ms;
    /* Test aids. */
    bool hold_fault, livelock;
    uint64_t close_uffd_after_ms, kill_handlers_after; /* or NEVER */
};

/* Ends the process with status 2 and one line on wrong usage, with status 0 after --help. */
void options_parse(struct options *options, int argc, char **argv);

const char *mode_name(enum mode mode);
const char *backing_name(enum backing backing);
const char *fault_name(enum fault fault);
/* As exitscope's records name it (probes/exitscope_probes/records.py). */
const char *resolver_name(enum resolver resolver);

const char *order_name(enum page_order order);
const char *delay_name(enum delay_dist dist);

#endif

/* events.h: the one truth about what leaves the kernel: records in the ring, totals in mapped arrays.
 *
 * Mirrored by records.py and histogram.py; tests/unit/test_records.py compiles this header and compares every
 * size and offset. All times are CLOCK_MONOTONIC nanoseconds. No field wraps or saturates within a human lifetime,
 * except histogram buckets: u32, read as differences modulo 2^32 at several Hz.
 */
#ifndef EXITSCOPE_EVENTS_H
#define EXITSCOPE_EVENTS_H

/* How a fault surfaced. */
#define MODE_UFFD 0         /* the vCPU thread slept until a userfaultfd handler resolved the page */
#define MODE_EXIT 1         /* KVM_RUN returned a bare -EFAULT */
#define MODE_MEMORY_FAULT 2 /* KVM_RUN returned KVM_EXIT_MEMORY_FAULT with -EFAULT or -EHWPOISON */
#define MODE_ASYNC 3        /* an async page fault: a kworker waited */
#define MODE_KERNEL 4       /* solved without userspace: in totals only, never one record each */
#define MODES 5

/* Who waited. */
#define WAITER_VCPU 0
#define WAITER_ASYNC 1
#define WAITER_OTHER 2 /* vhost, the VMM's own threads */

/* What made the page present. */
#define RESOLVER_OTHER 0
#define RESOLVER_COPY 1
#define RESOLVER_CONTINUE 2
#define RESOLVER_ZEROPAGE 3
#define RESOLVER_MOVE 4
#define RESOLVER_POISON 5
#define RESOLVER_WAKE 6
#define RESOLVER_MADV_POPULATE 7
#define RESOLVER_WRITEPROTECT 8 /* UFFDIO_WRITEPROTECT that lifts the protection: places nothing */
#define RESOLVER_RELEASED 9 /* nothing did: the userfaultfd was closed or unregistered, and the wait ended with it */

/* Fills are counted in cells: a resolver's own, and WRITEPROTECT in that of RESOLVER_OTHER, which never fills. */
#define FILLS 8

/* Why fills fail: cells of vm_totals.failed_by. */
#define FAILURE_EEXIST 0
#define FAILURE_EAGAIN 1
#define FAILURE_ENOENT 2
#define FAILURE_ESRCH 3
#define FAILURE_EFAULT 4
#define FAILURE_ENOMEM 5
#define FAILURE_EINVAL 6
#define FAILURE_OTHER 7
#define FAILURES 8

/* What was seen of a fault; a stage whose ends were not seen has length 0 and is left out of its histogram. */
#define SEEN_ACCESS 1 /* begin_ns is the access; else the first sign of the fault */
#define SEEN_SLEEP 2  /* the waiter was switched out */
#define SEEN_READ 4   /* a handler read the uffd event */
#define SEEN_FILL 8   /* the resolving ioctl or madvise was seen */
#define SEEN_HALT 16  /* async: the vCPU stood still meanwhile */
#define SEEN_RANGE 32 /* the fill covered several pages; hva is the fill's first unless gpa is known */
#define SEEN_NAMED                                                                                                     \
    64 /* whose event it was was known as it was read: by UFFD_FEATURE_THREAD_ID, or by handle_userfault */
#define SEEN_UNFILLED 128 /* the waiter went on from handle_userfault, and no fill had woken it */

/* What the guest wanted to do with the page. */
#define ACCESS_READ 1
#define ACCESS_WRITE 2
#define ACCESS_EXEC 4

/* Whether the host had the page when the guest asked for it. */
#define PRESENCE_UNKNOWN 0
#define PRESENCE_MISSING 1 /* nowhere */
#define PRESENCE_MINOR 2   /* in the page cache, not in the page tables */
#define PRESENCE_WP 3      /* mapped, write-protected by userfaultfd */
#define PRESENCE_MAPPED 4  /* mapped */

#define ADDRESS_UNKNOWN (~0ULL)
#define MEMSLOT_UNKNOWN (-1)
#define VCPU_OTHER 0xffffffffU /* the row of a VM's threads that are not vCPUs */

#define RECORD_FAULT 1

/* Stages in a record, in their order. */
#define STAGE_RAISE 0  /* access -> queued (uffd, async), access -> KVM_RUN returned (exit) */
#define STAGE_NOTIFY 1 /* queued -> a handler has read the event; 0 in exit modes */
#define STAGE_SERVE 2  /* read (or KVM_RUN returned) -> the resolving ioctl begins */
#define STAGE_FILL 3   /* the resolving ioctl; for uffd and async faults until it wakes the waiter */
#define STAGE_FINISH 4 /* "wake": woken -> vCPU running; "reenter": fill done -> KVM_RUN entered again */
#define STAGES 5

/* One finished fault. begin_ns + the five stages = the moment the fault ended; absent stages are 0. */
struct fault_record {
    __u16 type; /* RECORD_FAULT */
    __u16 size; /* sizeof(struct fault_record) */
    __u8 mode;
    __u8 waiter;
    __u8 resolver;
    __u8 seen;
    __u32 vm;          /* number of the VM, unique while the collector runs */
    __u32 vcpu;        /* vcpu_id or VCPU_OTHER */
    __u32 tid;         /* the thread that waited: the vCPU's, or the VMM's other thread */
    __u32 handler_tid; /* who filled the page, 0 if not seen */
    __u64 begin_ns;
    __u64 stage_ns[STAGES];
    __u64 hva;         /* page-aligned, or ADDRESS_UNKNOWN */
    __u64 gpa;         /* page-aligned, or ADDRESS_UNKNOWN */
    __u64 exit_flags;  /* KVM_EXIT_MEMORY_FAULT: memory_fault.flags */
    __u64 exit_size;   /* KVM_EXIT_MEMORY_FAULT: memory_fault.size */
    __s16 exit_errno;  /* what KVM_RUN returned, e.g. -14; 0 if it did not return */
    __u16 exit_reason; /* kvm_run->exit_reason then */
    __u8 access;       /* ACCESS_*; 0: not seen */
    __u8 presence;     /* PRESENCE_* of the page when it was asked for */
    __s16 memslot;     /* kvm_memory_slot.id, MEMSLOT_UNKNOWN */
};

/* Log-linear latency buckets: 16 per power of two above 64 ns, 4 ns wide below it. A bucket's middle is within
 * 3.2 % of every value in it from 64 ns to 2^42 ns (73 minutes); longer ones share the last bucket, and max_ns
 * stays exact. */
#define BUCKET_UNIT_SHIFT 2
#define BUCKET_SUB_BITS 4
#define BUCKETS 592

/* Series: the five modes' whole latency, then the stages of uffd, exit (both exit modes) and async faults. */
#define SERIES_STAGES_UFFD 5   /* raise notify serve fill wake */
#define SERIES_STAGES_EXIT 10  /* raise serve fill reenter */
#define SERIES_STAGES_ASYNC 14 /* raise notify serve fill wake */
#define SERIES 19

struct series_totals {
    __u64 count;
    __u64 sum_ns;
    __u64 max_ns;
};

/* Ways that KVM_RUN returned: 0-47 are kvm_run->exit_reason with no error; then: */
#define EXIT_REASON_BEYOND 48 /* an exit_reason that has no cell of its own */
#define EXIT_EINTR 49
#define EXIT_EFAULT 50              /* bare: no information */
#define EXIT_MEMORY_FAULT_EFAULT 51 /* KVM_EXIT_MEMORY_FAULT with -EFAULT */
#define EXIT_MEMORY_FAULT_EHWPOISON 52
#define EXIT_EAGAIN 53
#define EXIT_ERROR_OTHER 54
#define EXITS 56

/* One vCPU (or, with vcpu == VCPU_OTHER, a VM's other threads). vm == 0: the slot is free. */
struct vcpu_totals {
    __u32 vm;
    __u32 vm_slot;
    __u32 tgid;
    __u32 vcpu;
    __u32 tid;
    __u32 exited;         /* the thread has ended */
    __u64 open_since_ns;  /* begin of the fault that this vCPU is in now, 0 if none */
    __u64 stall_ns;       /* time inside finished faults in which the vCPU stood still */
    __u64 unread;         /* uffd faults that ended before any handler had read their event */
    __u64 prefetch;       /* KVM's own mappings after an async fault: not faults */
    __u64 async_tries;    /* kvm_try_async_get_page */
    __u64 async_repeats;  /* kvm_async_pf_repeated_fault: tries without progress */
    __u64 named_reads;    /* events that named this thread; vm_totals counts the others */
    __u64 prefetch_early; /* prefetches after an async fault that ended before they mapped anything */
    struct series_totals series[SERIES];
    __u64 exits[EXITS];
    __u64 reserved[4]; /* whole cache lines: neighbours are written by other CPUs */
};

/* One histogram per vCPU slot and series, at index slot * SERIES + series. */
struct latency_histogram {
    __u32 bucket[BUCKETS];
};

/* One VM. Fills are counted for the process that owns the memory. vm == 0: the slot is free. */
struct vm_totals {
    __u32 vm;
    __u32 tgid;
    __u64 kvm;         /* address of struct kvm: identity only, never leaves the collector; 0: the VM has ended */
    __u64 mm;          /* address of struct mm_struct, likewise */
    __u64 events_read; /* uffd page fault events that handlers have read; without vcpu_totals.named_reads */
    __u64 events_done; /* of those: whose waiter has gone on */
    __u64 bytes_background;
    __u64 fills_failed;            /* the resolving ioctl returned an error, -EEXIST among them */
    __u64 fills_demand[FILLS];     /* successful fills that somebody waited for */
    __u64 fills_background[FILLS]; /* successful fills ahead of need */
    __u32 user;                    /* who answers for it: real user id */
    __u32 not_counted;             /* vCPUs that found no room */
    __u64 failed_by[FAILURES];     /* fills_failed by its errno, or FAILURE_OTHER */
};

/* Hardware exits of one vCPU slot, by the processor's own exit code. Cells: VMX basic exit reasons and SVM exit codes
 * below 256 at their own index; SVM's 0x400-0x40f behind; arm64 the exception classes of traps, then from
 * HARDWARE_ARM64_CODES the exception codes that are no traps. */
#define ISA_VMX 1 /* KVM_ISA_VMX, arch/x86/kvm/trace.h */
#define ISA_SVM 2 /* KVM_ISA_SVM */
#define ISA_ARM64 3
#define ARM_EXCEPTION_TRAP 2 /* arch/arm64/include/asm/kvm_asm.h */
#define HARDWARE_ARM64_CODES 64
#define HARDWARE_DIRECT 256
#define HARDWARE_FOLDED_FROM 0x400
#define HARDWARE_FOLDED 16
#define HARDWARE_BEYOND (HARDWARE_DIRECT + HARDWARE_FOLDED) /* every other code */
#define HARDWARE_CELLS (HARDWARE_BEYOND + 1)

struct hardware_exits {
    __u64 moved;   /* grows with every exit and every entry after one: whether to look */
    __u64 exit_ns; /* when the exit began that the vCPU is in; 0: it runs guest code, or was not seen yet */
    __u32 cell;    /* of that exit */
    __u32 isa;     /* ISA_*; 0: none seen */
    struct series_totals exit[HARDWARE_CELLS]; /* count: exits; sum_ns and max_ns: until guest code ran again */
    __u64 reserved[2];
};

/* The loss ledger's part in the kernel. */
#define LOSS_RING_FULL 0       /* records that found no room in the ring */
#define LOSS_MAP_FULL 1        /* state that found no room in a map */
#define LOSS_UNMATCHED_BEGIN 2 /* faults begun and never ended: the waiter died */
#define LOSS_UNMATCHED_END 3   /* ends whose begin was not seen */
#define LOSS_UNREADABLE 4      /* user or kernel memory that could not be read */
#define LOSS_NOT_COUNTED 5     /* VMs and vCPUs that found no room */
#define LOSSES 8

#endif

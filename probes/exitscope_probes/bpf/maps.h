/* maps.h: everything that the probes remember. Every map is bounded; an insert that fails is counted.
 *
 * A thread is found by its id in an array, not in a hash: a switch or wake-up of a thread that is none of ours
 * costs a handful of instructions.
 */

#define NO_SLOT 0xffffffffU
#define WAITING_ENTRIES 8192
#define TIDS_PER_PAGE 512
#define EXITED_VCPUS 31
#define RANGE_SEEN 1
#define RANGE_SEEN_HUGE 2
#define VMS_PER_MEMORY 32     /* that are told apart by their memslots */
#define MEMSLOT_TREE_DEPTH 16 /* of 2^16 memslots */

#define OPEN_GUEST 1   /* between a guest fault's begin and end */
#define OPEN_OUTSIDE 2 /* in a wait outside of one: another thread's, or a vCPU thread's own access */
#define OPEN_KICKED 4  /* KVM_RUN was left in the middle of a guest fault, which goes on when the guest asks again */
#define OPEN_WAITS (OPEN_GUEST | OPEN_OUTSIDE)

/* wait.found */
#define FOUND 1
#define FOUND_AGAIN 2 /* it was kicked out of its wait and has asked again, which no handler has read yet */

/* A wait for a page, as those see it who serve it: one cache line, as each line that CPUs share costs. */
struct wait {
    u8 open;     /* OPEN_*, 0: none */
    u8 woken;    /* a fill has woken the waiter: the wait is over once it runs */
    u8 seen;     /* SEEN_* */
    u8 resolver; /* of the fill */
    u32 handler_tid;
    u32 vm_slot;
    u8 pended;   /* its event is in pendings as well: only the page may tell whose fill it was */
    u8 access;   /* ACCESS_* */
    u8 presence; /* PRESENCE_* */
    u8 found;    /* FOUND: whoever fills its page will find it, as it sleeps, or is in `waiting` */
    u64 read_ns;
    u64 fill_begin_ns;
    u64 fill_end_ns;
    u64 hva;
    u64 sleep_ns;
    u64 run_ns; /* running again after woken */
};

/* The resolving call that a thread is in, or its last one. */
struct fill {
    u64 begin_ns;
    u64 argument; /* of the ioctl, in user memory; for madvise the start */
    union {
        u64 file;  /* ioctl: struct file of the userfaultfd, 0: look it up by fd */
        u64 bytes; /* madvise */
    };
    u32 fd;
    u8 resolver;
    u8 several;        /* this thread has filled a memory of several VMs: whose page it is is asked each time */
    u16 woken;         /* vCPUs woken in this call */
    u32 candidate_tid; /* the last other thread woken in this call, 0: none */
    u32 memories;      /* settings.memories when `several` was looked up */
};

/* What a program works on: in a map, as the verifier forgets what it knows of that, and so does not walk every combination.
 * Which vCPU a fill is for, while it is looked for; or of the read() that is looked at, from one run to the next. */
struct search {
    u32 found; /* its slot in threads, plus 1; 0: none */
    u32 candidates;
    union {
        u64 exit_ns;
        u64 read_ns;
    };
};

/* A memslot. */
struct slot {
    u64 gfn;
    u64 pages; /* 0: none */
    u64 hva;
    u32 flags;
    s16 id;
};

/* A thread that runs a vCPU, waits for a VM's pages (vcpu_id == VCPU_OTHER), reads a userfaultfd or fills pages. */
struct thread {
    u32 tid;  /* 0: of a vCPU in a fault that no thread has now */
    u32 self; /* its own slot in threads */
    u32 slot; /* of its totals, NO_SLOT if it never waits */
    u32 vm;
    u32 vcpu_id;
    u8 unfilled; /* SEEN_UNFILLED of `wait`: here, as others write to wait.seen while the thread goes to sleep */
    u8 parked_unfilled;
    u16 messages; /* of the read() that is looked at: how many have been seen */
    u64 access_ns;
    u64 address;      /* what the fault's tracepoint named: gva or gpa, identity within the vCPU only */
    u64 exit_ns;      /* KVM_RUN returned with a fault for userspace; 0: it did not */
    u64 exit_address; /* what `address` was then */
    u16 async_outstanding;
    u16 kicks; /* out of the fault that is open: how many of its sleeps ended so */
    u8 has_previous;
    u8 has_parked;
    u8 prefetched; /* KVM has mapped a page ahead of the guest's next try */
    u8 filling;    /* is inside a resolving call */

    struct wait wait;

    struct fill fill;
    u64 mm;            /* struct mm_struct of the VM */
    u64 vcpu;          /* struct kvm_vcpu, 0: not looked up yet */
    u32 run_fd;        /* of the KVM_RUN that this thread was seeded in, plus 1 */
    u32 halted;        /* KVM has halted the vCPU until an async fault is done */
    u64 halt_begin_ns; /* since when the vCPU would stand still if KVM halted it */

    struct wait previous; /* over, but the guest's access goes on and has slept again */
    u64 previous_access_ns;

    u64 reenter_ns; /* and was entered again */
    u64 exit_gpa;
    u64 exit_flags;
    u64 exit_size;
    struct slot exit_slot; /* the memslot then */
    u64 async_hva;         /* of the last kvm_try_async_get_page */
    u64 async_gpa;
    s16 exit_errno;
    u16 exit_reason;
    u32 vcpus_made; /* settings.vcpus_made when `vcpu` was known to be the one that it was */

    u64 filled_file;     /* struct file of the userfaultfd that it filled last */
    u32 filled_memories; /* settings.memories then */
    u32 filled_slot;     /* of the VM behind it, NO_SLOT: none */

    struct wait parked; /* kicked out of, and the guest did something else since: it will ask for that page again */
    u64 parked_access_ns;
    u64 parked_address;
    u64 stall_from_ns;   /* of a fault that had been parked: its stall before is counted */
    u64 reader_file;     /* struct file of the userfaultfd that this thread has read last */
    u64 reader_mm;       /* the memory behind it */
    u32 reader_memories; /* settings.memories when that was looked up */
    u32 reader_slot;     /* of a VM of that memory, NO_SLOT: none known */
    struct search search;
    u64 uffd; /* struct userfaultfd_ctx that it waited for last, where handle_userfault is traced */
} __attribute__((aligned(64)));

struct page_key {
    u64 mm;
    u64 page; /* hva */
};

/* A page whose event a handler has read and whose waiter is not found at once: the event did not name it (no
 * UFFD_FEATURE_THREAD_ID), or it had not slept yet; or a page that a kworker of an async page fault will wait for. */
struct pending {
    u64 read_ns;      /* the first event's that is unclaimed */
    u64 last_read_ns; /* the last one's: who asked for the page later has not sent it */
    u64 fill_begin_ns;
    u64 fill_end_ns;
    u32 reads;
    u32 claims; /* waiters that have been matched to it */
    u32 named;  /* events that named a waiter, which has not claimed its own yet */
    u32 asyncs; /* vCPUs that will collect it with kvm_async_pf_ready */
    u32 handler_tid;
    u32 resolver;
    u16 presence;
    u8 access;
    u8 shared; /* one memory of several VMs: events are counted for the VM that claims them */
    u32 range; /* the fill covered several pages */
};

/* Who waits for a page, found by a hash of the page; a newer one takes the place. */
struct waiting {
    u64 page; /* hva and memory in one, waiting_for() */
    u32 tid;
    u32 reserved;
};

struct async_key {
    u32 slot;
    u32 reserved;
    u64 address; /* cr2_or_gpa of the fault */
};

struct async_wait {
    u64 begin_ns;
    u64 queued_ns;
    u64 hva;
    u64 gpa;
    u64 access;
};

struct free_slot {
    u32 slot;
    u32 vm; /* the number that the next VM in this slot bears; unused for vCPUs and threads */
};

/* The VMs of one memory, that is of one process: newest last; more take the places of the oldest. */
struct memory_vms {
    u32 made;
    u32 slot[VMS_PER_MEMORY];
    u32 reserved;
};

/* vCPUs that have left KVM_RUN with a fault, by their number: slots in threads, plus 1. One that has been solved since is
 * found to be so. */
struct exited {
    u16 any;
    u8 own;    /* its vCPUs place their pages themselves */
    u8 others; /* somebody else does */
    u32 thread[EXITED_VCPUS];
};

struct tid_page {
    u16 thread[TIDS_PER_PAGE]; /* thread slot + 1, 0: none of ours */
};

/* Of these, arrays of arrays: they grow with use. */
struct vcpu_histograms {
    struct latency_histogram series[SERIES];
};

struct losses {
    u64 count[LOSSES];
};

struct settings {
    u64 uffd_fops; /* struct file_operations of a userfaultfd, learned from the first one seen */
    u64 memories;  /* grows when a userfaultfd or a VM is new: what threads remember of them is to be looked up again */
    u64 ranges;    /* whether fills of several pages, and of huge ones, have been seen: RANGE_* */
    u64 vcpus_made;  /* grows when a vCPU is made: one may sit where an ended one sat */
    u64 reserved[5]; /* what follows changes with every fault, and lies in a cache line of its own */
    u64 pendings;    /* entries put into that map, less those taken out by the probes */
};

/* maps.py makes the maps and says their descriptors and sizes with -D; the sizes must be those of the structs here. */
#define MAP(name) ((void *)bpf_pseudo_fd(1, FD_##name))
#define MAP_OF(name, key, value)                                                                                       \
    _Static_assert(KEY_##name == sizeof(key) && VALUE_##name == sizeof(value), "maps.py has other sizes for " #name)

MAP_OF(vcpu_totals, u32, struct vcpu_totals);
MAP_OF(vcpu_histograms, u32, u32);
MAP_OF(vm_totals, u32, struct vm_totals);
MAP_OF(losses, u32, struct losses);
MAP_OF(tids, u32, struct tid_page);
MAP_OF(threads, u32, struct thread);
MAP_OF(settings, u32, struct settings);
MAP_OF(pendings_forgotten, u32, u64);           /* entries of pendings taken out by loader.py */
MAP_OF(scratch, u32, struct fault_record);      /* per CPU: where a record is put together */
MAP_OF(vcpu_slots, u64, u32);                   /* by struct kvm_vcpu, or by the VM's number for VCPU_OTHER */
MAP_OF(vm_slots, u64, u32);                     /* by struct kvm */
MAP_OF(vm_slots_by_mm, u64, struct memory_vms); /* by struct mm_struct */
MAP_OF(no_vms, u32, struct memory_vms);         /* what such an entry is made from */
MAP_OF(pendings, struct page_key, struct pending);
MAP_OF(exited, u32, struct exited);   /* by the VM's slot */
MAP_OF(waiting, u32, struct waiting); /* by a hash of the page */
MAP_OF(resting, u64, u32);            /* vCPUs in a fault that no thread has: their slots in threads */
MAP_OF(further, u32, u32);            /* the program that has looked at the first messages of a read(), once more */
MAP_OF(further_typed, u32, u32); /* the same where it is an fexit program: an array of programs takes one type only */
MAP_OF(async_waits, struct async_key, struct async_wait);
_Static_assert(OFFSET_run_fd == __builtin_offsetof(struct thread, run_fd) &&
                   OFFSET_reader_mm == __builtin_offsetof(struct thread, reader_mm),
               "maps.py has it elsewhere");
_Static_assert(VALUE_free_vcpus == sizeof(struct free_slot) && VALUE_free_vms == sizeof(struct free_slot) &&
                   VALUE_free_threads == sizeof(struct free_slot),
               "maps.py has another size for a free slot");

/* An index that the verifier can see to be bounded: the compiler may not look through the comparison. */
static __always_inline u64 at_most(u64 index, u64 last) {
    asm volatile("" : "+r"(index));
    if (index > last)
        index = last;
    asm volatile("" : "+r"(index));
    return index;
}

static __always_inline void lose_many(u32 which, u64 count) {
    u32 zero = 0;
    struct losses *row = bpf_map_lookup_elem(MAP(losses), &zero);
    if (row && which < LOSSES)
        __sync_fetch_and_add(&row->count[which], count);
}

static __always_inline void lose(u32 which) { lose_many(which, 1); }

static __always_inline struct settings *the_settings(void) {
    u32 zero = 0;
    return bpf_map_lookup_elem(MAP(settings), &zero);
}

/* Whether a look into pendings can find anything. */
static __always_inline bool any_pending(void) {
    u32 zero = 0;
    u64 *forgotten = bpf_map_lookup_elem(MAP(pendings_forgotten), &zero);
    struct settings *known = bpf_map_lookup_elem(MAP(settings), &zero);
    return known && forgotten && known->pendings != *forgotten;
}

static __always_inline u32 current_tid(void) { return (u32)bpf_get_current_pid_tgid(); }

static __always_inline struct thread *thread_in(u32 slot) { return bpf_map_lookup_elem(MAP(threads), &slot); }

static __always_inline struct thread *thread_of(u32 tid) {
    u32 page = tid / TIDS_PER_PAGE;
    struct tid_page *row = bpf_map_lookup_elem(MAP(tids), &page);
    if (!row)
        return 0;
    u32 slot = row->thread[tid % TIDS_PER_PAGE];
    return slot ? thread_in(slot - 1) : 0;
}

static __always_inline bool is_vcpu(struct thread *thread) { return thread->vcpu_id != VCPU_OTHER; }

static __always_inline struct vcpu_totals *totals_of(u32 slot) { return bpf_map_lookup_elem(MAP(vcpu_totals), &slot); }

/* An entry of an array that grows (chunks.py). */
static __always_inline void *in_chunk(void *chunks, u32 slot) {
    u32 number = slot / SLOTS_PER_CHUNK, index = slot % SLOTS_PER_CHUNK;
    void *chunk = bpf_map_lookup_elem(chunks, &number);
    return chunk ? bpf_map_lookup_elem(chunk, &index) : 0;
}

static __always_inline struct vcpu_histograms *histograms_of(u32 slot) { return in_chunk(MAP(vcpu_histograms), slot); }

static __always_inline struct vm_totals *vm_totals_of(u32 slot) { return bpf_map_lookup_elem(MAP(vm_totals), &slot); }

static __always_inline struct memory_vms *vms_of_memory(u64 mm) {
    return bpf_map_lookup_elem(MAP(vm_slots_by_mm), &mm);
}

/* Clang counts as it is written: the verifier of Linux 6.1 sees no end of a loop whose counter (u64, or it forgets it when it is
 * spilled) was made another. */
#define KEEP_COUNTER(i) asm volatile("" : "+r"(i))

/* Whether an address lies in a memslot of a VM: interval_tree_iter_first (lib/interval_tree.c) on kvm_memslots.hva_tree,
 * which is there since 5.17; false where it is not. Reckoned with the sign of differences, as addresses of users are below
 * 2^63 and those of the kernel above: with a jump for each comparison Linux 6.1 takes the programs for too complex. What lies
 * nowhere reads as zeros. */
static __always_inline bool has_memory_at(u64 kvm, u64 hva) {
    u64 slots = read_u64(kvm + OFF_KVM_MEMSLOTS);
    u64 at = slots && OFF_MEMSLOTS_HVA_TREE ? read_u64(slots + OFF_MEMSLOTS_HVA_TREE) : 0;
    u64 found = 0;
    for (u64 i = 0; i < MEMSLOT_TREE_DEPTH; i++) {
        KEEP_COUNTER(i);
        if (!at)
            break;
        u64 node[6] = {}; /* struct interval_tree_node: rb parent, right, left; start, last, last of the subtree */
        u64 left_last = 0;
        bpf_probe_read_kernel(node, sizeof(node), (void *)at);
        bpf_probe_read_kernel(&left_last, sizeof(left_last), (void *)(node[2] + 5 * sizeof(u64)));
        u64 leftwards = (node[2] & ~(left_last - hva)) >> 63;
        u64 before = (hva - node[3]) >> 63;
        u64 after = (node[4] - hva) >> 63;
        found |= ~(leftwards | before | after) & 1;
        at = node[2] * leftwards + node[1] * (after & ~(leftwards | before) & 1);
    }
    return found;
}

/* The VM that a page belongs to: the only one of its memory, or the newest whose memslots hold it; 0 and NO_SLOT if none. */
static __always_inline struct vm_totals *vm_of_page(struct page_key *key, u32 *slot) {
    struct memory_vms *vms = vms_of_memory(key->mm);
    *slot = NO_SLOT;
    if (!vms)
        return 0;
    u64 made = vms->made;
    if (made == 1) {
        *slot = vms->slot[0];
        return vm_totals_of(vms->slot[0]);
    }
    for (u64 i = 0; i < VMS_PER_MEMORY; i++) {
        KEEP_COUNTER(i);
        if (i >= made)
            break;
        u32 which = vms->slot[at_most((made - 1 - i) % VMS_PER_MEMORY, VMS_PER_MEMORY - 1)];
        struct vm_totals *vm = vm_totals_of(which);
        if (vm && vm->mm == key->mm && vm->kvm && has_memory_at(vm->kvm, key->page)) {
            *slot = which;
            return vm;
        }
    }
    return 0;
}

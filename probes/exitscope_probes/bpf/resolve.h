/* resolve.h: a page is made present (uffd ioctl, madvise), and a handler has read who asks for one. */

/* The memory (struct mm_struct) that a userfaultfd watches, 0 if the file is no userfaultfd. Its operations are known
 * by their ioctl function, whose address is in kallsyms; the table itself is data, which not every kernel lists. */
static __always_inline u64 uffd_memory(u64 file) {
    struct settings *known = the_settings();
    u64 operations = file ? read_u64(file + OFF_FILE_OP) : 0;
    if (!known || !operations)
        return 0;
    if (operations != known->uffd_fops) {
        if (read_u64(operations + OFF_FOPS_IOCTL) != USERFAULTFD_IOCTL)
            return 0;
        known->uffd_fops = operations;
    }
    return read_u64(private_of(file) + OFF_UFFD_MM);
}

static __always_inline u32 resolver_of(u32 command) {
    switch (command & 0xff) { /* _IOC_NR, include/uapi/linux/userfaultfd.h */
    case 2:
        return RESOLVER_WAKE;
    case 3:
        return RESOLVER_COPY;
    case 4:
        return RESOLVER_ZEROPAGE;
    case 5:
        return RESOLVER_MOVE;
    case 7:
        return RESOLVER_CONTINUE;
    case 8:
        return RESOLVER_POISON;
    }
    return RESOLVER_OTHER;
}

/* What a resolving ioctl is about: of which memory, from which page on, how many bytes. */
struct target {
    struct page_key key;
    u64 bytes;
};

static __always_inline void range_of(struct fill *fill, struct target *target) {
    /* uffdio_copy and uffdio_move: dst, src, len; the others: range.start, range.len */
    u64 words[3] = {};
    if (bpf_probe_read_user(words, sizeof(words), (void *)fill->argument))
        lose(LOSS_UNREADABLE);
    target->key.page = PAGE_OF(words[0]);
    target->bytes = fill->resolver == RESOLVER_COPY || fill->resolver == RESOLVER_MOVE ? words[2] : words[1];
}

static __always_inline u64 memory_of(struct fill *fill) { return uffd_memory(file_of(fill->fd)); }

static __always_inline void begin_fill(struct thread *thread, u32 resolver, u32 fd, u64 argument, u64 bytes) {
    thread->fill.argument = argument;
    thread->fill.bytes = bytes;
    thread->fill.fd = fd;
    thread->fill.resolver = resolver;
    thread->fill.woken = 0;
    thread->fill.candidate_tid = 0;
    thread->fill.begin_ns = bpf_ktime_get_ns();
    thread->filling = 1;
}

/* ioctl(fd, command, argument) with a command of userfaultfd's type is entered. Only for a VM's memory is anything
 * remembered; a thread that has filled some before is believed until the call returns. */
static __always_inline void enter_uffd_ioctl(u32 fd, u32 command, u64 argument) {
    u32 resolver = resolver_of(command);
    if (resolver == RESOLVER_OTHER)
        return;
    struct thread *thread = thread_of(current_tid());
    if (!thread) {
        u64 mm = uffd_memory(file_of(fd));
        if (mm && bpf_map_lookup_elem(MAP(vm_slots_by_mm), &mm))
            thread = new_thread(current_tid());
    }
    if (thread)
        begin_fill(thread, resolver, fd, argument, 0);
}

/* madvise(start, bytes, MADV_POPULATE_*): how exit mode resolves without a userfaultfd. Only a vCPU thread with a
 * fault to solve counts as resolving. */
static __always_inline void enter_madvise(u64 start, u64 bytes, u64 advice) {
    if (advice != MADV_POPULATE_READ && advice != MADV_POPULATE_WRITE)
        return;
    struct thread *thread = thread_of(current_tid());
    if (thread && thread->exit_ns)
        begin_fill(thread, RESOLVER_MADV_POPULATE, 0, start, bytes);
}

static __always_inline void count_fill(struct vm_totals *vm, u32 which, u64 bytes, bool demand) {
    u64 resolver = at_most(which, RESOLVERS - 1);
    if (!vm)
        return;
    if (demand) {
        __sync_fetch_and_add(&vm->fills_demand[resolver], 1);
    } else {
        __sync_fetch_and_add(&vm->fills_background[resolver], 1);
        __sync_fetch_and_add(&vm->bytes_background, bytes);
    }
}

/* A fill has woken a waiter. It is a demand fill, and as far as this waiter goes it is done. */
static __always_inline void mark_woken(struct wait *wait, struct fill *fill, u32 tid, u64 bytes) {
    wait->woken = 1;
    wait->run_ns = 0;
    wait->seen |= SEEN_FILL | (bytes > PAGE_BYTES ? SEEN_RANGE : 0);
    wait->handler_tid = tid;
    wait->resolver = fill->resolver;
    wait->fill_begin_ns = fill->begin_ns;
    wait->fill_end_ns = bpf_ktime_get_ns();
    if (!fill->woken)
        count_fill(vm_totals_of(wait->vm_slot), fill->resolver, 0, true);
    fill->woken++;
}

/* Which fill answered an event. A wake-up alone does not take the place of the fill before it, and what was seen when
 * the waiter was woken stays. */
static __always_inline void note_fill(struct pending *pending, struct thread *filler, u64 now) {
    struct fill *fill = &filler->fill;
    if (pending->fill_end_ns && (fill->resolver == RESOLVER_WAKE || pending->fill_begin_ns == fill->begin_ns))
        return;
    pending->fill_begin_ns = fill->begin_ns;
    pending->fill_end_ns = now;
    pending->resolver = fill->resolver;
    pending->handler_tid = filler->tid;
}

/* A kworker was woken, and an async fault waits for this page: counted now, as its vCPU may collect the event before the
 * ioctl returns. */
static __always_inline void note_async_fill(struct thread *filler, struct page_key *key) {
    struct pending *pending = bpf_map_lookup_elem(MAP(pendings), key);
    u32 vm_slot = 0;
    if (!pending || !pending->asyncs)
        return;
    note_fill(pending, filler, bpf_ktime_get_ns());
    if (!filler->fill.woken)
        count_fill(vm_of_memory(key->mm, &vm_slot), filler->fill.resolver, 0, true);
    filler->fill.woken++;
}

/* What becomes of the event of the page that was filled: forgotten when every waiter has been matched. True if there
 * was one. */
static __always_inline bool settle_pending(struct thread *filler, struct page_key *key, u64 now) {
    struct fill *fill = &filler->fill;
    struct pending *pending = bpf_map_lookup_elem(MAP(pendings), key);
    if (!pending)
        return false;
    u32 unclaimed = pending->reads - pending->claims;
    if (unclaimed || pending->asyncs)
        note_fill(pending, filler, now);
    if (pending->asyncs)
        return true; /* kvm_async_pf_ready collects and forgets it */
    if (unclaimed && fill->candidate_tid) {
        struct thread *other = adopt_other(fill->candidate_tid, key->mm);
        if (other) {
            claim(&other->wait, key, pending);
            finish_uffd(other, &other->wait, 0, now, ADDRESS_UNKNOWN);
        }
    }
    if (pending->claims >= pending->reads)
        forget_pending(key);
    return true;
}

/* Exit mode: the vCPU thread solves its own fault; the first fill names the page, the last one ends it. */
static __always_inline void fill_own_fault(struct thread *thread, struct target *target, u64 now) {
    struct wait *wait = &thread->wait;
    if (!wait->fill_begin_ns) {
        wait->fill_begin_ns = thread->fill.begin_ns;
        wait->hva = target->key.page;
        wait->resolver = thread->fill.resolver;
        wait->handler_tid = thread->tid;
        wait->seen |= SEEN_FILL | (target->bytes > PAGE_BYTES ? SEEN_RANGE : 0);
    }
    wait->fill_end_ns = now;
}

/* A resolving ioctl returns. One that has woken a waiter was counted then. */
static __always_inline void exit_fill(struct thread *thread, s64 result) {
    struct fill *fill = &thread->fill;
    bool pending = any_pending();
    thread->filling = 0;
    if (fill->woken && !pending)
        return;
    struct target target = {};
    struct vm_totals *vm = 0;
    u64 now = bpf_ktime_get_ns();
    bool demand = false;
    range_of(fill, &target);
    if (thread->exit_ns && !pending) {
        vm = vm_totals_of(thread->wait.vm_slot);
    } else {
        u32 vm_slot = 0;
        target.key.mm = memory_of(fill);
        vm = target.key.mm ? vm_of_memory(target.key.mm, &vm_slot) : 0;
        if (vm && result >= 0)
            demand = settle_pending(thread, &target.key, now);
    }
    if (!vm || fill->woken)
        return;
    if (result < 0) {
        __sync_fetch_and_add(&vm->fills_failed, 1);
        return;
    }
    if (thread->exit_ns) {
        fill_own_fault(thread, &target, now);
        demand = true;
    }
    count_fill(vm, fill->resolver, target.bytes, demand);
}

/* madvise(MADV_POPULATE_*) of a vCPU thread that solves its own fault returns. */
static __always_inline void exit_populate(struct thread *thread, s64 result) {
    struct target target = {.key.page = PAGE_OF(thread->fill.argument), .bytes = thread->fill.bytes};
    struct vm_totals *vm = vm_totals_of(thread->wait.vm_slot);
    thread->filling = 0;
    if (!vm)
        return;
    if (result < 0) {
        __sync_fetch_and_add(&vm->fills_failed, 1);
        return;
    }
    fill_own_fault(thread, &target, bpf_ktime_get_ns());
    count_fill(vm, RESOLVER_MADV_POPULATE, target.bytes, true);
}

/* A page fault event has reached its handler, and its waiter is to be found later. */
static __always_inline void note_read(u64 mm, u64 page, u64 now) {
    struct page_key key = {.mm = mm, .page = page};
    struct pending fresh = {.read_ns = now, .reads = 1};
    struct settings *settings_row = the_settings();
    if (!bpf_map_update_elem(MAP(pendings), &key, &fresh, BPF_NOEXIST)) {
        if (settings_row)
            __sync_fetch_and_add(&settings_row->pendings, 1);
        return;
    }
    struct pending *known = bpf_map_lookup_elem(MAP(pendings), &key);
    if (!known) {
        lose(LOSS_MAP_FULL);
        return;
    }
    if (known->claims >= known->reads) { /* also the entry that an async fault has made */
        known->read_ns = now;
        known->fill_begin_ns = 0;
        known->fill_end_ns = 0;
    }
    __sync_fetch_and_add(&known->reads, 1);
}

/* The event names the vCPU thread that waits (UFFD_FEATURE_THREAD_ID). */
static __always_inline bool note_named_read(u32 tid, u64 page, u64 now) {
    struct thread *waiter = thread_of(tid);
    if (!waiter || !waiter->wait.open) /* open: only a vCPU's */
        return false;
    waiter->wait.read_ns = now;
    waiter->wait.hva = page;
    waiter->wait.seen |= SEEN_READ | SEEN_NAMED;
    if (!waiter->wait.sleep_ns) {
        /* Whether it will sleep at all is open; if not, only the page tells whose fill it was. */
        waiter->wait.pended = 1;
        note_read(waiter->mm, page, now);
    }
    return true;
}

/* A thread that reads a VM's userfaultfd, 0 if it reads something else. Remembered by descriptor. */
static __always_inline struct thread *reader_of(u32 fd) {
    struct thread *thread = thread_of(current_tid());
    if (thread && thread->reader_fd == fd + 1)
        return thread;
    u64 mm = uffd_memory(file_of(fd));
    if (!mm || !bpf_map_lookup_elem(MAP(vm_slots_by_mm), &mm))
        return 0;
    thread = thread_or_new(current_tid());
    if (thread)
        thread->reader_fd = fd + 1;
    return thread;
}

/* read(fd, buffer, ...) = bytes: if it was a VM's userfaultfd, each message is an event. */
static __always_inline void exit_read(u32 fd, u64 buffer, u64 bytes) {
    if (!reader_of(fd))
        return;
    u64 mm = 0; /* looked up for the first event that needs it */
    u64 now = bpf_ktime_get_ns();
    u64 count = bytes / UFFD_MSG_BYTES;
    for (u32 i = 0; i < UFFD_MSG_BATCH; i++) {
        if (i >= count)
            return;
        u64 message[4] = {}; /* event; pagefault.flags; pagefault.address; pagefault.feat.ptid */
        if (bpf_probe_read_user(message, sizeof(message), (void *)(buffer + i * UFFD_MSG_BYTES))) {
            lose(LOSS_UNREADABLE);
            continue;
        }
        if ((message[0] & 0xff) != UFFD_EVENT_PAGEFAULT)
            continue;
        if (message[3] && note_named_read(message[3], PAGE_OF(message[2]), now))
            continue;
        u32 vm_slot = 0;
        if (!mm)
            mm = uffd_memory(file_of(fd));
        struct vm_totals *vm = vm_of_memory(mm, &vm_slot);
        if (!vm)
            return;
        __sync_fetch_and_add(&vm->events_read, 1);
        note_read(mm, PAGE_OF(message[2]), now);
    }
    if (count > UFFD_MSG_BATCH)
        lose(LOSS_UNREADABLE);
}

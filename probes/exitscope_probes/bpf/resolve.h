/* resolve.h: a page is made present (uffd ioctl, madvise). */

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

/* The memory that a userfaultfd watches; `file` is known to be one, or 0 and looked up by fd. */
static __always_inline u64 memory_behind(u64 file, u32 fd) {
    return file ? read_u64(private_of(file) + OFF_UFFD_MM) : uffd_memory(file_of(fd));
}

static __always_inline u64 memory_of(struct fill *fill) { return memory_behind(fill->file, fill->fd); }

/* Totals of the VM whose memory a thread fills, 0 if it is no VM's. To look that up is half the price of a fill, and
 * threads fill page after page of one memory: it is remembered while no userfaultfd and no VM is new. */
static __always_inline struct vm_totals *vm_filled_by(struct thread *thread) {
    struct settings *known = the_settings();
    u64 file = thread->fill.file ? thread->fill.file : file_of(thread->fill.fd);
    if (!known)
        return 0;
    if (thread->filled_file != file || thread->filled_memories != (u32)known->memories) {
        u32 slot = NO_SLOT;
        thread->filled_memories = known->memories;
        vm_of_memory(uffd_memory(file), &slot);
        thread->filled_slot = slot;
        thread->filled_file = file;
    }
    struct vm_totals *vm = vm_totals_of(thread->filled_slot);
    return vm && vm->vm ? vm : 0;
}

static __always_inline void begin_fill(struct thread *thread, u32 resolver, u64 file, u32 fd, u64 argument, u64 bytes) {
    thread->fill.argument = argument;
    thread->fill.bytes = bytes;
    thread->fill.file = file;
    thread->fill.fd = fd;
    thread->fill.resolver = resolver;
    thread->fill.woken = 0;
    thread->fill.candidate_tid = 0;
    thread->fill.begin_ns = bpf_ktime_get_ns();
    thread->filling = 1;
}

/* ioctl(fd, command, argument) with a command of userfaultfd's type is entered; `file` is 0 where only fd is known. Only
 * for a VM's memory is anything remembered; a thread that has filled some before is believed until the call returns. */
static __always_inline void enter_uffd_ioctl(u64 file, u32 fd, u32 command, u64 argument) {
    u32 resolver = resolver_of(command);
    if ((command & 0xff) == UFFDIO_API_NUMBER)
        note_new_memory();
    if (resolver == RESOLVER_OTHER)
        return;
    struct thread *thread = thread_of(current_tid());
    if (!thread) {
        u64 mm = memory_behind(file, fd);
        if (mm && bpf_map_lookup_elem(MAP(vm_slots_by_mm), &mm))
            thread = new_thread(current_tid());
    }
    if (thread)
        begin_fill(thread, resolver, file, fd, argument, 0);
}

/* madvise(start, bytes, MADV_POPULATE_*): how exit mode resolves without a userfaultfd. Only a vCPU thread with a
 * fault to solve counts as resolving. */
static __always_inline void enter_madvise(u64 start, u64 bytes, u64 advice) {
    if (advice != MADV_POPULATE_READ && advice != MADV_POPULATE_WRITE)
        return;
    struct thread *thread = thread_of(current_tid());
    if (thread && thread->exit_ns)
        begin_fill(thread, RESOLVER_MADV_POPULATE, 0, 0, start, bytes);
}

static __always_inline void count_fill(struct vm_totals *vm, u32 which, u64 bytes, bool demand) {
    u64 resolver = at_most(which, RESOLVERS - 1);
    if (!vm)
        return;
    if (demand) {
        __sync_fetch_and_add(&vm->fills_demand[resolver], 1);
    } else {
        __sync_fetch_and_add(&vm->fills_background[resolver], 1);
        if (resolver != RESOLVER_WAKE) /* places nothing */
            __sync_fetch_and_add(&vm->bytes_background, bytes);
    }
}

/* Somebody waits for what this call fills: a demand fill, counted once. */
static __always_inline void count_demand(struct vm_totals *vm, struct fill *fill) {
    if (!fill->woken)
        count_fill(vm, fill->resolver, 0, true);
    fill->woken++;
}

/* A fill has woken a waiter: as far as this waiter goes it is done. */
static __always_inline void mark_woken(struct wait *wait, struct fill *fill, u32 tid, u64 bytes) {
    wait->woken = 1;
    wait->run_ns = 0;
    wait->seen |= SEEN_FILL | (bytes > PAGE_BYTES ? SEEN_RANGE : 0);
    wait->handler_tid = tid;
    wait->resolver = fill->resolver;
    wait->fill_begin_ns = fill->begin_ns;
    wait->fill_end_ns = bpf_ktime_get_ns();
    count_demand(vm_totals_of(wait->vm_slot), fill);
}

/* A thread that waits outside of a guest fault goes on when it is woken: nothing later is seen of it. */
static __always_inline void finish_outside(struct thread *thread) {
    struct wait *wait = &thread->wait;
    if (wait->open != OPEN_OUTSIDE || !wait->woken)
        return;
    if (wait->pended)
        claim_own(thread, wait, wait->hva);
    finish_uffd(thread, wait, 0, wait->fill_end_ns, ADDRESS_UNKNOWN, MEMSLOT_UNKNOWN);
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
    count_demand(vm_of_memory(key->mm, &vm_slot), &filler->fill);
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
        struct thread *waiter = waiter_outside(fill->candidate_tid, key->mm);
        if (waiter && has_event(pending, &waiter->wait)) {
            claim(&waiter->wait, key, pending);
            finish_uffd(waiter, &waiter->wait, 0, now, ADDRESS_UNKNOWN, MEMSLOT_UNKNOWN);
        }
    }
    if (pending->claims >= pending->reads)
        forget_pending(key);
    return true;
}

/* What a fill that has succeeded says about the page before it. */
static __always_inline u8 presence_before(u32 resolver) {
    if (resolver == RESOLVER_COPY || resolver == RESOLVER_ZEROPAGE || resolver == RESOLVER_MOVE)
        return PRESENCE_MISSING;
    return resolver == RESOLVER_CONTINUE ? PRESENCE_MINOR : PRESENCE_UNKNOWN;
}

/* Exit mode: the vCPU thread solves its own fault; the first fill names the page unless it is known, the last one ends
 * it. */
static __always_inline void fill_own_fault(struct thread *thread, struct target *target, u64 now) {
    struct wait *wait = &thread->wait;
    if (!wait->fill_begin_ns) {
        wait->fill_begin_ns = thread->fill.begin_ns;
        if (wait->hva == ADDRESS_UNKNOWN)
            wait->hva = target->key.page;
        if (!wait->presence)
            wait->presence = presence_before(thread->fill.resolver);
        wait->resolver = thread->fill.resolver;
        wait->handler_tid = thread->tid;
        wait->seen |= SEEN_FILL | (target->bytes > PAGE_BYTES ? SEEN_RANGE : 0);
    }
    wait->fill_end_ns = now;
}

/* Nobody was woken, but somebody may be about to sleep, and will find the page there. */
static __always_inline void serve_waiting(struct thread *filler, struct target *target) {
    struct waiting *entry = waiting_for(&target->key);
    if (!entry || entry->page != (target->key.page ^ target->key.mm))
        return;
    struct thread *thread = thread_of(entry->tid);
    if (!thread || thread->wait.hva != target->key.page || thread->wait.woken || !thread->wait.read_ns)
        return;
    mark_woken(&thread->wait, &filler->fill, filler->tid, target->bytes);
    finish_outside(thread);
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
        vm = vm_filled_by(thread);
        target.key.mm = vm ? vm->mm : 0;
        if (vm && result >= 0) {
            /* Asked again: an event may have been read since. */
            demand = any_pending() && settle_pending(thread, &target.key, now);
            if (!demand && !fill->woken)
                serve_waiting(thread, &target);
        }
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

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
    case 1:                   /* UFFDIO_UNREGISTER: lets go of those that wait */
        return RESOLVER_RELEASED;
    case 2:
        return RESOLVER_WAKE;
    case 3:
        return RESOLVER_COPY;
    case 4:
        return RESOLVER_ZEROPAGE;
    case 5:
        return RESOLVER_MOVE;
    case 6:
        return RESOLVER_WRITEPROTECT;
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

static __always_inline void note_range(u64 bytes) {
    struct settings *known = the_settings();
    u64 seen = bytes >= HUGE_BYTES ? RANGE_SEEN | RANGE_SEEN_HUGE : RANGE_SEEN;
    if (bytes > PAGE_BYTES && known && (known->ranges | seen) != known->ranges)
        known->ranges |= seen;
}

/* Returns the third word, which is the mode of all but uffdio_copy and uffdio_move. */
static __always_inline u64 range_of(struct fill *fill, struct target *target) {
    /* uffdio_copy and uffdio_move: dst, src, len; the others: range.start, range.len, mode */
    u64 words[3] = {};
    if (bpf_probe_read_user(words, sizeof(words), (void *)fill->argument))
        lose(LOSS_UNREADABLE);
    target->key.page = PAGE_OF(words[0]);
    target->bytes = fill->resolver == RESOLVER_COPY || fill->resolver == RESOLVER_MOVE ? words[2] : words[1];
    note_range(target->bytes);
    return words[2];
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
    if (!thread->fill.several && (thread->filled_file != file || thread->filled_memories != (u32)known->memories)) {
        struct memory_vms *vms = vms_of_memory(uffd_memory(file));
        thread->filled_memories = known->memories;
        thread->filled_file = file;
        thread->filled_slot =
            vms && vms->made ? vms->slot[at_most((vms->made - 1) % VMS_PER_MEMORY, VMS_PER_MEMORY - 1)] : NO_SLOT;
        thread->fill.several = vms && vms->made > 1;
    }
    struct vm_totals *vm = vm_totals_of(thread->filled_slot);
    return vm && vm->vm ? vm : 0;
}

static __always_inline bool memory_has_several(u64 mm) {
    struct memory_vms *vms = vms_of_memory(mm);
    return vms && vms->made > 1;
}

/* The same of a thread that has filled a memory of several VMs: by the page, each time, as the call begins. */
static __always_inline void find_filled(struct thread *thread) {
    struct target target = {};
    u32 slot = NO_SLOT;
    range_of(&thread->fill, &target);
    target.key.mm = memory_of(&thread->fill);
    vm_of_page(&target.key, &slot);
    thread->filled_slot = slot;
}

/* `of`: the ioctl's file, or madvise's bytes. */
static __always_inline void begin_fill(struct thread *thread, u32 resolver, u64 of, u32 fd, u64 argument) {
    thread->fill.argument = argument;
    thread->fill.file = of;
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
        if (mm && vms_of_memory(mm))
            thread = new_thread(current_tid());
    }
    if (!thread)
        return;
    bool same = thread->fill.fd == fd && thread->fill.file == file;
    begin_fill(thread, resolver, file, fd, argument);
    struct settings *known = the_settings();
    if (known && (!same || thread->fill.memories != (u32)known->memories)) {
        thread->fill.memories = known->memories;
        thread->fill.several = memory_has_several(memory_of(&thread->fill));
    }
    if (thread->fill.several)
        find_filled(thread);
}

/* madvise(start, bytes, MADV_POPULATE_*): how exit mode resolves without a userfaultfd. Only a vCPU thread with a
 * fault to solve counts as resolving. */
static __always_inline void enter_madvise(u64 start, u64 bytes, u64 advice) {
    if (advice != MADV_POPULATE_READ && advice != MADV_POPULATE_WRITE)
        return;
    struct thread *thread = thread_of(current_tid());
    if (thread && thread->exit_ns)
        begin_fill(thread, RESOLVER_MADV_POPULATE, bytes, 0, start);
}

static __always_inline bool places(u32 resolver) {
    return resolver != RESOLVER_WAKE && resolver != RESOLVER_WRITEPROTECT && resolver != RESOLVER_RELEASED;
}

static __always_inline void count_fill(struct vm_totals *vm, u32 which, u64 bytes, bool demand) {
    u64 resolver = at_most(which == RESOLVER_WRITEPROTECT ? 0 : which, FILLS - 1);
    if (!vm || which == RESOLVER_RELEASED)
        return;
    if (demand) {
        __sync_fetch_and_add(&vm->fills_demand[resolver], 1);
    } else {
        __sync_fetch_and_add(&vm->fills_background[resolver], 1);
        if (places(which))
            __sync_fetch_and_add(&vm->bytes_background, bytes);
    }
}

static __always_inline u32 failure_cell(u64 error) {
    switch (error) {
    case ERRNO_EEXIST:
        return FAILURE_EEXIST;
    case ERRNO_EAGAIN:
        return FAILURE_EAGAIN;
    case ERRNO_ENOENT:
        return FAILURE_ENOENT;
    case ERRNO_ESRCH:
        return FAILURE_ESRCH;
    case ERRNO_EFAULT:
        return FAILURE_EFAULT;
    case ERRNO_ENOMEM:
        return FAILURE_ENOMEM;
    case ERRNO_EINVAL:
        return FAILURE_EINVAL;
    }
    return FAILURE_OTHER;
}

static __always_inline void count_failure(struct vm_totals *vm, u64 error) {
    __sync_fetch_and_add(&vm->fills_failed, 1);
    __sync_fetch_and_add(&vm->failed_by[at_most(failure_cell(error), FAILURES - 1)], 1);
}

/* Somebody waits for what this call fills: a demand fill, counted once. */
static __always_inline void count_demand(struct vm_totals *vm, struct fill *fill, u64 bytes) {
    if (!fill->woken)
        count_fill(vm, fill->resolver, bytes, true);
    fill->woken++;
}

/* A fill has woken a waiter: as far as this waiter goes it is done. */
static __always_inline void mark_woken(struct wait *wait, struct fill *fill, u32 tid, u64 bytes) {
    wait->woken = 1;
    wait->run_ns = 0;
    wait->seen |= (fill->resolver == RESOLVER_RELEASED ? 0 : SEEN_FILL) | (bytes > PAGE_BYTES ? SEEN_RANGE : 0);
    wait->handler_tid = tid;
    wait->resolver = fill->resolver;
    wait->fill_begin_ns = fill->begin_ns;
    wait->fill_end_ns = bpf_ktime_get_ns();
    count_demand(vm_totals_of(wait->vm_slot), fill, bytes);
}

/* A thread that waits outside of a guest fault goes on when it is woken: nothing later is seen of it. */
static __always_inline void finish_outside(struct thread *thread) {
    struct wait *wait = &thread->wait;
    if (wait->open != OPEN_OUTSIDE || !wait->woken)
        return;
    if (wait->pended)
        claim_own(thread, wait, wait->hva, 0);
    finish_uffd(thread, wait, 0, wait->fill_end_ns, ADDRESS_UNKNOWN, MEMSLOT_UNKNOWN);
}

/* Which fill answered an event. A wake-up alone does not take the place of the fill before it, and what was seen when
 * the waiter was woken stays. */
static __always_inline void note_fill(struct pending *pending, struct thread *filler, u64 bytes, u64 now) {
    struct fill *fill = &filler->fill;
    if (pending->fill_end_ns && (fill->resolver == RESOLVER_WAKE || pending->fill_begin_ns == fill->begin_ns))
        return;
    pending->fill_begin_ns = fill->begin_ns;
    pending->fill_end_ns = now;
    pending->resolver = fill->resolver;
    pending->handler_tid = filler->tid;
    pending->range = bytes > PAGE_BYTES;
}

/* A kworker was woken, and an async fault waits for this page: counted now, as its vCPU may collect the event before the
 * ioctl returns. */
static __always_inline void note_async_fill(struct thread *filler, struct target *target) {
    struct pending *pending = bpf_map_lookup_elem(MAP(pendings), &target->key);
    u32 vm_slot = 0;
    if (!pending || !pending->asyncs)
        return;
    note_fill(pending, filler, target->bytes, bpf_ktime_get_ns());
    count_demand(vm_of_page(&target->key, &vm_slot), &filler->fill, target->bytes);
}

/* What becomes of the event of the page that was filled: forgotten when every waiter has been matched. True if there
 * was one; `demand`: that no other fill has answered before (UFFDIO_POISON, whose page the VMM then mends). */
static __always_inline bool settle_pending(struct thread *filler, struct target *target, u64 now, bool *demand) {
    struct fill *fill = &filler->fill;
    struct page_key *key = &target->key;
    struct pending *pending = bpf_map_lookup_elem(MAP(pendings), key);
    if (!pending)
        return false;
    *demand = fill->resolver == RESOLVER_WAKE || pending->resolver != RESOLVER_POISON ||
              pending->last_read_ns > pending->fill_end_ns;
    u32 unclaimed = pending->reads - pending->claims;
    if (unclaimed || pending->asyncs)
        note_fill(pending, filler, target->bytes, now);
    if (pending->asyncs)
        return true; /* kvm_async_pf_ready collects and forgets it */
    if (unclaimed && fill->candidate_tid) {
        struct thread *waiter = waiter_outside(fill->candidate_tid, key->mm, filler->filled_slot);
        if (waiter && has_event(pending, &waiter->wait, 0)) {
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

/* What a fill says of a fault in exit mode. `hva`: of its page if that is not known. */
static __always_inline void fill_fault(struct thread *thread, struct thread *filler, struct target *target, u64 hva,
                                       u64 now) {
    struct wait *wait = &thread->wait;
    if (!wait->fill_begin_ns) {
        wait->fill_begin_ns = filler->fill.begin_ns;
        if (wait->hva == ADDRESS_UNKNOWN)
            wait->hva = hva;
        if (!wait->presence)
            wait->presence = presence_before(filler->fill.resolver);
        wait->resolver = filler->fill.resolver;
        wait->handler_tid = filler->tid;
        wait->seen |= SEEN_FILL | (target->bytes > PAGE_BYTES ? SEEN_RANGE : 0);
    }
    wait->fill_end_ns = now;
}

/* Exit mode: the vCPU thread solves its own fault; the first fill names the page unless it is known, the last one ends
 * it. */
static __always_inline void fill_own_fault(struct thread *thread, struct target *target, u64 now) {
    struct exited *exited = bpf_map_lookup_elem(MAP(exited), &thread->wait.vm_slot);
    if (exited && !exited->own)
        exited->own = 1;
    fill_fault(thread, thread, target, target->key.page, now);
}

/* Whether a fill is of the memslot that KVM used last; true where that is not known. */
static __always_inline bool is_in_memslot(struct slot *slot, struct target *target) {
    return !slot->pages || target->key.page - slot->hva < slot->pages * PAGE_BYTES ||
           slot->hva - target->key.page < target->bytes;
}

/* Nobody was woken, but somebody may be about to sleep, and will find the page there. */
static __always_inline void serve_waiting(struct thread *filler, struct target *target) {
    struct waiting *entry = waiting_for(&target->key);
    if (!entry || entry->page != (target->key.page ^ target->key.mm))
        return;
    struct thread *thread = thread_of(entry->tid);
    if (thread && thread->has_parked && thread->parked.hva == target->key.page && !thread->parked.woken) {
        mark_woken(&thread->parked, &filler->fill, filler->tid, target->bytes);
        return;
    }
    if (!thread || thread->wait.hva != target->key.page || thread->wait.woken || !thread->wait.read_ns)
        return;
    mark_woken(&thread->wait, &filler->fill, filler->tid, target->bytes);
    finish_outside(thread);
}

/* Whether a vCPU has left KVM_RUN for a page of this fill, as far as is known: of its memslot, if not the page itself. */
static __always_inline bool may_be_exited_for(struct exited *exited, struct thread *thread, struct target *target,
                                              u32 vm_slot) {
    if (!thread->exit_ns || thread->wait.vm_slot != vm_slot || thread->wait.fill_begin_ns)
        return false;
    if (thread->wait.hva != ADDRESS_UNKNOWN)
        return thread->wait.hva - target->key.page < target->bytes;
    /* It waits for somebody else if no thread has it, or if that sleeps, as long as no vCPU of the VM has placed a page itself. */
    bool asleep = thread->wait.sleep_ns && !thread->wait.run_ns && !thread->filling;
    if (thread->tid && (exited->own || !(asleep || exited->others)))
        return false;
    return target->key.page - thread->exit_slot.hva < thread->exit_slot.pages * PAGE_BYTES;
}

/* Exit mode: somebody else places the page of a vCPU that has left KVM_RUN for it (another thread, another process): that of
 * the vCPU which waits for this page; where KVM has not said which page it was, the one that waits longest for a page of the
 * memslot. True if there is one. */
static __always_inline bool serve_exited(struct thread *filler, struct target *target, u32 vm_slot, u64 now) {
    struct exited *exited = bpf_map_lookup_elem(MAP(exited), &vm_slot);
    struct search *best = &filler->search;
    if (!exited || !exited->any)
        return false;
    best->found = 0;
    best->candidates = 0;
    for (u32 i = 0; i < EXITED_VCPUS; i++) {
        struct thread *thread = exited->thread[i] ? thread_in(exited->thread[i] - 1) : 0;
        if (!thread || !may_be_exited_for(exited, thread, target, vm_slot))
            continue;
        if (best->found && thread->exit_ns > best->exit_ns && thread->wait.hva == ADDRESS_UNKNOWN)
            continue;
        best->found = exited->thread[i];
        best->exit_ns = thread->wait.hva == ADDRESS_UNKNOWN ? thread->exit_ns : 0;
        best->candidates++;
    }
    struct thread *found = best->found ? thread_in(best->found - 1) : 0;
    if (!found)
        return false;
    if (!exited->others)
        exited->others = 1;
    fill_fault(found, filler, target, best->candidates == 1 ? target->key.page : ADDRESS_UNKNOWN, now);
    return true;
}

/* Bytes that a call has placed all the same which then has failed: uffdio_copy.copy and its like, -errno if none. */
static __always_inline u64 bytes_placed(struct fill *fill) {
    bool two = fill->resolver == RESOLVER_COPY || fill->resolver == RESOLVER_MOVE;
    s64 placed = 0;
    if (!places(fill->resolver))
        return 0;
    bpf_probe_read_user(&placed, sizeof(placed), (void *)(fill->argument + (two ? 32 : 24)));
    return placed > 0 ? placed : 0;
}

/* A resolving ioctl returns. One that has woken a waiter was counted then. */
static __always_inline void exit_fill(struct thread *thread, s64 result) {
    struct fill *fill = &thread->fill;
    bool pending = any_pending();
    thread->filling = 0;
    if ((fill->woken && !pending && result >= 0) || fill->resolver == RESOLVER_RELEASED)
        return;
    struct target target = {};
    struct vm_totals *vm = 0;
    u64 now = bpf_ktime_get_ns();
    u32 vm_slot = thread->wait.vm_slot;
    bool demand = false;
    if (range_of(fill, &target) & UFFDIO_WRITEPROTECT_MODE_WP && fill->resolver == RESOLVER_WRITEPROTECT)
        return; /* protects: no fill */
    if (result < 0)
        target.bytes = bytes_placed(fill);
    bool placed = result >= 0 || target.bytes;
    bool own = thread->exit_ns && is_in_memslot(&thread->exit_slot, &target);
    if (own && !pending) {
        vm = vm_totals_of(vm_slot);
    } else {
        vm = vm_filled_by(thread);
        vm_slot = thread->filled_slot;
        target.key.mm = vm ? vm->mm : 0;
        if (vm && placed) {
            /* Asked again: an event may have been read since. */
            bool known = any_pending() && settle_pending(thread, &target, now, &demand);
            if (!known && !fill->woken)
                serve_waiting(thread, &target);
        }
    }
    if (!vm)
        return;
    if (result < 0)
        count_failure(vm, -result);
    if (fill->woken || !placed)
        return;
    if (own) {
        fill_own_fault(thread, &target, now);
        demand = true;
    } else if (!demand) {
        demand = serve_exited(thread, &target, vm_slot, now);
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
        count_failure(vm, -result);
        return;
    }
    fill_own_fault(thread, &target, bpf_ktime_get_ns());
    count_fill(vm, RESOLVER_MADV_POPULATE, target.bytes, true);
}

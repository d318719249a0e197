/* uffd_wait.h: a thread sleeps until its page is there, and which fill woke it. */

/* Whether a task that does not run sleeps in handle_userfault: a look at its stack, dear, for what a fill does not explain. */
static __always_inline bool in_handle_userfault(u64 task) {
    u64 frames[STACK_FRAMES] = {};
    bpf_get_task_stack((void *)task, frames, sizeof(frames), 0);
    bool found = false;
    for (u32 i = 0; i < STACK_FRAMES; i++)
        found |= frames[i] - HANDLE_USERFAULT < HANDLE_USERFAULT_BYTES;
    return found;
}

static __always_inline void switched_out(struct thread *thread, bool preempted) {
    struct wait *wait = &thread->wait;
    struct vcpu_totals *totals = totals_of(thread->slot);
    if (thread->run_fd && !is_vcpu(thread)) {
        /* Inside KVM_RUN when the probes came: this is the one place that everybody passes by. */
        adopt_vcpu(private_of(file_of(thread->run_fd - 1)));
        return;
    }
    if (!totals)
        return;
    if (!preempted && wait->open == OPEN_GUEST && wait->woken && wait->run_ns) {
        /* Asleep again before the fault has ended: perhaps for a second missing page (a page table, then its page). */
        u64 run_ns = wait->run_ns;
        thread->previous = *wait;
        thread->previous_access_ns = thread->access_ns;
        thread->has_previous = 1;
        u8 access = wait->access;
        close_wait(thread, wait);
        wait->open = OPEN_GUEST;
        wait->access = access;
        thread->access_ns = run_ns;
    }
    if (preempted) {
        if (wait->open == OPEN_GUEST && !wait->woken)
            wait->run_ns = 0; /* said anew when it runs again */
        return;
    }
    if (!thread->kicks || !wait->sleep_ns)
        wait->sleep_ns = bpf_ktime_get_ns();
    if (!wait->found)
        thread->unfilled = 0; /* of a sleep that it was kicked out of */
    wait->found = wait->open != OPEN_KICKED;
    if (wait->open)
        totals->open_since_ns = thread->access_ns;
    if (!wait->woken)
        wait->run_ns = 0;
    if (!wait->open && is_vcpu(thread) && thread->async_outstanding && apf_halted(thread)) {
        /* KVM clears apf.halted before kvm_async_pf_ready (arch/x86/kvm/x86.c, vcpu_block): this is where it shows. */
        thread->halted = 1;
        totals->open_since_ns = thread->halt_begin_ns;
    }
}

/* A thread runs that a fill has woken, or that may have slept for anything. A vCPU's wait ends when its page is mapped, but
 * the one before it is over. */
static __always_inline void switched_in(struct thread *thread, u64 task) {
    struct wait *wait = &thread->wait;
    wait->run_ns = bpf_ktime_get_ns();
    if (!wait->woken && wait->open == OPEN_GUEST && wait->sleep_ns && in_handle_userfault(task))
        thread->unfilled = 1;
    if (!thread->has_previous || !thread->wait.woken)
        return;
    thread->has_previous = 0;
    struct wait *over = &thread->previous;
    finish_woken(thread, over, thread->previous_access_ns, over->run_ns);
}

/* handle_userfault(struct vm_fault *, unsigned long reason) begins: the current thread is about to wait, or to be told
 * SIGBUS. `typed`: whether the verifier knows the type of `fault`. */
static __always_inline void enter_wait(u64 fault, u64 reason, bool typed) {
    if (load_u32(fault, OFF_FAULT_FLAGS, typed) & FAULT_FLAG_RETRY_NOWAIT)
        return; /* KVM tries without waiting first */
    u64 area = load_u64(fault, OFF_FAULT_VMA, typed);
    u64 uffd = load_u64(area, OFF_VMA_UFFD, typed);
    struct thread *thread = thread_of(current_tid());
    struct page_key key = {.page = PAGE_OF(load_u64(fault, OFF_FAULT_ADDRESS, typed))};
    bool sigbus = load_u32(uffd, OFF_UFFD_FEATURES, typed) & UFFD_FEATURE_SIGBUS;
    if (!thread || thread->wait.open != OPEN_GUEST) {
        u64 task = (u64)bpf_get_current_task_btf();
        u64 mm = read_u64(area + OFF_VMA_MM);
        if (sigbus || FIELD_U64(task, OFF_TASK_MM) != mm) /* a kworker's: async faults tell of themselves */
            return;
        key.mm = mm;
        u32 vm_slot = NO_SLOT;
        vm_of_page(&key, &vm_slot);
        thread = waiter_outside(current_tid(), mm, vm_slot);
        if (!thread)
            return;
        close_wait(thread, &thread->wait);
        thread->wait.open = OPEN_OUTSIDE;
    }
    struct wait *wait = &thread->wait;
    key.mm = thread->mm;
    thread->uffd = uffd;
    if (wait->woken) {
        /* A second missing page in one guest fault (a page table, then its page): a fault of its own. */
        u8 access = wait->access;
        u64 now = bpf_ktime_get_ns();
        finish_woken(thread, wait, thread->access_ns, now);
        wait->open = OPEN_GUEST;
        wait->access = access;
        thread->access_ns = now;
    }
    wait->hva = key.page;
    wait->presence = reason & VM_UFFD_MISSING ? PRESENCE_MISSING : reason & VM_UFFD_WP ? PRESENCE_WP : PRESENCE_MINOR;
    struct vcpu_totals *totals = totals_of(thread->slot);
    if (!sigbus && totals && wait->open == OPEN_GUEST)
        totals->open_since_ns = thread->access_ns;
    if (sigbus || (wait->sleep_ns && !thread->kicks)) /* no wait; or the same wait, entered again after a signal */
        return;
    if (!wait->sleep_ns)
        wait->sleep_ns = bpf_ktime_get_ns();
    if (!list_waiting(thread, thread->tid, &key))
        wait->found = 0; /* its event is kept in pendings */
    else
        wait->found = thread->kicks ? FOUND_AGAIN : FOUND;
}

/* A vCPU whose event has not named it, or that no handler has read about; or another thread. An interrupt inside the
 * fill can wake anybody: a thread that is in no wait that we know is only noted, and believed when the call returns and
 * an event is still without an owner. Kworkers need no belief: async faults tell of themselves. */
static __always_inline void match_waiter(u64 task, struct thread *thread, struct thread *waker) {
    struct fill *fill = &waker->fill;
    struct target target = {};
    target.key.mm = memory_of(fill);
    range_of(fill, &target);
    if (!thread || !(thread->wait.open & OPEN_WAITS)) {
        if (thread && thread->reader_file)
            return; /* a handler, woken by its own timer */
        u64 mm = FIELD_U64(task, OFF_TASK_MM);
        if (!mm)
            note_async_fill(waker, &target);
        else if (mm == target.key.mm || in_handle_userfault(task)) /* another process may ask for the VM's memory */
            fill->candidate_tid = FIELD_U32(task, OFF_TASK_PID);
        return;
    }
    if (thread->wait.open == OPEN_OUTSIDE && thread->wait.hva - target.key.page >= target.bytes)
        return; /* woken by something else */
    mark_woken(&thread->wait, fill, waker->tid, target.bytes);
    if (thread->wait.hva == ADDRESS_UNKNOWN && target.bytes <= PAGE_BYTES)
        thread->wait.hva = target.key.page;
    struct pending *pending = bpf_map_lookup_elem(MAP(pendings), &target.key);
    if (pending && has_event(pending, &thread->wait, thread->access_ns) &&
        target.bytes <= PAGE_BYTES) /* else: whose it is shows later */
        claim(&thread->wait, &target.key, pending), claim_repeated(thread, pending);
    finish_outside(thread);
}

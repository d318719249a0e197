/* uffd_wait: a thread sleeps until its page is there, and which fill woke it. */

static __always_inline void switched_out(struct thread *thread, bool preempted) {
    struct wait *wait = &thread->wait;
    struct vcpu_totals *totals = totals_of(thread->slot);
    if (!totals)
        return;
    if (!preempted && wait->open && wait->woken && wait->run_ns) {
        /* Asleep again before the fault has ended: perhaps for a second missing page (a page table, then its page). */
        u64 run_ns = wait->run_ns;
        thread->previous = *wait;
        thread->previous_access_ns = thread->access_ns;
        thread->has_previous = 1;
        close_wait(wait);
        wait->open = 1;
        thread->access_ns = run_ns;
    }
    if (wait->open || !is_vcpu(thread)) {
        if (preempted)
            return;
        wait->sleep_ns = bpf_ktime_get_ns();
        if (wait->open)
            totals->open_since_ns = thread->access_ns;
    } else if (thread->async_outstanding && apf_halted(thread)) {
        /* KVM clears apf.halted before kvm_async_pf_ready (arch/x86/kvm/x86.c, vcpu_block): this is where it shows. */
        thread->halted = 1;
        totals->open_since_ns = thread->halt_begin_ns;
    }
}

/* A thread runs that a fill has woken. Finishes what is certain to be over: the wait of a thread that is no vCPU, or
 * a vCPU's wait before this one; the vCPU's own ends when its page is mapped. */
static __always_inline void switched_in(struct thread *thread) {
    u64 now = bpf_ktime_get_ns();
    struct wait *over = &thread->wait;
    u64 access_ns = 0;
    u64 end_ns = now;
    if (is_vcpu(thread)) {
        thread->wait.run_ns = now;
        if (!thread->has_previous)
            return;
        thread->has_previous = 0;
        over = &thread->previous;
        access_ns = thread->previous_access_ns;
        end_ns = over->run_ns;
    }
    finish_uffd(thread, over, access_ns, end_ns, ADDRESS_UNKNOWN);
}

/* sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next, ...) */
int on_sched_switch(u64 *ctx) {
    u64 prev = ctx[1];
    u64 next = ctx[2];
    struct thread *thread = thread_of(FIELD_U32(prev, OFF_TASK_PID));
    if (thread)
        switched_out(thread, ctx[0]);
    thread = thread_of(FIELD_U32(next, OFF_TASK_PID));
    if (thread && thread->wait.woken && !thread->wait.run_ns)
        switched_in(thread);
    return 0;
}

/* A fill has woken a waiter. It is a demand fill, and as far as this waiter goes it is done. */
static __always_inline void mark_woken(struct wait *wait, struct thread *waker, u64 bytes) {
    struct fill *fill = &waker->fill;
    wait->woken = 1;
    wait->run_ns = 0;
    wait->seen |= SEEN_FILL | (bytes > PAGE_BYTES ? SEEN_RANGE : 0);
    wait->handler_tid = waker->tid;
    wait->resolver = fill->resolver;
    wait->fill_begin_ns = fill->begin_ns;
    wait->fill_end_ns = bpf_ktime_get_ns();
    if (!fill->woken)
        count_fill(vm_totals_of(wait->vm_slot), fill->resolver, 0, true);
    fill->woken++;
}

/* A kworker of an async page fault was woken: kvm_async_pf_ready will collect what is known of it. */
static __always_inline void mark_async(struct pending *pending, struct thread *waker, u64 mm) {
    struct fill *fill = &waker->fill;
    u32 vm_slot = 0;
    struct vm_totals *vm = vm_of_memory(mm, &vm_slot);
    if (vm)
        __sync_fetch_and_add(&vm->events_done, 1);
    if (!fill->woken)
        count_fill(vm, fill->resolver, 0, true);
    fill->woken++;
    __sync_fetch_and_add(&pending->claims, 1);
    pending->async = 1;
    if (fill->resolver == RESOLVER_WAKE && pending->fill_end_ns)
        return; /* the fill came before */
    pending->fill_begin_ns = fill->begin_ns;
    pending->fill_end_ns = bpf_ktime_get_ns();
    pending->resolver = fill->resolver;
    pending->handler_tid = waker->tid;
}

/* A waiter whose event has not named it, or that no handler has read about. An interrupt inside the fill can wake
 * anybody, so a thread that is no vCPU must be asked for by an event that is not answered yet. */
static __always_inline void match_waiter(u64 task, u32 tid, struct thread *thread, struct thread *waker) {
    struct target target = {};
    range_of(&waker->fill, &target);
    target.key.mm = memory_of(&waker->fill);
    struct pending *pending = pendings.lookup(&target.key);
    bool vcpu = thread && is_vcpu(thread);
    if (!pending || pending->claims >= pending->reads) {
        if (vcpu)
            mark_woken(&thread->wait, waker, target.bytes);
        return;
    }
    if (!vcpu) {
        if (FIELD_U32(task, OFF_TASK_FLAGS) & PF_WQ_WORKER) {
            mark_async(pending, waker, target.key.mm);
            return;
        }
        if (FIELD_U64(task, OFF_TASK_MM) == target.key.mm)
            thread = adopt_other(tid, target.key.mm);
        else
            thread = 0;
    }
    if (!thread)
        return;
    mark_woken(&thread->wait, waker, target.bytes);
    if (waker->fill.resolver == RESOLVER_WAKE && pending->fill_end_ns)
        thread->wait.fill_begin_ns = 0; /* claim() takes the fill that came before this wake-up */
    claim(&thread->wait, &target.key, pending);
}

/* sched_waking(struct task_struct *p): runs in the waker's context, unlike sched_wakeup. */
int on_sched_waking(u64 *ctx) {
    struct thread *waker = thread_of(current_tid());
    if (!waker || !waker->fill.active)
        return 0;
    u64 task = ctx[0];
    u32 tid = FIELD_U32(task, OFF_TASK_PID);
    struct thread *thread = thread_of(tid);
    struct settings *known = the_settings();
    bool open = thread && thread->wait.open;
    if (tid == waker->tid || (thread && is_vcpu(thread) && !open))
        return 0;
    if (!known || !known->pendings || (open && thread->wait.seen & SEEN_READ)) {
        if (open)
            mark_woken(&thread->wait, waker, 0);
    } else {
        match_waiter(task, tid, thread, waker);
    }
    return 0;
}

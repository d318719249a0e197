/* uffd_wait: a thread sleeps until its page is there, and which fill woke it. */

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

/* A vCPU runs that a fill has woken. Its wait ends when its page is mapped, but the one before it is over. */
static __always_inline void switched_in(struct thread *thread) {
    thread->wait.run_ns = bpf_ktime_get_ns();
    if (!thread->has_previous)
        return;
    thread->has_previous = 0;
    struct wait *over = &thread->previous;
    finish_uffd(thread, over, thread->previous_access_ns, over->run_ns, ADDRESS_UNKNOWN);
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

/* A vCPU whose event has not named it, or that no handler has read about; or another thread. An interrupt inside the
 * fill can wake anybody: a thread that is no vCPU is only noted, and believed when the call returns and an event is
 * still without an owner. Kworkers need no belief: async faults tell of themselves. */
static __always_inline void match_waiter(u64 task, struct thread *thread, struct thread *waker) {
    struct fill *fill = &waker->fill;
    struct target target = {};
    target.key.mm = memory_of(fill);
    range_of(fill, &target);
    if (!thread || !is_vcpu(thread)) {
        if (FIELD_U64(task, OFF_TASK_MM) == target.key.mm)
            fill->candidate_tid = FIELD_U32(task, OFF_TASK_PID);
        else
            note_async_fill(waker, &target.key);
        return;
    }
    mark_woken(&thread->wait, fill, waker->tid, target.bytes);
    struct pending *pending = bpf_map_lookup_elem(MAP(pendings), &target.key);
    if (pending && pending->reads > pending->claims)
        claim(&thread->wait, &target.key, pending);
}

/* sched_waking(struct task_struct *p): runs in the waker's context, unlike sched_wakeup. */
int on_sched_waking(u64 *ctx) {
    struct thread *waker = thread_of(current_tid());
    if (!waker || !waker->filling)
        return 0;
    u64 task = ctx[0];
    u32 tid = FIELD_U32(task, OFF_TASK_PID);
    struct thread *thread = thread_of(tid);
    bool open = thread && thread->wait.open;
    if (tid == waker->tid || (thread && is_vcpu(thread) && !open))
        return 0;
    if (!any_pending() || (open && thread->wait.seen & SEEN_READ)) {
        if (open)
            mark_woken(&thread->wait, &waker->fill, waker->tid, 0);
    } else {
        match_waiter(task, thread, waker);
    }
    return 0;
}

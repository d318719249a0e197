/* uffd_wait: the tracepoints of the scheduler. */

/* sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state): the last since
 * 5.18. KVM leaves the CPU to others while it is running, too. */
int on_sched_switch(u64 *ctx) {
    u64 prev = ctx[1];
    u64 next = ctx[2];
    struct thread *thread = thread_of(FIELD_U32(prev, OFF_TASK_PID));
    if (thread)
        switched_out(thread, ctx[0] || (SWITCH_SAYS_STATE ? !(u32)ctx[3] : !FIELD_U32(prev, OFF_TASK_STATE)));
    thread = thread_of(FIELD_U32(next, OFF_TASK_PID));
    if (thread && !thread->wait.run_ns)
        switched_in(thread, next);
    return 0;
}

/* sched_waking(struct task_struct *p): runs in the waker's context, unlike sched_wakeup. */
int on_sched_waking(u64 *ctx) {
    struct thread *waker = thread_of(current_tid());
    if (!waker || !waker->filling || waker->fill.resolver == RESOLVER_MADV_POPULATE)
        return 0; /* populating wakes those that wait for a lock, and nobody in userfaultfd */
    u64 task = ctx[0];
    u32 tid = FIELD_U32(task, OFF_TASK_PID);
    if (waker->fill.resolver == RESOLVER_RELEASED && !in_handle_userfault(task))
        return 0; /* UFFDIO_UNREGISTER takes a lock for which others wait */
    struct thread *thread = thread_of(tid);
    bool open = thread && thread->wait.open & OPEN_WAITS && thread->wait.sleep_ns && !thread->wait.woken;
    if (tid == waker->tid)
        return 0;
    if (!any_pending() || (open && thread->wait.seen & SEEN_READ)) {
        if (open) {
            mark_woken(&thread->wait, &waker->fill, waker->tid, 0);
            finish_outside(thread);
        }
    } else {
        match_waiter(task, thread, waker);
    }
    return 0;
}

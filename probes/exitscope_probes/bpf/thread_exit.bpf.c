/* thread_exit: what a thread leaves behind when it ends, also by SIGKILL in the middle of a fault. */

/* sched_process_exit(struct task_struct *, ...): in the context of the thread that ends. */
int on_thread_exit(u64 *ctx) {
    u32 tid = current_tid();
    struct thread *thread = thread_of(tid);
    u32 page = tid / TIDS_PER_PAGE;
    struct tid_page *row = bpf_map_lookup_elem(MAP(tids), &page);
    if (!thread || !row)
        return 0;
    if (named_read(&thread->wait)) { /* it was read, and no end of this wait will count it */
        struct vm_totals *vm = vm_totals_of(thread->wait.vm_slot);
        thread->wait.seen &= ~SEEN_NAMED;
        if (vm)
            __sync_fetch_and_add(&vm->events_read, 1);
    }
    bool left = leaves_to_others(thread);
    if (!left && (thread->wait.open || is_unfinished(thread)))
        lose(LOSS_UNMATCHED_BEGIN);
    struct vcpu_totals *totals = totals_of(thread->slot);
    if (totals && is_vcpu(thread) && totals->tid == tid) {
        totals->exited = 1;
        totals->open_since_ns = 0;
    }
    row->thread[tid % TIDS_PER_PAGE] = 0;
    struct free_slot slot = {.slot = thread->self};
    if (!left)
        bpf_map_push_elem(MAP(free_threads), &slot, 0);
    return 0;
}

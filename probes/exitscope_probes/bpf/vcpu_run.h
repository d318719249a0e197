/* vcpu_run.h: KVM_RUN is entered, and returns. */

#define KICK_NS 1000000 /* on the CPU: a vCPU that is kicked out of its wait has left KVM_RUN by then */

static __always_inline void enter_run(u64 vcpu) {
    struct thread *thread = thread_of(current_tid());
    struct settings *known = the_settings();
    if (!known)
        return;
    if (!thread || thread->vcpu != vcpu || (thread->vcpus_made != (u32)known->vcpus_made && !is_still(thread)))
        thread = run_another(thread, vcpu);
    if (!thread)
        return;
    thread->vcpus_made = known->vcpus_made;
    if (thread->exit_ns) {
        finish_exit(thread, bpf_ktime_get_ns());
    } else if (thread->wait.open == OPEN_KICKED) {
        /* It will ask for its page again at once, and then be seen to sleep: or the page is there by now. */
        struct vcpu_totals *totals = totals_of(thread->slot);
        thread->wait.run_ns = bpf_ktime_get_ns();
        if (totals)
            totals->open_since_ns = 0;
    }
}

static __always_inline u32 exit_cell(u32 reason, s32 error) {
    if (!error)
        return reason < EXIT_REASON_BEYOND ? reason : EXIT_REASON_BEYOND;
    if (error == ERRNO_EINTR)
        return EXIT_EINTR;
    if (error == ERRNO_EAGAIN)
        return EXIT_EAGAIN;
    if (error == ERRNO_EFAULT)
        return reason == KVM_EXIT_MEMORY_FAULT ? EXIT_MEMORY_FAULT_EFAULT : EXIT_EFAULT;
    if (error == ERRNO_EHWPOISON && reason == KVM_EXIT_MEMORY_FAULT)
        return EXIT_MEMORY_FAULT_EHWPOISON;
    return EXIT_ERROR_OTHER;
}

/* KVM_RUN has returned with a fault that userspace must solve. */
static __always_inline void begin_exit(struct thread *thread, u32 reason, s32 result, u64 now) {
    struct wait *wait = &thread->wait;
    bool open = wait->open == OPEN_GUEST;
    u8 access = wait->access;
    u8 presence = wait->presence;
    u64 hva = wait->hva;
    close_wait(thread, wait);
    if (open) {
        wait->seen = SEEN_ACCESS;
        wait->access = access;
        wait->presence = presence;
        wait->hva = hva;
    } else {
        thread->access_ns = now;
    }
    thread->exit_address = open ? thread->address : ADDRESS_UNKNOWN;
    thread->exit_ns = now;
    thread->exit_errno = result;
    thread->exit_reason = reason;
    thread->exit_gpa = TWO_STAGE_PAGING ? thread->exit_address : ADDRESS_UNKNOWN;
    thread->exit_flags = 0;
    thread->exit_size = 0;
    if (reason == KVM_EXIT_MEMORY_FAULT) {
        u64 detail[3] = {};
        u64 run = read_u64(thread->vcpu + OFF_VCPU_RUN);
        bpf_probe_read_kernel(detail, sizeof(detail), (void *)(run + RUN_MEMORY_FAULT));
        thread->exit_flags = detail[0];
        thread->exit_gpa = PAGE_OF(detail[1]);
        thread->exit_size = detail[2];
    }
    keep_slot(&thread->exit_slot, read_u64(thread->vcpu + OFF_VCPU_LAST_USED_SLOT));
    if (TWO_STAGE_PAGING && wait->hva == ADDRESS_UNKNOWN)
        wait->hva = hva_in(&thread->exit_slot, thread->exit_gpa);
    note_exited(thread);
    struct vcpu_totals *totals = totals_of(thread->slot);
    if (totals)
        totals->open_since_ns = thread->access_ns;
}

/* Whether KVM_RUN, which a signal has ended, leaves a fault unfinished: one that waits, or has done until just now. One that
 * has run for longer has gone on, without KVM's mapping anything. */
static __always_inline bool left_in_fault(struct wait *wait, u64 now) {
    if (wait->open == OPEN_KICKED)
        return true;
    if (wait->open != OPEN_GUEST || !(wait->woken || wait->sleep_ns || wait->seen & SEEN_READ))
        return false;
    u64 awake_ns = wait->run_ns ? wait->run_ns : wait->woken ? wait->fill_end_ns : now;
    return now - awake_ns < KICK_NS;
}

/* KVM_RUN returns `result` (0 or -errno) with kvm_run->exit_reason. */
static __always_inline void leave_run(struct thread *thread, u32 reason, s32 result) {
    struct vcpu_totals *totals = totals_of(thread->slot);
    u64 cell = at_most(exit_cell(reason, result < 0 ? -result : 0), EXITS - 1);
    if (!totals)
        return;
    totals->exits[cell] += 1;
    struct wait *wait = &thread->wait;
    if (thread->has_previous)
        rejoin_previous(thread);
    u64 now = bpf_ktime_get_ns();
    /* Before Linux 6.2 KVM returns -EFAULT, too, to a thread that is killed while it waits. */
    bool killed = result == -ERRNO_EFAULT && wait->open == OPEN_GUEST && thread->unfilled &&
                  !(wait->seen & SEEN_FILL) && !wait->woken;
    if (killed || (result == -ERRNO_EINTR && left_in_fault(wait, now))) {
        /* Kicked out of its wait, or before it slept, or as its page came: the fault goes on when it is entered again. */
        wait->open = OPEN_KICKED;
        wait->found = 0;
        if (thread->kicks < 0xffff)
            thread->kicks++;
        totals->open_since_ns = thread->access_ns;
        return;
    }
    if (wait->open == OPEN_KICKED)
        park_kicked(thread);
    if (wait->woken || thread->unfilled)
        finish_woken(thread, wait, thread->access_ns, wait->run_ns);
    if (result == -ERRNO_EFAULT || (result == -ERRNO_EHWPOISON && reason == KVM_EXIT_MEMORY_FAULT)) {
        begin_exit(thread, reason, result, now);
        return;
    }
    if (wait->open == OPEN_GUEST && (wait->seen & SEEN_READ || (wait->sleep_ns && wait->run_ns))) {
        /* It had gone on without KVM's mapping anything, as a neighbour's fault had mapped its page. */
        totals->stall_ns += (wait->run_ns ? wait->run_ns : now) - thread->access_ns;
        remember_named(thread);
    }
    totals->open_since_ns = 0;
    close_wait(thread, wait);
}

/* vcpu_run: KVM_RUN entered and returned. Entered is called from syscalls.bpf.c. */

static __always_inline void enter_run(u64 fd) {
    u64 vcpu = private_of(file_of(fd));
    if (!vcpu)
        return;
    struct thread *thread = thread_of(current_tid());
    if (!thread || thread->vcpu != vcpu)
        adopt_vcpu(vcpu);
    else if (thread->exit_ns)
        finish_exit(thread, bpf_ktime_get_ns());
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
    bool open = wait->open;
    close_wait(wait);
    if (open)
        wait->seen = SEEN_ACCESS;
    else
        thread->access_ns = now;
    thread->exit_address = open ? thread->address : ADDRESS_UNKNOWN;
    thread->exit_ns = now;
    thread->exit_errno = result;
    thread->exit_reason = reason;
    thread->exit_gpa = ADDRESS_UNKNOWN;
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
    struct vcpu_totals *totals = totals_of(thread->slot);
    if (totals)
        totals->open_since_ns = thread->access_ns;
}

/* A vCPU is kicked out of a wait whose event named it. Its page may be filled before it comes back: the event goes to
 * where those are that name nobody. */
static __always_inline void remember_named(struct thread *thread) {
    struct wait *wait = &thread->wait;
    if ((wait->seen & (SEEN_READ | SEEN_NAMED)) != (SEEN_READ | SEEN_NAMED))
        return;
    struct vm_totals *vm = vm_totals_of(wait->vm_slot);
    if (vm)
        __sync_fetch_and_add(&vm->events_read, 1);
    if (!wait->pended)
        note_read(thread->mm, wait->hva, wait->read_ns);
}

/* kvm_userspace_exit(u32 reason, int errno): as KVM_RUN returns. */
int on_userspace_exit(u64 *ctx) {
    struct thread *thread = current_vcpu();
    if (!thread)
        return 0;
    u32 reason = ctx[0];
    s32 result = ctx[1];
    struct vcpu_totals *totals = totals_of(thread->slot);
    u64 cell = at_most(exit_cell(reason, result < 0 ? -result : 0), EXITS - 1);
    if (!totals)
        return 0;
    totals->exits[cell] += 1;
    struct wait *wait = &thread->wait;
    u64 now = bpf_ktime_get_ns();
    if (wait->woken && wait->run_ns)
        finish_uffd(thread, wait, thread->access_ns, wait->run_ns, ADDRESS_UNKNOWN);
    if (result == -ERRNO_EFAULT || (result == -ERRNO_EHWPOISON && reason == KVM_EXIT_MEMORY_FAULT)) {
        begin_exit(thread, reason, result, now);
        return 0;
    }
    if (wait->open && wait->sleep_ns) {
        /* Kicked out of its wait: time lost to the fault all the same; the fault itself starts anew. */
        totals->stall_ns += now - thread->access_ns;
        totals->open_since_ns = 0;
        thread->kicked = 1;
        remember_named(thread);
    }
    close_wait(wait);
    return 0;
}

/* vcpu_run: KVM_RUN returns; it is entered in syscalls.bpf.c, fentry.bpf.c or kprobe.bpf.c. */

/* kvm_userspace_exit(u32 reason, int errno) */
int on_userspace_exit(u64 *ctx) {
    struct thread *thread = current_vcpu();
    if (thread)
        leave_run(thread, ctx[0], ctx[1]);
    return 0;
}

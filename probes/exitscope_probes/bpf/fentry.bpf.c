/* fentry: the kernel's own functions, entered and left; ctx holds the arguments, then the result. */

/* kvm_arch_vcpu_ioctl_run(struct kvm_vcpu *) */
int fentry_vcpu_run(u64 *ctx) {
    enter_run(ctx[0]);
    return 0;
}

/* kvm_arch_init_vm(struct kvm *, unsigned long type) */
int fentry_init_vm(u64 *ctx) {
    forget_vm(ctx[0]);
    return 0;
}

/* kvm_arch_vcpu_create(struct kvm_vcpu *) */
int fentry_create_vcpu(u64 *ctx) {
    note_new_vcpu(ctx[0]);
    return 0;
}

/* kvm_mmu_page_fault(struct kvm_vcpu *, gpa_t cr2_or_gpa, u64 error_code, ...) */
int fentry_page_fault(u64 *ctx) {
    begin_fault(ctx[0], ctx[1], ctx[2]);
    return 0;
}

/* handle_userfault(struct vm_fault *, unsigned long reason) */
int fentry_handle_userfault(u64 *ctx) {
    enter_wait(ctx[0], ctx[1], true);
    return 0;
}

/* userfaultfd_ioctl(struct file *, unsigned int command, unsigned long argument) */
int fentry_uffd_ioctl(u64 *ctx) {
    enter_uffd_ioctl(ctx[0], 0, ctx[1], ctx[2]);
    return 0;
}

/* ... = result */
int fexit_uffd_ioctl(u64 *ctx) {
    struct thread *thread = thread_of(current_tid());
    if (thread && thread->filling)
        exit_fill(thread, ctx[3]);
    return 0;
}

/* userfaultfd_read_iter(struct kiocb *, struct iov_iter *) = bytes: only read() itself is followed */
int fexit_uffd_read_iter(u64 *ctx) {
    exit_uffd_read(ctx, FIELD_U64(ctx[0], OFF_KIOCB_FILE), ctx[2]);
    return 0;
}

/* userfaultfd_read(struct file *, char __user *, size_t, loff_t *) = bytes */
int fexit_uffd_read(u64 *ctx) {
    exit_uffd_read(ctx, ctx[0], ctx[4]);
    return 0;
}

/* kvm_arch_async_page_not_present(struct kvm_vcpu *, struct kvm_async_pf *) = whether the guest was told */
int fexit_async_not_present(u64 *ctx) {
    note_halt((u8)ctx[2]);
    return 0;
}

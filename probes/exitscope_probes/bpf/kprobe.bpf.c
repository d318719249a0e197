/* kprobe: the same functions where fentry is not to be had. Entries only: a kretprobe loses the returns of all but a few
 * calls that sleep at the same time (kernel/trace/trace_kprobe.c, maxactive), and a lost return would be a lost fault. */

/* kvm_arch_vcpu_ioctl_run(struct kvm_vcpu *) */
int kprobe_vcpu_run(u64 *ctx) {
    enter_run(ARGUMENT_1(ctx));
    return 0;
}

/* kvm_arch_init_vm(struct kvm *, unsigned long type) */
int kprobe_init_vm(u64 *ctx) {
    forget_vm(ARGUMENT_1(ctx));
    return 0;
}

/* kvm_arch_vcpu_create(struct kvm_vcpu *) */
int kprobe_create_vcpu(u64 *ctx) {
    note_new_vcpu(ARGUMENT_1(ctx));
    return 0;
}

/* kvm_mmu_page_fault(struct kvm_vcpu *, gpa_t cr2_or_gpa, u64 error_code, ...) */
int kprobe_page_fault(u64 *ctx) {
    begin_fault(ARGUMENT_1(ctx), ARGUMENT_2(ctx), ARGUMENT_3(ctx));
    return 0;
}

/* handle_userfault(struct vm_fault *, unsigned long reason) */
int kprobe_handle_userfault(u64 *ctx) {
    enter_wait(ARGUMENT_1(ctx), ARGUMENT_2(ctx), false);
    return 0;
}

/* userfaultfd_ioctl(struct file *, unsigned int command, unsigned long argument) */
int kprobe_uffd_ioctl(u64 *ctx) {
    enter_uffd_ioctl(ARGUMENT_1(ctx), 0, ARGUMENT_2(ctx), ARGUMENT_3(ctx));
    return 0;
}

/* kvm_arch_async_page_not_present(...) = whether the guest was told: it does not sleep */
int kretprobe_async_not_present(u64 *ctx) {
    note_halt((u8)RESULT(ctx));
    return 0;
}

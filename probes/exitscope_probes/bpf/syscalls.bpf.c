/* syscalls: the programs behind the hooks vCPU run, uffd notify and resolve. */

/* syscalls:sys_enter_ioctl */
int on_enter_ioctl(struct syscall_enter *ctx) {
    u32 command = ctx->argument[1];
    if (command == KVM_RUN) {
        u64 vcpu = private_of(file_of(ctx->argument[0]));
        if (vcpu)
            enter_run(vcpu);
    } else if (((command >> 8) & 0xff) == UFFDIO_TYPE) {
        enter_uffd_ioctl(0, ctx->argument[0], command, ctx->argument[2]);
    }
    return PASS;
}

/* syscalls:sys_exit_ioctl */
int on_exit_ioctl(struct syscall_exit *ctx) {
    struct thread *thread = thread_of(current_tid());
    if (thread && thread->filling)
        exit_fill(thread, ctx->result);
    if (ctx->result <= 0)
        return PASS;
    u64 regs = (u64)bpf_task_pt_regs(bpf_get_current_task_btf());
    u32 command = ARGUMENT_2(regs);
    if (command == KVM_CREATE_VM)
        forget_vm(private_of(file_of(ctx->result)));
    else if (command == KVM_CREATE_VCPU)
        note_new_vcpu(private_of(file_of(ctx->result)));
    return PASS;
}

/* syscalls:sys_exit_read */
int on_exit_read(struct syscall_exit *ctx) {
    if (ctx->result < UFFD_MSG_BYTES || ctx->result % UFFD_MSG_BYTES)
        return PASS;
    u64 regs = (u64)bpf_task_pt_regs(bpf_get_current_task_btf());
    exit_read(ctx, MAP(further), file_of(SYSCALL_ARGUMENT_1(regs)), ARGUMENT_2(regs), ctx->result);
    return PASS;
}

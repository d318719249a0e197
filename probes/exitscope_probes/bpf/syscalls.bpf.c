/* syscalls: the programs behind the hooks vCPU run, uffd notify, resolve and populate. The structs are what the
 * tracepoints' format files describe, the same for every system call (kernel/trace/trace_syscalls.c). */

struct syscall_enter {
    u64 common;
    u64 number;
    u64 argument[6];
};

struct syscall_exit {
    u64 common;
    u64 number;
    s64 result;
};

/* A new VM or vCPU may sit where an ended one sat: whatever is remembered of that address is stale. */
static __always_inline void forget_address(u32 command, u32 fd) {
    u64 address = private_of(file_of(fd));
    if (command == KVM_CREATE_VM)
        bpf_map_delete_elem(MAP(vm_slots), &address);
    else
        bpf_map_delete_elem(MAP(vcpu_slots), &address);
}

/* syscalls:sys_enter_ioctl */
int on_enter_ioctl(struct syscall_enter *ctx) {
    u32 command = ctx->argument[1];
    if (command == KVM_RUN)
        enter_run(ctx->argument[0]);
    else if (((command >> 8) & 0xff) == UFFDIO_TYPE)
        enter_uffd_ioctl(ctx->argument[0], command, ctx->argument[2]);
    return 0;
}

/* syscalls:sys_exit_ioctl */
int on_exit_ioctl(struct syscall_exit *ctx) {
    struct thread *thread = thread_of(current_tid());
    if (thread && thread->filling)
        exit_fill(thread, ctx->result);
    if (ctx->result <= 0)
        return 0;
    u64 regs = (u64)bpf_task_pt_regs(bpf_get_current_task_btf());
    u32 command = FIELD_U64(regs, REGS_SECOND);
    if (command == KVM_CREATE_VM || command == KVM_CREATE_VCPU)
        forget_address(command, ctx->result);
    return 0;
}

/* syscalls:sys_exit_read */
int on_exit_read(struct syscall_exit *ctx) {
    if (ctx->result < UFFD_MSG_BYTES || ctx->result % UFFD_MSG_BYTES)
        return 0;
    u64 regs = (u64)bpf_task_pt_regs(bpf_get_current_task_btf());
    exit_read(FIELD_U64(regs, REGS_FIRST), FIELD_U64(regs, REGS_SECOND), ctx->result);
    return 0;
}

/* syscalls:sys_enter_madvise */
int on_enter_madvise(struct syscall_enter *ctx) {
    enter_madvise(ctx->argument[0], ctx->argument[1], ctx->argument[2]);
    return 0;
}

/* syscalls:sys_exit_madvise */
int on_exit_madvise(struct syscall_exit *ctx) {
    struct thread *thread = thread_of(current_tid());
    if (thread && thread->filling)
        exit_populate(thread, ctx->result);
    return 0;
}

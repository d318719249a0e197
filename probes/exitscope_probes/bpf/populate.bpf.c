/* populate: madvise(MADV_POPULATE_*), how exit mode resolves without a userfaultfd. */

/* syscalls:sys_enter_madvise */
int on_enter_madvise(struct syscall_enter *ctx) {
    enter_madvise(ctx->argument[0], ctx->argument[1], ctx->argument[2]);
    return PASS;
}

/* syscalls:sys_exit_madvise */
int on_exit_madvise(struct syscall_exit *ctx) {
    struct thread *thread = thread_of(current_tid());
    if (thread && thread->filling)
        exit_populate(thread, ctx->result);
    return PASS;
}

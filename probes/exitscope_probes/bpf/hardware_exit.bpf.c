/* hardware_exit: the processor leaves guest code (kvm_exit) and enters it again (kvm_entry), counted and timed by
 * vCPU and exit code, never a record each.
 *
 * An exit is counted when it happens and timed when the vCPU enters guest code again, across a return of KVM_RUN to
 * userspace if there is one between, as perf kvm stat does it.
 */

MAP_OF(hardware_exits, u32, u32);

static __always_inline struct hardware_exits *current_hardware(void) {
    struct thread *thread = current_vcpu();
    return thread ? in_chunk(MAP(hardware_exits), thread->slot) : 0;
}

/* exit_reasons.py computes the same. */
static __always_inline u32 hardware_cell(u32 isa, u32 code) {
    if (isa == ISA_VMX)
        code &= 0xffff; /* above: flags, such as that the entry failed */
    else if (isa == ISA_SVM && code - HARDWARE_FOLDED_FROM < HARDWARE_FOLDED)
        return HARDWARE_DIRECT + code - HARDWARE_FOLDED_FROM;
    return code < HARDWARE_DIRECT ? code : HARDWARE_BEYOND;
}

/* kvm:kvm_exit, the ordinary tracepoint: its fields lie where its format file says, its raw arguments changed. */
int on_hardware_exit(void *ctx) {
    struct hardware_exits *row = current_hardware();
    if (!row)
        return PASS;
#if OFF_EXIT_CLASS
    u32 isa = ISA_ARM64;
    u32 code = *(u32 *)(ctx + OFF_EXIT_CODE);
    if (code == ARM_EXCEPTION_TRAP)
        code = *(u32 *)(ctx + OFF_EXIT_CLASS) & 0x3f;
    else
        code = code < HARDWARE_DIRECT ? HARDWARE_ARM64_CODES + code : HARDWARE_DIRECT;
#else
    u32 isa = *(u32 *)(ctx + OFF_EXIT_ISA);
    u32 code = *(u32 *)(ctx + OFF_EXIT_REASON);
#endif
    u64 cell = at_most(hardware_cell(isa, code), HARDWARE_BEYOND);
    row->exit[cell].count += 1;
    row->isa = isa;
    row->cell = cell;
    row->moved += 1;
    row->exit_ns = bpf_ktime_get_ns();
    return PASS;
}

/* kvm_entry, whatever its arguments: the current thread says which vCPU. */
int on_hardware_entry(u64 *ctx) {
    struct hardware_exits *row = current_hardware();
    if (!row || !row->exit_ns)
        return 0;
    u64 ns = bpf_ktime_get_ns() - row->exit_ns;
    struct series_totals *exit = &row->exit[at_most(row->cell, HARDWARE_BEYOND)];
    exit->sum_ns += ns;
    if (ns > exit->max_ns)
        exit->max_ns = ns;
    row->exit_ns = 0;
    row->moved += 1;
    return 0;
}

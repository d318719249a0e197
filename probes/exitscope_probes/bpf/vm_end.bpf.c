/* vm_end: whether a VM is still there. No tracepoint tells of its end; upkeep.py asks several times a second, by running this
 * program (BPF_PROG_TEST_RUN) with the slot of the VM's totals as its argument. */
int check_vm(u64 *ctx) {
    struct vm_totals *vm = vm_totals_of(ctx[0]);
    u64 kvm = vm ? vm->kvm : 0;
    if (!kvm || !has_ended(vm))
        return 0;
    u32 *slot = bpf_map_lookup_elem(MAP(vm_slots), &kvm);
    if (slot && *slot == (u32)ctx[0])
        forget_vm(kvm);
    vm->kvm = 0;
    return 0;
}

/* vm_end: whether a VM is still there. No tracepoint tells of its end; upkeep.py asks several times a second, by running this
 * program (BPF_PROG_TEST_RUN) with the slot of the VM's totals as its argument. */
int check_vm(u64 *ctx) {
    struct vm_totals *vm = vm_totals_of(ctx[0]);
    u64 kvm = vm ? vm->kvm : 0;
    u32 users = 0; /* stays 0 where the memory is unmapped by now */
    if (!kvm || !OFF_KVM_USERS_COUNT)
        return 0;
    bpf_probe_read_kernel(&users, sizeof(users), (void *)(kvm + OFF_KVM_USERS_COUNT));
    if (users && read_u64(kvm + OFF_KVM_MM) == vm->mm)
        return 0;
    u32 *slot = bpf_map_lookup_elem(MAP(vm_slots), &kvm);
    if (slot && *slot == (u32)ctx[0])
        forget_vm(kvm);
    vm->kvm = 0;
    return 0;
}

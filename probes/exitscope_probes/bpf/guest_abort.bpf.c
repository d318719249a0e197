/* guest_abort: arm64's stage 2 aborts, which there take the place of guest_fault.bpf.c. No arm64 machine has run this
 * yet: it is held against the kernel's BTF, compiled and put before the verifier only. */

#define HPFAR_PAGES                                                                                                    \
    0x0000fffffffffff0ULL /* HPFAR_EL2.FIPA: bits of the address >> 8, arch/arm64/include/asm/kvm_arm.h */

/* KVM looks the memslot of an abort up for the VM, not for the vCPU: its last one is the VM's (kvm_handle_guest_abort,
 * gfn_to_memslot). Another vCPU may have had another one since: what is asked of it checks the range. */
static __always_inline u64 slot_of_vm(struct thread *thread) {
    u64 kvm = read_u64(thread->vcpu + OFF_VCPU_KVM);
    u64 slots = kvm ? read_u64(kvm + OFF_KVM_MEMSLOTS) : 0;
    return slots ? read_u64(slots + OFF_MEMSLOTS_LAST_USED) : 0;
}

static __always_inline void begin_abort(u64 vcpu, u64 esr, u64 hpfar) {
    struct thread *thread = thread_of(current_tid());
    if (!thread || thread->vcpu != vcpu)
        thread = adopt_vcpu(vcpu); /* inside KVM_RUN when the probes came */
    if (thread && thread->slot != NO_SLOT)
        open_fault(thread, PAGE_OF((hpfar & HPFAR_PAGES) << 8), access_of_syndrome(esr));
}

/* The abort has been handled, and the vCPU goes on. One of an address without a memslot was for a device. */
static __always_inline void end_abort(void) {
    struct thread *thread = current_vcpu();
    if (!thread || thread->wait.open != OPEN_GUEST)
        return;
    struct wait *wait = &thread->wait;
    u64 slot = slot_of_vm(thread);
    u64 hva = hva_of(slot, thread->address / PAGE_BYTES);
    if (hva == ADDRESS_UNKNOWN && !wait->woken && !(wait->seen & SEEN_READ)) {
        close_wait(thread, wait);
        return;
    }
    end_fault(thread, thread->address, hva, hva == ADDRESS_UNKNOWN ? MEMSLOT_UNKNOWN : memslot_of(slot));
}

/* kvm_handle_guest_abort(struct kvm_vcpu *) */
int fentry_guest_abort(u64 *ctx) {
    begin_abort(ctx[0], FIELD_U64(ctx[0], OFF_VCPU_ESR), FIELD_U64(ctx[0], OFF_VCPU_HPFAR));
    return 0;
}

/* ... = 1: the vCPU goes on; 0: KVM_RUN returns; else -errno, and it returns */
int fexit_guest_abort(u64 *ctx) {
    if ((s32)ctx[1] > 0)
        end_abort();
    return 0;
}

int kprobe_guest_abort(u64 *ctx) {
    u64 vcpu = ARGUMENT_1(ctx);
    begin_abort(vcpu, read_u64(vcpu + OFF_VCPU_ESR), read_u64(vcpu + OFF_VCPU_HPFAR));
    return 0;
}

/* kvm_guest_fault(unsigned long vcpu_pc, unsigned long hsr, unsigned long hxfar, unsigned long long ipa) */
int on_guest_fault(u64 *ctx) {
    struct thread *thread = current_vcpu();
    if (thread)
        open_fault(thread, PAGE_OF(ctx[3]), access_of_syndrome(ctx[1]));
    return 0;
}

/* kvm_entry: back to the guest, a little later than the abort's end, and in a vCPU's fault only once. */
int on_guest_entry(u64 *ctx) {
    end_abort();
    return 0;
}

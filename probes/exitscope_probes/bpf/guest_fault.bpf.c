/* guest_fault: where KVM begins and ends the handling of a guest's page fault. */

/* kvm_mmu_pagetable_walk(u64 addr, u32 pferr): shadow paging. */
int on_pagetable_walk(u64 *ctx) {
    struct thread *thread = current_vcpu();
    if (thread)
        open_fault(thread, PAGE_OF(ctx[0]), access_of((u32)ctx[1], 0));
    return 0;
}

/* kvm_page_fault: EPT/NPT violations, and page faults under shadow paging; since 5.16 the vCPU comes first. */
int on_page_fault(u64 *ctx) {
    struct thread *thread = current_vcpu();
    if (thread)
        open_fault(thread, PAGE_OF(ctx[PAGE_FAULT_ADDRESS_ARGUMENT]),
                   access_of(ctx[PAGE_FAULT_ADDRESS_ARGUMENT + 1], IS_VMX));
    return 0;
}

/* kvm_mmu_spte_requested(struct kvm_page_fault *): the page is here and is about to be mapped. */
int on_spte_requested(u64 *ctx) {
    struct thread *thread = current_vcpu();
    if (!thread)
        return 0;
    u64 fault = ctx[0];
    if (!fault) /* for the verifier: 6.12 takes every pointer from a module's tracepoint for one that may be 0 */
        return 0;
    if (FIELD_U8(fault, OFF_FAULT_PREFETCH)) {
        /* KVM maps the page of an async fault ahead of the guest's next try: no fault of its own. */
        struct vcpu_totals *totals = totals_of(thread->slot);
        if (totals)
            totals->prefetch += 1;
        thread->prefetched = 1;
        return 0;
    }
    if (thread->wait.open != OPEN_GUEST)
        return 0;
    u64 gfn = FIELD_U64(fault, OFF_FAULT_GFN);
    u64 slot = FIELD_U64(fault, OFF_FAULT_SLOT);
    u64 hva = ADDRESS_UNKNOWN;
    if (slot && gfn - FIELD_U64(slot, OFF_SLOT_BASE_GFN) < FIELD_U64(slot, OFF_SLOT_NPAGES))
        hva = FIELD_U64(slot, OFF_SLOT_USERSPACE_ADDR) + (gfn - FIELD_U64(slot, OFF_SLOT_BASE_GFN)) * PAGE_BYTES;
    end_fault(thread, gfn * PAGE_BYTES, hva, slot ? (s16)FIELD_U16(slot, OFF_SLOT_ID) : MEMSLOT_UNKNOWN);
    return 0;
}

/* guest_fault: where KVM begins and ends the handling of a guest's page fault. */

/* kvm_mmu_pagetable_walk(u64 addr, u32 pferr): shadow paging. */
int on_pagetable_walk(u64 *ctx) {
    open_fault(PAGE_OF(ctx[0]));
    return 0;
}

/* kvm_page_fault: EPT/NPT violations; the address is an argument later by one since 5.16. */
int on_page_fault(u64 *ctx) {
    open_fault(PAGE_OF(ctx[PAGE_FAULT_ADDRESS_ARGUMENT]));
    return 0;
}

/* kvm_mmu_spte_requested(struct kvm_page_fault *): the page is here and is about to be mapped. */
int on_spte_requested(u64 *ctx) {
    struct thread *thread = current_vcpu();
    if (!thread || !thread->wait.open)
        return 0;
    u64 fault = ctx[0];
    u64 gfn = FIELD_U64(fault, OFF_FAULT_GFN);
    u64 hva = ADDRESS_UNKNOWN;
    if (thread->wait.seen & SEEN_RANGE || (!(thread->wait.seen & SEEN_READ) && any_pending()))
        hva = hva_of(FIELD_U64(fault, OFF_FAULT_SLOT), gfn);
    end_fault(thread, gfn * PAGE_BYTES, hva, FIELD_U8(fault, OFF_FAULT_PREFETCH));
    return 0;
}

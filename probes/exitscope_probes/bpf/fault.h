/* fault.h: the life of one fault, from the access to the moment the vCPU runs again. */

static __always_inline void close_wait(struct thread *thread, struct wait *wait) {
    if (wait == &thread->wait && thread->unfilled)
        thread->unfilled = 0;
    wait->open = 0;
    wait->woken = 0;
    wait->seen = 0;
    wait->pended = 0;
    wait->access = 0;
    wait->presence = PRESENCE_UNKNOWN;
    wait->found = 0;
    wait->resolver = RESOLVER_OTHER;
    wait->handler_tid = 0;
    wait->read_ns = 0;
    wait->fill_begin_ns = 0;
    wait->fill_end_ns = 0;
    wait->hva = ADDRESS_UNKNOWN;
    wait->sleep_ns = 0;
    wait->run_ns = 0;
}

/* The record of a fault that is over, but for its stages, gpa and what KVM_RUN returned. Not on the stack: the verifier
 * forgets what it knows of map memory, and so walks each way through the stages once, not in all combinations. */
static __always_inline struct fault_record *describe(struct thread *thread, struct wait *wait, u8 mode, u8 waiter) {
    u32 zero = 0;
    struct fault_record *record = bpf_map_lookup_elem(MAP(scratch), &zero);
    if (!record)
        return 0;
    record->type = RECORD_FAULT;
    record->size = sizeof(*record);
    record->mode = mode;
    record->waiter = waiter;
    record->resolver = wait->resolver;
    record->seen = wait->seen;
    record->vm = thread->vm;
    record->vcpu = thread->vcpu_id;
    record->tid = thread->tid;
    record->handler_tid = wait->handler_tid;
    record->hva = wait->hva;
    record->gpa = ADDRESS_UNKNOWN;
    record->exit_flags = 0;
    record->exit_size = 0;
    record->exit_errno = 0;
    record->exit_reason = 0;
    record->access = wait->access;
    record->presence = wait->presence;
    record->memslot = MEMSLOT_UNKNOWN;
    return record;
}

/* A wait in handle_userfault is over. The access is the begin if a guest fault was open, else the sleep, else the
 * read; `gpa` and `memslot` are unknown where the fault's end did not tell them. */
static __always_inline void finish_uffd(struct thread *thread, struct wait *wait, u64 access_ns, u64 end_ns, u64 gpa,
                                        s16 memslot) {
    bool other = !is_vcpu(thread);
    bool guest = wait->open == OPEN_GUEST;
    struct moments moments = {};
    wait->seen |= (guest ? SEEN_ACCESS : 0) | (wait->sleep_ns ? SEEN_SLEEP : 0);
    moments.begin_ns = guest ? access_ns : wait->sleep_ns;
    if (!moments.begin_ns)
        moments.begin_ns = wait->read_ns ? wait->read_ns : wait->fill_begin_ns;
    if (wait == &thread->wait && thread->unfilled && !(wait->seen & SEEN_FILL)) {
        wait->seen |= SEEN_UNFILLED;
        if (wait->found)
            wait->resolver = RESOLVER_RELEASED;
    }
    if (end_ns < moments.begin_ns)
        moments.begin_ns = end_ns;
    moments.queued_ns = wait->sleep_ns ? wait->sleep_ns : wait->read_ns;
    moments.read_ns = wait->read_ns;
    moments.fill_begin_ns = wait->seen & SEEN_FILL ? wait->fill_begin_ns : 0;
    moments.fill_end_ns = wait->seen & SEEN_FILL ? wait->fill_end_ns : 0;
    moments.end_ns = end_ns;
    struct fault_record *record = describe(thread, wait, MODE_UFFD, other ? WAITER_OTHER : WAITER_VCPU);
    if (!record)
        return;
    record->gpa = gpa;
    record->memslot = memslot;
    set_stages(record, &moments);
    if ((wait->seen & (SEEN_READ | SEEN_NAMED)) == SEEN_READ) {
        struct vm_totals *vm = vm_totals_of(wait->vm_slot);
        if (vm)
            __sync_fetch_and_add(&vm->events_done, 1);
    }
    u64 whole_ns = end_ns - moments.begin_ns;
    u64 stall_ns = whole_ns;
    if (thread->kicks && thread->stall_from_ns > moments.begin_ns)
        stall_ns = end_ns > thread->stall_from_ns ? end_ns - thread->stall_from_ns : 0;
    finish(thread->slot, record, whole_ns, other ? 0 : stall_ns, other);
    close_wait(thread, wait);
}

_Static_assert(OFF_SLOT_NPAGES == OFF_SLOT_BASE_GFN + 8 && OFF_SLOT_ID == OFF_SLOT_USERSPACE_ADDR + 12,
               "struct kvm_memory_slot: base_gfn, npages or userspace_addr, flags, id do not follow one another");

/* The memslot says what hva a gpa has, and what gpa an hva has. `slot` is any pointer. */
static __always_inline u64 hva_of(u64 slot, u64 gfn) {
    u64 range[2] = {}; /* base_gfn, npages */
    bpf_probe_read_kernel(range, sizeof(range), (void *)(slot + OFF_SLOT_BASE_GFN));
    if (!slot || gfn - range[0] >= range[1])
        return ADDRESS_UNKNOWN;
    return read_u64(slot + OFF_SLOT_USERSPACE_ADDR) + (gfn - range[0]) * PAGE_BYTES;
}

static __always_inline u64 gpa_of(u64 slot, u64 hva) {
    u64 range[2] = {};
    u64 offset = hva - read_u64(slot + OFF_SLOT_USERSPACE_ADDR);
    bpf_probe_read_kernel(range, sizeof(range), (void *)(slot + OFF_SLOT_BASE_GFN));
    if (!slot || offset >= range[1] * PAGE_BYTES)
        return ADDRESS_UNKNOWN;
    return range[0] * PAGE_BYTES + offset;
}

static __always_inline s16 memslot_of(u64 slot) { return (s16)read_u32(slot + OFF_SLOT_ID); }

/* A memslot may be gone by the time that its fault is over: kept as it was. */
static __always_inline void keep_slot(struct slot *kept, u64 slot) {
    kept->pages = 0;
    if (!slot)
        return;
    bpf_probe_read_kernel(&kept->gfn, 2 * sizeof(u64), (void *)(slot + OFF_SLOT_BASE_GFN)); /* gfn and pages */
    bpf_probe_read_kernel(&kept->hva, sizeof(u64) + sizeof(u32) + sizeof(s16),
                          (void *)(slot + OFF_SLOT_USERSPACE_ADDR));
}

/* KVM has put the vCPU to rest until an async page fault is done; a guest that registered for them runs on. */
static __always_inline bool apf_halted(struct thread *thread) {
    u8 halted = 0;
    bpf_probe_read_kernel(&halted, sizeof(halted), (void *)(thread->vcpu + OFF_VCPU_APF_HALTED));
    return halted;
}

/* KVM has handed a fault to a kworker; it has told the guest, which runs on, or halts the vCPU meanwhile. */
static __always_inline void note_halt(bool told) {
    struct thread *thread = current_vcpu();
    struct vcpu_totals *totals = thread && !told ? totals_of(thread->slot) : 0;
    if (!totals)
        return;
    thread->halted = 1;
    totals->open_since_ns = thread->halt_begin_ns;
}

/* A wait that a fill has ended is over without its page being mapped: it was for something else (a page table, say), or
 * KVM found it mapped by a neighbour's fault. `ran_ns`: when the waiter was seen to run, 0 if it was not: the wake-up,
 * then, is the last that is known of it. */
static __always_inline void finish_woken(struct thread *thread, struct wait *wait, u64 access_ns, u64 ran_ns) {
    u64 slot = read_u64(thread->vcpu + OFF_VCPU_LAST_USED_SLOT);
    if (TWO_STAGE_PAGING && wait->open == OPEN_GUEST && wait->hva == ADDRESS_UNKNOWN)
        wait->hva = hva_of(slot, thread->address / PAGE_BYTES);
    if (wait->hva != ADDRESS_UNKNOWN && (wait->pended || !(wait->seen & SEEN_READ)))
        claim_own(thread, wait, wait->hva, access_ns);
    u64 gpa = wait->hva == ADDRESS_UNKNOWN ? ADDRESS_UNKNOWN : gpa_of(slot, wait->hva);
    finish_uffd(thread, wait, access_ns, ran_ns ? ran_ns : wait->fill_end_ns, gpa,
                gpa == ADDRESS_UNKNOWN ? MEMSLOT_UNKNOWN : memslot_of(slot));
}

/* The vCPU slept again after its wait, but for no page of ours (a lock, say): it was one wait all along. */
static __always_inline void rejoin_previous(struct thread *thread) {
    thread->has_previous = 0;
    if (thread->wait.woken || thread->wait.seen & SEEN_READ)
        return;
    thread->wait = thread->previous;
    thread->access_ns = thread->previous_access_ns;
}

/* The vCPU was kicked out of a fault, and has run something else since. Either its page was there without KVM's mapping
 * anything, as a neighbour's fault had mapped it, or the guest will ask for it again (an interrupt came first): its stall so
 * far is counted, and it is kept. One at a time: an older one is given up. */
static __always_inline void park_kicked(struct thread *thread) {
    struct wait *wait = &thread->wait;
    struct vcpu_totals *totals = totals_of(thread->slot);
    u64 again_ns = wait->run_ns ? wait->run_ns : thread->access_ns;
    if (TWO_STAGE_PAGING && wait->hva == ADDRESS_UNKNOWN)
        wait->hva = hva_of(read_u64(thread->vcpu + OFF_VCPU_LAST_USED_SLOT), thread->address / PAGE_BYTES);
    if (!wait->woken && !(wait->seen & SEEN_READ) && wait->hva != ADDRESS_UNKNOWN)
        claim_own(thread, wait, wait->hva, thread->access_ns);
    if (wait->woken || wait->seen & SEEN_FILL) {
        wait->open = OPEN_GUEST;
        finish_woken(thread, wait, thread->access_ns, wait->run_ns);
        return;
    }
    u64 from_ns = thread->stall_from_ns > thread->access_ns ? thread->stall_from_ns : thread->access_ns;
    if (totals) {
        totals->open_since_ns = 0;
        totals->stall_ns += again_ns > from_ns ? again_ns - from_ns : 0;
    }
    thread->parked = *wait;
    thread->parked_access_ns = thread->access_ns;
    thread->parked_address = thread->address;
    thread->parked_unfilled = thread->unfilled;
    thread->has_parked = 1;
    close_wait(thread, wait);
}

/* The guest asks again for a page that it was kicked out of waiting for: the fault goes on. True if it is that one. */
static __always_inline bool resume_kicked(struct thread *thread, u64 address) {
    struct wait *wait = &thread->wait;
    if (wait->open == OPEN_KICKED) {
        if (thread->address == address) {
            wait->open = OPEN_GUEST;
            return true;
        }
        park_kicked(thread);
    }
    if (!thread->has_parked || thread->parked_address != address)
        return false;
    *wait = thread->parked;
    wait->open = OPEN_GUEST;
    thread->unfilled = thread->parked_unfilled;
    thread->has_parked = 0;
    thread->access_ns = thread->parked_access_ns;
    thread->address = address;
    thread->stall_from_ns = bpf_ktime_get_ns();
    thread->kicks = 1;
    return true;
}

/* A guest fault begins. Seeing the same address again means that KVM tries the same fault again. */
static __always_inline void open_fault(struct thread *thread, u64 address, u8 access) {
    struct wait *wait = &thread->wait;
    if ((wait->open == OPEN_KICKED || thread->has_parked) && wait->open != OPEN_GUEST && resume_kicked(thread, address))
        return;
    if (wait->open) {
        if (wait->open == OPEN_GUEST && thread->address == address)
            return;
        if (thread->has_previous)
            rejoin_previous(thread);
        if (wait->woken || thread->unfilled)
            finish_woken(thread, wait, thread->access_ns, wait->run_ns);
        else if (wait->open == OPEN_OUTSIDE)
            remember_named(thread); /* it was asleep for something else */
    }
    close_wait(thread, wait);
    wait->open = OPEN_GUEST;
    wait->access = access;
    thread->kicks = 0;
    thread->address = address;
    thread->access_ns = bpf_ktime_get_ns();
}

/* kvm_mmu_page_fault is entered, which also says whose vCPU it is. An access to MMIO is no fault. */
static __always_inline void begin_fault(u64 vcpu, u64 address, u64 error_code) {
    if (error_code & PFERR_RESERVED)
        return;
    struct thread *thread = thread_of(current_tid());
    if (!thread || thread->vcpu != vcpu)
        thread = adopt_vcpu(vcpu); /* inside KVM_RUN when the probes came */
    if (thread && thread->slot != NO_SLOT)
        open_fault(thread, PAGE_OF(address), access_of(error_code, 0));
}

/* A guest fault that KVM solved without userspace: counted, never a record each. */
static __always_inline void finish_kernel(struct thread *thread, u64 now) {
    struct vcpu_totals *totals = totals_of(thread->slot);
    struct vcpu_histograms *histograms = histograms_of(thread->slot);
    if (!totals || !histograms)
        return;
    u64 whole_ns = now - thread->access_ns;
    account(totals, histograms, MODE_KERNEL, whole_ns, false);
    totals->stall_ns += whole_ns;
    totals->open_since_ns = 0;
}

/* Whether a userfaultfd is closed (struct userfaultfd_ctx, 0 where handle_userfault is not traced: there the waiter's stack
 * tells). It may be freed by now, but keeps what it held until another takes its place. */
static __always_inline bool is_released(u64 uffd) {
    u8 released = 0;
    if (uffd && OFF_UFFD_RELEASED)
        bpf_probe_read_kernel(&released, sizeof(released), (void *)(uffd + OFF_UFFD_RELEASED));
    return released;
}

/* A guest fault ends: its page is about to be mapped. `hva` is known where somebody may have read its event without
 * knowing who waits. */
static __always_inline void end_fault(struct thread *thread, u64 gpa, u64 hva, s16 memslot) {
    struct wait *wait = &thread->wait;
    u64 now = bpf_ktime_get_ns();
    struct vcpu_totals *totals = totals_of(thread->slot);
    if (!totals)
        return;
    if (thread->has_previous)
        rejoin_previous(thread);
    if (wait->pended)
        claim_own(thread, wait, wait->hva, thread->access_ns);
    else if (!(wait->seen & SEEN_READ) && hva != ADDRESS_UNKNOWN && (wait->woken || any_pending()))
        claim_own(thread, wait, hva, thread->access_ns);
    if (wait->sleep_ns && !wait->woken && !(wait->seen & SEEN_FILL) && is_released(thread->uffd)) {
        thread->unfilled = 1;
        wait->found = 1;
    }
    if (wait->woken || thread->unfilled || wait->seen & SEEN_READ) {
        if (hva != ADDRESS_UNKNOWN)
            wait->hva = hva;
        finish_uffd(thread, wait, thread->access_ns, now, gpa, memslot);
        return;
    }
    if (thread->address == thread->exit_address)
        totals->stall_ns += now - thread->reenter_ns; /* the second half of a fault that went by userspace */
    else
        finish_kernel(thread, now);
    thread->exit_address = ADDRESS_UNKNOWN;
    close_wait(thread, wait);
}

static __always_inline u64 hva_in(struct slot *slot, u64 gpa) {
    if (gpa == ADDRESS_UNKNOWN || gpa / PAGE_BYTES - slot->gfn >= slot->pages)
        return ADDRESS_UNKNOWN;
    return slot->hva + gpa - slot->gfn * PAGE_BYTES;
}

/* Where a fault that has left KVM_RUN was: KVM says nothing with a bare -EFAULT, but its last memslot was that of the
 * fault. */
static __always_inline void place_exit(struct fault_record *record, struct thread *thread) {
    struct slot *slot = &thread->exit_slot;
    u64 gpa = thread->exit_gpa;
    if (gpa == ADDRESS_UNKNOWN && record->hva != ADDRESS_UNKNOWN && record->hva - slot->hva < slot->pages * PAGE_BYTES)
        gpa = slot->gfn * PAGE_BYTES + record->hva - slot->hva;
    record->gpa = gpa;
    if (gpa == ADDRESS_UNKNOWN || gpa / PAGE_BYTES - slot->gfn >= slot->pages)
        return;
    record->memslot = slot->id;
    if (record->hva == ADDRESS_UNKNOWN || record->seen & SEEN_RANGE)
        record->hva = slot->hva + gpa - slot->gfn * PAGE_BYTES;
}

/* KVM_RUN is entered again after a fault that userspace had to solve. */
static __always_inline void finish_exit(struct thread *thread, u64 now) {
    struct wait *wait = &thread->wait;
    struct moments moments = {};
    moments.begin_ns = thread->access_ns;
    moments.queued_ns = thread->exit_ns;
    moments.read_ns = thread->exit_ns;
    moments.fill_begin_ns = wait->fill_begin_ns;
    moments.fill_end_ns = wait->fill_end_ns;
    moments.end_ns = now;
    u8 mode = thread->exit_reason == KVM_EXIT_MEMORY_FAULT ? MODE_MEMORY_FAULT : MODE_EXIT;
    struct fault_record *record = describe(thread, wait, mode, WAITER_VCPU);
    if (!record)
        return;
    place_exit(record, thread);
    record->exit_errno = thread->exit_errno;
    record->exit_reason = thread->exit_reason;
    record->exit_flags = thread->exit_flags;
    record->exit_size = thread->exit_size;
    set_stages(record, &moments);
    finish(thread->slot, record, now - moments.begin_ns, now - moments.begin_ns, false);
    thread->exit_ns = 0;
    thread->reenter_ns = now;
    close_wait(thread, wait);
}

/* A vCPU has left KVM_RUN with a fault: somebody else may place its page. Looked at before it is written: a cache line that
 * nobody changes costs nothing to share. */
static __always_inline void note_exited(struct thread *thread) {
    struct exited *exited = bpf_map_lookup_elem(MAP(exited), &thread->wait.vm_slot);
    if (!exited)
        return;
    u32 *place = &exited->thread[at_most(thread->vcpu_id % EXITED_VCPUS, EXITED_VCPUS - 1)];
    if (*place != thread->self + 1)
        *place = thread->self + 1;
    if (!exited->any)
        exited->any = 1;
}

/* fault.h: the life of one fault, from the access to the moment the vCPU runs again. */

static __always_inline void close_wait(struct wait *wait) {
    wait->open = 0;
    wait->woken = 0;
    wait->seen = 0;
    wait->pended = 0;
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
    return record;
}

/* A wait in handle_userfault is over. The access is the begin if a guest fault was open, else the sleep, else the
 * read; `gpa` is ADDRESS_UNKNOWN where the fault's end did not tell it. */
static __always_inline void finish_uffd(struct thread *thread, struct wait *wait, u64 access_ns, u64 end_ns, u64 gpa) {
    bool other = !is_vcpu(thread);
    struct moments moments = {};
    wait->seen |= (wait->open ? SEEN_ACCESS : 0) | (wait->sleep_ns ? SEEN_SLEEP : 0);
    moments.begin_ns = wait->open ? access_ns : wait->sleep_ns;
    if (!moments.begin_ns)
        moments.begin_ns = wait->read_ns ? wait->read_ns : wait->fill_begin_ns;
    if (end_ns < moments.begin_ns)
        moments.begin_ns = end_ns;
    moments.queued_ns = wait->sleep_ns ? wait->sleep_ns : wait->read_ns;
    moments.read_ns = wait->read_ns;
    moments.fill_begin_ns = wait->fill_begin_ns;
    moments.fill_end_ns = wait->fill_end_ns;
    moments.end_ns = end_ns;
    struct fault_record *record = describe(thread, wait, MODE_UFFD, other ? WAITER_OTHER : WAITER_VCPU);
    if (!record)
        return;
    record->gpa = gpa;
    set_stages(record, &moments);
    if ((wait->seen & (SEEN_READ | SEEN_NAMED)) == SEEN_READ) {
        struct vm_totals *vm = vm_totals_of(wait->vm_slot);
        if (vm)
            __sync_fetch_and_add(&vm->events_done, 1);
    }
    u64 whole_ns = end_ns - moments.begin_ns;
    finish(thread->slot, record, whole_ns, other ? 0 : whole_ns, other);
    close_wait(wait);
}

/* A guest fault begins. Seeing the same address again means that KVM tries the same fault again. */
static __always_inline void open_fault(u64 address) {
    struct thread *thread = current_vcpu();
    if (!thread)
        return;
    struct wait *wait = &thread->wait;
    if (wait->open) {
        if (thread->address == address)
            return;
        /* A wait for something else than the page to be mapped (a page table, say) was over when the vCPU ran. */
        if (wait->woken && wait->run_ns)
            finish_uffd(thread, wait, thread->access_ns, wait->run_ns, ADDRESS_UNKNOWN);
        close_wait(wait);
    }
    wait->open = 1;
    thread->kicked = 0;
    thread->address = address;
    thread->access_ns = bpf_ktime_get_ns();
}

/* The memslot says what hva a gpa has, and what gpa an hva has. `slot` is any pointer. */
static __always_inline u64 hva_of(u64 slot, u64 gfn) {
    u64 offset = gfn - read_u64(slot + OFF_SLOT_BASE_GFN);
    if (!slot || offset >= read_u64(slot + OFF_SLOT_NPAGES))
        return ADDRESS_UNKNOWN;
    return read_u64(slot + OFF_SLOT_USERSPACE_ADDR) + offset * PAGE_BYTES;
}

static __always_inline u64 gpa_of(u64 slot, u64 hva) {
    u64 offset = hva - read_u64(slot + OFF_SLOT_USERSPACE_ADDR);
    if (!slot || offset >= read_u64(slot + OFF_SLOT_NPAGES) * PAGE_BYTES)
        return ADDRESS_UNKNOWN;
    return read_u64(slot + OFF_SLOT_BASE_GFN) * PAGE_BYTES + offset;
}

/* KVM has put the vCPU to rest until an async page fault is done; a guest that registered for them runs on. */
static __always_inline bool apf_halted(struct thread *thread) {
    u8 halted = 0;
    bpf_probe_read_kernel(&halted, sizeof(halted), (void *)(thread->vcpu + OFF_VCPU_APF_HALTED));
    return halted;
}

/* Matches a waiter to the event that a handler has read for its page. A fill without a wake-up, answered by a wake-up
 * later, is the fill. */
static __always_inline void claim(struct wait *wait, struct page_key *key, struct pending *pending) {
    wait->read_ns = pending->read_ns;
    wait->seen |= SEEN_READ;
    wait->hva = key->page;
    if (pending->fill_begin_ns && (!wait->fill_begin_ns || wait->resolver == RESOLVER_WAKE)) {
        wait->fill_begin_ns = pending->fill_begin_ns;
        wait->fill_end_ns = pending->fill_end_ns;
        wait->resolver = pending->resolver;
        wait->handler_tid = pending->handler_tid;
        wait->seen |= SEEN_FILL;
    }
    __sync_fetch_and_add(&pending->claims, 1);
}

static __always_inline void forget_pending(struct page_key *key) {
    struct settings *known = the_settings();
    if (!bpf_map_delete_elem(MAP(pendings), key) && known)
        __sync_fetch_and_add(&known->pendings, -1);
}

/* A guest fault that KVM solved without userspace: counted, never a record each. */
static __always_inline void finish_kernel(struct thread *thread, u64 now) {
    struct vcpu_totals *totals = totals_of(thread->slot);
    struct vcpu_histograms *histograms = bpf_map_lookup_elem(MAP(vcpu_histograms), &thread->slot);
    if (!totals || !histograms)
        return;
    u64 whole_ns = now - thread->access_ns;
    account(totals, histograms, MODE_KERNEL, whole_ns, false);
    totals->stall_ns += whole_ns;
    totals->open_since_ns = 0;
}

/* The vCPU slept again after its wait, but for no page of ours (a lock, say): it was one wait all along. */
static __always_inline void rejoin_previous(struct thread *thread) {
    thread->has_previous = 0;
    if (thread->wait.woken || thread->wait.seen & SEEN_READ)
        return;
    thread->wait = thread->previous;
    thread->access_ns = thread->previous_access_ns;
}

/* Looks for the event of a vCPU that has not been named, or that had not slept when its event was read: resolved before
 * it slept, woken by a fill of many pages, or released by the end of the uffd. */
static __always_inline void claim_own(struct thread *thread, u64 page) {
    struct wait *wait = &thread->wait;
    struct page_key key = {.mm = thread->mm, .page = page};
    struct pending *pending = bpf_map_lookup_elem(MAP(pendings), &key);
    if (!pending || pending->asyncs || pending->claims >= pending->reads)
        return;
    claim(wait, &key, pending);
    if (pending->fill_end_ns && pending->claims >= pending->reads)
        forget_pending(&key); /* else the fill is still going on, and forgets it */
}

/* A guest fault ends: its page is about to be mapped. `hva` is known where somebody may have read its event without
 * knowing who waits. */
static __always_inline void end_fault(struct thread *thread, u64 gpa, u64 hva, bool prefetch) {
    struct wait *wait = &thread->wait;
    u64 now = bpf_ktime_get_ns();
    struct vcpu_totals *totals = totals_of(thread->slot);
    if (!totals)
        return;
    if (prefetch) {
        /* KVM maps the page of an async fault ahead of the guest's next try: no fault of its own. */
        totals->prefetch += 1;
        close_wait(wait);
        return;
    }
    if (thread->has_previous)
        rejoin_previous(thread);
    if (wait->pended)
        claim_own(thread, wait->hva);
    else if (!(wait->seen & SEEN_READ) && hva != ADDRESS_UNKNOWN)
        claim_own(thread, hva);
    if (wait->woken || wait->seen & SEEN_READ) {
        if (wait->seen & SEEN_RANGE && hva != ADDRESS_UNKNOWN)
            wait->hva = hva;
        finish_uffd(thread, wait, thread->access_ns, now, gpa);
        return;
    }
    if (thread->address == thread->exit_address)
        totals->stall_ns += now - thread->reenter_ns; /* the second half of a fault that went by userspace */
    else
        finish_kernel(thread, now);
    thread->exit_address = ADDRESS_UNKNOWN;
    close_wait(wait);
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
    record->gpa = thread->exit_gpa;
    if (record->gpa == ADDRESS_UNKNOWN && record->hva != ADDRESS_UNKNOWN)
        record->gpa = gpa_of(read_u64(thread->vcpu + OFF_VCPU_LAST_USED_SLOT), record->hva);
    record->exit_errno = thread->exit_errno;
    record->exit_reason = thread->exit_reason;
    record->exit_flags = thread->exit_flags;
    record->exit_size = thread->exit_size;
    set_stages(record, &moments);
    finish(thread->slot, record, now - moments.begin_ns, now - moments.begin_ns, false);
    thread->exit_ns = 0;
    thread->reenter_ns = now;
    close_wait(wait);
}

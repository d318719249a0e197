/* fault.h: the life of one fault, from the access to the moment the vCPU runs again. */

static __always_inline void close_wait(struct wait *wait) {
    wait->open = 0;
    wait->woken = 0;
    wait->seen = 0;
    wait->resolver = RESOLVER_OTHER;
    wait->handler_tid = 0;
    wait->read_ns = 0;
    wait->fill_begin_ns = 0;
    wait->fill_end_ns = 0;
    wait->hva = ADDRESS_UNKNOWN;
    wait->sleep_ns = 0;
    wait->run_ns = 0;
}

static __always_inline void describe(struct fault_record *record, struct thread *thread, struct wait *wait) {
    record->vm = thread->vm;
    record->vcpu = thread->vcpu_id;
    record->tid = thread->tid;
    record->handler_tid = wait->handler_tid;
    record->resolver = wait->resolver;
    record->seen = wait->seen;
    record->hva = wait->hva;
    record->gpa = ADDRESS_UNKNOWN;
}

/* A wait in handle_userfault is over. The access is the begin if a guest fault was open, else the sleep, else the
 * read; `gpa` is ADDRESS_UNKNOWN where the fault's end did not tell it. */
static __always_inline void finish_uffd(struct thread *thread, struct wait *wait, u64 access_ns, u64 end_ns, u64 gpa) {
    struct fault_record record = {};
    struct moments moments = {};
    bool other = !is_vcpu(thread);
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
    describe(&record, thread, wait);
    record.gpa = gpa;
    record.mode = MODE_UFFD;
    record.waiter = other ? WAITER_OTHER : WAITER_VCPU;
    set_stages(&record, &moments);
    if ((wait->seen & (SEEN_READ | SEEN_NAMED)) == SEEN_READ) {
        struct vm_totals *vm = vm_totals_of(wait->vm_slot);
        if (vm)
            __sync_fetch_and_add(&vm->events_done, 1);
    }
    u64 whole_ns = end_ns - moments.begin_ns;
    finish(thread->slot, &record, whole_ns, other ? 0 : whole_ns, other);
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

/* Matches a waiter to the event that a handler has read for its page. */
static __always_inline void claim(struct wait *wait, struct page_key *key, struct pending *pending) {
    wait->read_ns = pending->read_ns;
    wait->seen |= SEEN_READ;
    wait->hva = key->page;
    if (pending->fill_begin_ns && !wait->fill_begin_ns) {
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
    if (!pendings.delete(key) && known)
        __sync_fetch_and_add(&known->pendings, -1);
}

/* A guest fault that KVM solved without userspace: counted, never a record each. */
static __always_inline void finish_kernel(struct thread *thread, u64 now) {
    struct vcpu_totals *totals = totals_of(thread->slot);
    struct vcpu_histograms *histograms = vcpu_histograms.lookup(&thread->slot);
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

/* A guest fault ends: its page is about to be mapped. `hva` is known where somebody may have read its event without
 * knowing who waits. */
static __always_inline void end_fault(struct thread *thread, u64 gpa, u64 hva, bool prefetch) {
    struct wait *wait = &thread->wait;
    u64 now = bpf_ktime_get_ns();
    if (thread->has_previous)
        rejoin_previous(thread);
    if (wait->seen & SEEN_READ) {
        wait->woken = 1; /* also where the page was there before it slept, or the uffd ended */
    } else if (hva != ADDRESS_UNKNOWN) {
        struct page_key key = {.mm = thread->mm, .page = hva};
        struct pending *pending = pendings.lookup(&key);
        if (pending && pending->reads > pending->claims) {
            claim(wait, &key, pending);
            wait->woken = 1;
            if (pending->fill_end_ns && pending->claims >= pending->reads)
                forget_pending(&key); /* else the fill is still going on, and forgets it */
        }
    }
    if (wait->woken) {
        if (wait->seen & SEEN_RANGE && hva != ADDRESS_UNKNOWN)
            wait->hva = hva;
        finish_uffd(thread, wait, thread->access_ns, now, gpa);
        return;
    }
    if (prefetch) {
        struct vcpu_totals *totals = totals_of(thread->slot);
        if (totals)
            totals->prefetch += 1;
    } else if (thread->address != thread->exit_address) {
        finish_kernel(thread, now); /* else: the second half of a fault that went by userspace */
    }
    thread->exit_address = ADDRESS_UNKNOWN;
    close_wait(wait);
}

/* KVM_RUN is entered again after a fault that userspace had to solve. */
static __always_inline void finish_exit(struct thread *thread, u64 now) {
    struct fault_record record = {};
    struct moments moments = {};
    struct wait *wait = &thread->wait;
    moments.begin_ns = thread->access_ns;
    moments.queued_ns = thread->exit_ns;
    moments.read_ns = thread->exit_ns;
    moments.fill_begin_ns = wait->fill_begin_ns;
    moments.fill_end_ns = wait->fill_end_ns;
    moments.end_ns = now;
    describe(&record, thread, wait);
    record.gpa = thread->exit_gpa;
    if (record.gpa == ADDRESS_UNKNOWN && record.hva != ADDRESS_UNKNOWN)
        record.gpa = gpa_of(read_u64(thread->vcpu + OFF_VCPU_LAST_USED_SLOT), record.hva);
    record.mode = thread->exit_reason == KVM_EXIT_MEMORY_FAULT ? MODE_MEMORY_FAULT : MODE_EXIT;
    record.waiter = WAITER_VCPU;
    record.exit_errno = thread->exit_errno;
    record.exit_reason = thread->exit_reason;
    record.exit_flags = thread->exit_flags;
    record.exit_size = thread->exit_size;
    set_stages(&record, &moments);
    finish(thread->slot, &record, now - moments.begin_ns, now - moments.begin_ns, false);
    thread->exit_ns = 0;
    close_wait(wait);
}

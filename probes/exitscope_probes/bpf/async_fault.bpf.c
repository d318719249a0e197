/* async_fault: KVM hands a fault to a kworker; it is credited to the vCPU whose access it was. */

/* kvm_try_async_get_page(u64 address, u64 gfn) */
int on_async_try(u64 *ctx) {
    struct thread *thread = current_vcpu();
    if (!thread)
        return 0;
    u64 gfn = ctx[1];
    thread->async_hva = hva_of(read_u64(thread->vcpu + OFF_VCPU_LAST_USED_SLOT), gfn);
    thread->async_gpa = gfn * PAGE_BYTES;
    struct vcpu_totals *totals = totals_of(thread->slot);
    if (totals)
        totals->async_tries += 1;
    return 0;
}

/* kvm_async_pf_repeated_fault(u64 address, u64 gfn): it waits for that page already, so KVM halts it. */
int on_async_repeated(u64 *ctx) {
    struct thread *thread = current_vcpu();
    if (!thread)
        return 0;
    struct vcpu_totals *totals = totals_of(thread->slot);
    if (totals)
        totals->async_repeats += 1;
    thread->halted = 1;
    thread->halt_begin_ns = thread->wait.open ? thread->access_ns : bpf_ktime_get_ns();
    close_wait(thread, &thread->wait);
    return 0;
}

/* The kworker is about to ask for this page: its event is the vCPU's. */
static __always_inline void expect_async(u64 mm, u64 hva) {
    struct page_key key = {.mm = mm, .page = hva};
    struct pending fresh = {.asyncs = 1};
    struct settings *known = the_settings();
    if (hva == ADDRESS_UNKNOWN)
        return;
    if (!bpf_map_update_elem(MAP(pendings), &key, &fresh, BPF_NOEXIST)) {
        if (known)
            __sync_fetch_and_add(&known->pendings, 1);
        return;
    }
    struct pending *pending = bpf_map_lookup_elem(MAP(pendings), &key);
    if (pending)
        __sync_fetch_and_add(&pending->asyncs, 1);
    else
        lose(LOSS_MAP_FULL);
}

/* kvm_async_pf_not_present(u64 token, u64 address): just before the kworker gets the fault. */
int on_async_not_present(u64 *ctx) {
    struct thread *thread = current_vcpu();
    if (!thread)
        return 0;
    struct async_key key = {.slot = thread->slot, .address = ctx[1]};
    struct async_wait wait = {};
    wait.queued_ns = bpf_ktime_get_ns();
    wait.begin_ns = thread->wait.open ? thread->access_ns : wait.queued_ns;
    wait.hva = thread->async_hva;
    wait.gpa = thread->async_gpa;
    wait.access = thread->wait.access;
    thread->halt_begin_ns = wait.begin_ns;
    if (bpf_map_update_elem(MAP(async_waits), &key, &wait, BPF_ANY)) {
        lose(LOSS_MAP_FULL);
    } else {
        thread->async_outstanding += 1;
        expect_async(thread->mm, wait.hva);
    }
    close_wait(thread, &thread->wait);
    return 0;
}

/* The handler's part of an async fault, where the kworker had to wait for one. */
static __always_inline void collect_async(struct thread *thread, struct async_wait *wait, struct fault_record *record,
                                          struct moments *moments) {
    struct page_key key = {.mm = thread->mm, .page = wait->hva};
    struct pending *pending = bpf_map_lookup_elem(MAP(pendings), &key);
    if (!pending || !pending->asyncs)
        return;
    if (pending->reads && pending->last_read_ns >= wait->begin_ns) {
        moments->read_ns = pending->read_ns;
        record->presence = pending->presence;
        record->seen |= SEEN_READ;
    }
    if (pending->fill_end_ns >= wait->begin_ns) {
        moments->fill_begin_ns = pending->fill_begin_ns;
        moments->fill_end_ns = pending->fill_end_ns;
        record->resolver = pending->resolver;
        record->handler_tid = pending->handler_tid;
        record->seen |= SEEN_FILL;
    }
    struct settings *known = the_settings();
    if (record->seen & SEEN_READ && !(record->seen & SEEN_FILL) && known && !known->ranges)
        record->resolver = RESOLVER_RELEASED;
    struct vm_totals *vm = vm_totals_of(thread->wait.vm_slot);
    if (vm && pending->reads > pending->claims + pending->named) {
        __sync_fetch_and_add(&vm->events_done, 1);
        __sync_fetch_and_add(&pending->claims, 1);
    }
    __sync_fetch_and_add(&pending->asyncs, -1);
    /* A fill that is still going on forgets it itself, and so counts as a demand fill. */
    if (!pending->asyncs && pending->claims >= pending->reads && (pending->fill_end_ns || !pending->reads))
        forget_pending(&key);
}

/* kvm_async_pf_ready(u64 token, u64 address): the vCPU learns that its page is here. */
#define ASYNC_BROADCAST 0xffffffffU /* the token of a wake-up of all, arch/x86/kvm/x86.c */

int on_async_ready(u64 *ctx) {
    struct thread *thread = current_vcpu();
    if (!thread)
        return 0;
    struct async_key key = {.slot = thread->slot, .address = ctx[1]};
    struct async_wait *wait = bpf_map_lookup_elem(MAP(async_waits), &key);
    if (!wait) {
        if ((u32)ctx[0] != ASYNC_BROADCAST)
            lose(LOSS_UNMATCHED_END); /* begun before the probes came */
        return 0;
    }
    struct moments moments = {};
    moments.begin_ns = wait->begin_ns;
    moments.queued_ns = wait->queued_ns;
    moments.end_ns = bpf_ktime_get_ns();
    struct fault_record *record = describe(thread, &thread->wait, MODE_ASYNC, WAITER_ASYNC);
    struct vcpu_totals *totals = totals_of(thread->slot);
    if (!record || !totals)
        return 0;
    if (!thread->prefetched)
        totals->prefetch_early += 1;
    thread->prefetched = 0;
    record->hva = wait->hva;
    record->gpa = wait->gpa;
    record->access = wait->access;
    record->presence = PRESENCE_UNKNOWN;
    record->resolver = RESOLVER_OTHER;
    record->handler_tid = 0;
    record->seen = SEEN_ACCESS;
    if (wait->hva != ADDRESS_UNKNOWN)
        collect_async(thread, wait, record, &moments);
    u64 stall_ns = 0;
    if (thread->halted) {
        record->seen |= SEEN_HALT;
        stall_ns = moments.end_ns - thread->halt_begin_ns;
        thread->halted = 0;
    }
    set_stages(record, &moments);
    bpf_map_delete_elem(MAP(async_waits), &key);
    if (thread->async_outstanding)
        thread->async_outstanding -= 1;
    finish(thread->slot, record, moments.end_ns - moments.begin_ns, stall_ns, false);
    return 0;
}

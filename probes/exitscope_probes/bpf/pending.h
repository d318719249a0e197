/* pending.h: events whose waiter is not known when a handler reads them, kept by their page. */

/* A page fault event has reached its handler, and its waiter is to be found later. `named`: by name. */
static __always_inline void note_read(struct page_key *key, u8 presence, u8 access, u64 now, bool named, bool shared) {
    struct pending fresh = {.read_ns = now,
                            .last_read_ns = now,
                            .reads = 1,
                            .named = named,
                            .presence = presence,
                            .access = access,
                            .shared = shared};
    struct settings *settings_row = the_settings();
    if (!bpf_map_update_elem(MAP(pendings), key, &fresh, BPF_NOEXIST)) {
        if (settings_row)
            __sync_fetch_and_add(&settings_row->pendings, 1);
        return;
    }
    struct pending *known = bpf_map_lookup_elem(MAP(pendings), key);
    if (!known) {
        lose(LOSS_MAP_FULL);
        return;
    }
    if (known->claims >= known->reads) { /* also the entry that an async fault has made */
        known->read_ns = now;
        known->fill_begin_ns = 0;
        known->fill_end_ns = 0;
        known->presence = presence;
        known->access = access;
    }
    known->last_read_ns = now;
    if (named)
        __sync_fetch_and_add(&known->named, 1);
    __sync_fetch_and_add(&known->reads, 1);
}

/* Whether there is an event for this waiter, which has asked for the page at `since_ns`: its own, or one that names nobody
 * and was read later than that. */
static __always_inline bool has_event(struct pending *pending, struct wait *wait, u64 since_ns) {
    return pending->reads > pending->claims + (wait->pended ? 0 : pending->named) &&
           (wait->pended || since_ns <= pending->last_read_ns);
}

/* Matches a waiter to the event that a handler has read for its page. A fill without a wake-up, answered by a wake-up
 * later, is the fill. */
static __always_inline void claim(struct wait *wait, struct page_key *key, struct pending *pending) {
    wait->read_ns = pending->read_ns;
    wait->seen |= SEEN_READ | (wait->pended ? SEEN_NAMED : 0);
    wait->presence = pending->presence;
    if (!wait->access)
        wait->access = pending->access;
    wait->hva = key->page;
    if (pending->fill_begin_ns && (!wait->fill_begin_ns || wait->resolver == RESOLVER_WAKE)) {
        wait->fill_begin_ns = pending->fill_begin_ns;
        wait->fill_end_ns = pending->fill_end_ns;
        wait->resolver = pending->resolver;
        wait->handler_tid = pending->handler_tid;
        wait->seen |= SEEN_FILL | (pending->range ? SEEN_RANGE : 0);
    }
    if (wait->pended && pending->named)
        __sync_fetch_and_add(&pending->named, -1);
    struct vm_totals *vm = pending->shared && !wait->pended ? vm_totals_of(wait->vm_slot) : 0;
    if (vm)
        __sync_fetch_and_add(&vm->events_read, 1);
    wait->pended = 0;
    __sync_fetch_and_add(&pending->claims, 1);
}

static __always_inline void forget_pending(struct page_key *key) {
    struct settings *known = the_settings();
    if (!bpf_map_delete_elem(MAP(pendings), key) && known)
        __sync_fetch_and_add(&known->pendings, -1);
}

/* A waiter that was kicked out of its wait has asked again each time: those events are answered with the last one. */
static __always_inline void claim_repeated(struct thread *thread, struct pending *pending) {
    struct vm_totals *vm = thread->kicks ? vm_totals_of(thread->wait.vm_slot) : 0;
    u32 left = pending->reads - pending->claims - pending->named;
    if (!vm || !left || left > 1U << 31)
        return;
    u32 own = left < thread->kicks ? left : thread->kicks;
    __sync_fetch_and_add(&pending->claims, own);
    __sync_fetch_and_add(&vm->events_done, own);
    if (pending->shared)
        __sync_fetch_and_add(&vm->events_read, own);
}

/* The event for a page within a huge page names the huge page; it is that if a fill of a huge page has answered it. `key` is
 * then of the huge page. */
static __always_inline struct pending *pending_of_huge_page(struct wait *wait, struct page_key *key) {
    struct settings *known = the_settings();
    u64 page = key->page;
    if (!known || !(known->ranges & RANGE_SEEN_HUGE))
        return 0;
    key->page = page & ~(HUGE_BYTES - 1);
    struct pending *pending = bpf_map_lookup_elem(MAP(pendings), key);
    if (!pending) {
        key->page = page & ~(GIGANTIC_BYTES - 1);
        pending = bpf_map_lookup_elem(MAP(pendings), key);
    }
    return pending && (pending->range || (wait->woken && wait->seen & SEEN_RANGE)) ? pending : 0;
}

/* Looks for the event of a vCPU that has not been named, or that had not slept when its event was read: resolved before
 * it slept, woken by a fill of many pages, or released by the end of the uffd. */
static __always_inline void claim_own(struct thread *thread, struct wait *wait, u64 page, u64 since_ns) {
    struct page_key key = {.mm = thread->mm, .page = page};
    struct pending *pending = bpf_map_lookup_elem(MAP(pendings), &key);
    if (!pending && !wait->pended)
        pending = pending_of_huge_page(wait, &key);
    if (!pending || (pending->asyncs && !wait->pended) || !has_event(pending, wait, since_ns))
        return;
    claim(wait, &key, pending);
    claim_repeated(thread, pending);
    if (!pending->asyncs && (pending->fill_end_ns || wait->woken) && pending->claims >= pending->reads)
        forget_pending(&key); /* else the fill is still going on, and forgets it */
}

static __always_inline bool named_read(struct wait *wait) {
    return (wait->seen & (SEEN_READ | SEEN_NAMED)) == (SEEN_READ | SEEN_NAMED);
}

/* A vCPU has left a wait whose event named it, kicked out of it. Its page may be filled before it comes back: the event
 * goes to where those are that name nobody. */
static __always_inline void remember_named(struct thread *thread) {
    struct wait *wait = &thread->wait;
    struct page_key key = {.mm = thread->mm, .page = wait->hva};
    if (!named_read(wait))
        return;
    struct vm_totals *vm = vm_totals_of(wait->vm_slot);
    if (vm)
        __sync_fetch_and_add(&vm->events_read, 1);
    if (!wait->pended) {
        note_read(&key, wait->presence, wait->access, wait->read_ns, false, false);
        return;
    }
    struct pending *pending = bpf_map_lookup_elem(MAP(pendings), &key);
    if (pending && pending->named)
        __sync_fetch_and_add(&pending->named, -1);
}

static __always_inline struct waiting *waiting_for(struct page_key *key) {
    u64 page = key->page ^ key->mm;
    u32 index = ((page >> 12) ^ (page >> 25)) % WAITING_ENTRIES;
    return bpf_map_lookup_elem(MAP(waiting), &index);
}

/* Lists a waiter under its page, so that a fill that wakes nobody finds it too: it may be about to sleep, or awake again
 * for a signal. False if the place is taken by another wait. */
static __always_inline bool list_waiting(struct thread *thread, u32 tid, struct page_key *key) {
    struct waiting *entry = waiting_for(key);
    if (!entry)
        return false;
    u64 page = key->page ^ key->mm;
    if (entry->tid == tid && entry->page == page)
        return true;
    struct thread *other = entry->tid ? thread_of(entry->tid) : 0;
    if (other && other != thread && other->wait.open && (other->wait.hva ^ other->mm) == entry->page)
        return false;
    entry->page = page;
    entry->tid = tid;
    return true;
}

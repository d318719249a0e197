/* notify.h: a handler has read who asks for a page. */

static __always_inline u8 presence_of_event(u64 flags) {
    return flags & UFFD_FLAG_WP ? PRESENCE_WP : flags & UFFD_FLAG_MINOR ? PRESENCE_MINOR : PRESENCE_MISSING;
}

static __always_inline u8 access_of_event(u64 flags) { return flags & UFFD_FLAG_WRITE ? ACCESS_WRITE : ACCESS_READ; }

/* A thread asks again: it was kicked out of its wait, or tried again inside the kernel. Its event before is over if it was
 * for this page; else that page may still be filled. */
static __always_inline void supersede_named(struct thread *waiter, u64 page) {
    struct wait *wait = &waiter->wait;
    if (!named_read(wait))
        return;
    if (wait->hva != page) {
        remember_named(waiter);
        wait->pended = 0;
        return;
    }
    struct vm_totals *vm = vm_totals_of(wait->vm_slot);
    if (vm) {
        __sync_fetch_and_add(&vm->events_read, 1);
        __sync_fetch_and_add(&vm->events_done, 1);
    }
}

/* It is known which thread waits: the event names it (UFFD_FEATURE_THREAD_ID), or handle_userfault is traced. One that is
 * in no guest fault must be asleep. */
static __always_inline bool note_named_read(u32 tid, u64 page, u64 flags, u64 now) {
    struct thread *waiter = thread_of(tid);
    if (!waiter || waiter->slot == NO_SLOT)
        return false;
    struct wait *wait = &waiter->wait;
    if (!wait->open) {
        if (!wait->sleep_ns || wait->run_ns || waiter->exit_ns)
            return false;
        wait->open = OPEN_OUTSIDE;
        wait->found = 0; /* perhaps it sleeps for something else by now */
    }
    supersede_named(waiter, page);
    wait->read_ns = now;
    wait->hva = page;
    wait->presence = presence_of_event(flags);
    if (!wait->access)
        wait->access = access_of_event(flags);
    wait->seen |= SEEN_READ | SEEN_NAMED;
    struct page_key key = {.mm = waiter->mm, .page = page};
    list_waiting(waiter, &key);
    if (!wait->found && !wait->pended) {
        /* Whether it will sleep at all is open; if not, only the page tells whose fill it was. */
        wait->pended = 1;
        note_read(&key, wait->presence, wait->access, now, true);
    }
    return true;
}

/* A thread that reads a VM's userfaultfd, 0 if it reads something else. Remembered by descriptor. */
static __always_inline struct thread *reader_of(u64 file, u32 fd) {
    struct thread *thread = thread_of(current_tid());
    if (thread && thread->reader_fd == fd + 1)
        return thread;
    u64 mm = memory_behind(file, fd);
    if (!mm || !bpf_map_lookup_elem(MAP(vm_slots_by_mm), &mm))
        return 0;
    thread = thread_or_new(current_tid());
    if (thread)
        thread->reader_fd = fd + 1;
    return thread;
}

/* The thread that waits for a page, by `waiting`: 0 unless it is sure to be found there when the page is filled. */
static __always_inline u32 waiter_of(struct page_key *key) {
    struct waiting *entry = waiting_for(key);
    if (!entry || entry->page != (key->page ^ key->mm))
        return 0;
    struct thread *waiter = thread_of(entry->tid);
    return waiter && waiter->wait.found && !(waiter->wait.seen & SEEN_READ) ? entry->tid : 0;
}

/* read(fd, buffer, ...) = bytes: if it was a VM's userfaultfd, each message is an event. `file` is 0 where only fd is
 * known. */
static __always_inline void exit_read(u64 file, u32 fd, u64 buffer, u64 bytes) {
    if (!reader_of(file, fd))
        return;
    u64 mm = 0; /* looked up for the first event that needs it */
    u64 now = bpf_ktime_get_ns();
    u64 count = bytes / UFFD_MSG_BYTES;
    for (u32 i = 0; i < UFFD_MSG_BATCH; i++) {
        if (i >= count)
            return;
        u64 message[4] = {}; /* event; pagefault.flags; pagefault.address; pagefault.feat.ptid */
        if (bpf_probe_read_user(message, sizeof(message), (void *)(buffer + i * UFFD_MSG_BYTES))) {
            lose(LOSS_UNREADABLE);
            continue;
        }
        if ((message[0] & 0xff) != UFFD_EVENT_PAGEFAULT)
            continue;
        struct page_key key = {.mm = mm, .page = PAGE_OF(message[2])};
        u32 tid = message[3];
        if (!tid) {
            if (!mm)
                mm = key.mm = memory_behind(file, fd);
            tid = waiter_of(&key);
        }
        if (tid && note_named_read(tid, key.page, message[1], now))
            continue;
        u32 vm_slot = 0;
        if (!mm)
            mm = memory_behind(file, fd);
        struct vm_totals *vm = vm_of_memory(mm, &vm_slot);
        if (!vm)
            return;
        __sync_fetch_and_add(&vm->events_read, 1);
        key.mm = mm;
        note_read(&key, presence_of_event(message[1]), access_of_event(message[1]), now, false);
    }
    if (count > UFFD_MSG_BATCH)
        lose(LOSS_UNREADABLE);
}

/* read() of a userfaultfd returns, seen from inside the kernel: the call's own arguments say where the messages are. */
static __always_inline void exit_uffd_read(u64 file, s64 bytes) {
    if (bytes < UFFD_MSG_BYTES)
        return;
    u64 regs = (u64)bpf_task_pt_regs(bpf_get_current_task_btf());
    if (FIELD_U64(regs, OFF_REGS_SYSCALL) == NR_READ)
        exit_read(file, SYSCALL_ARGUMENT_1(regs), ARGUMENT_2(regs), bytes);
}

/* notify.h: a handler has read who asks for a page. */

static __always_inline u8 presence_of_event(u64 flags) {
    return flags & UFFD_FLAG_WP ? PRESENCE_WP : flags & UFFD_FLAG_MINOR ? PRESENCE_MINOR : PRESENCE_MISSING;
}

static __always_inline u8 access_of_event(u64 flags) { return flags & UFFD_FLAG_WRITE ? ACCESS_WRITE : ACCESS_READ; }

/* A thread asks again: it was kicked out of its wait, or tried again inside the kernel. Its event before is over if it was
 * for this page, and the fault goes on: true; else that page may still be filled. */
static __always_inline bool supersede_named(struct thread *waiter, u64 page) {
    struct wait *wait = &waiter->wait;
    if (!named_read(wait))
        return false;
    if (wait->hva != page) {
        remember_named(waiter);
        wait->pended = 0;
        return false;
    }
    struct vm_totals *vm = vm_totals_of(wait->vm_slot);
    if (vm) {
        __sync_fetch_and_add(&vm->events_read, 1);
        __sync_fetch_and_add(&vm->events_done, 1);
    }
    return true;
}

/* It is known which thread waits: the event names it (UFFD_FEATURE_THREAD_ID), or handle_userfault is traced. One that is
 * in no guest fault must be asleep. */
static __always_inline bool note_named_read(struct thread *reader, u32 tid, u64 page, u64 flags, u64 now) {
    struct thread *waiter = thread_of(tid);
    if (!waiter)
        return false;
    struct wait *wait = &waiter->wait;
    u64 mm = reader->reader_mm;
    /* One cache line of the waiter's for most events: each that the CPUs share costs as much as a call. */
    if (!wait->open || wait->vm_slot != reader->reader_slot) {
        if (waiter->slot == NO_SLOT || waiter->mm != mm)
            return false; /* of another memory: in a PID namespace of its own its thread has another number */
        reader->reader_slot = wait->vm_slot;
    }
    if (wait->open == OPEN_KICKED && wait->hva != ADDRESS_UNKNOWN && wait->hva != page)
        return false; /* its thread asks from outside of KVM_RUN meanwhile */
    if (!wait->open) {
        if (!wait->sleep_ns || wait->run_ns || waiter->exit_ns)
            return false;
        wait->open = OPEN_OUTSIDE;
        wait->found = 0; /* perhaps it sleeps for something else by now */
    }
    if (!supersede_named(waiter, page))
        wait->read_ns = now;
    wait->hva = page;
    wait->presence = presence_of_event(flags);
    if (!wait->access)
        wait->access = access_of_event(flags);
    wait->seen |= SEEN_READ | SEEN_NAMED;
    if (wait->found)
        wait->found = FOUND;
    struct page_key key = {.mm = mm, .page = page};
    list_waiting(waiter, tid, &key);
    if (!wait->found && !wait->pended) {
        /* Whether it will sleep at all is open; if not, only the page tells whose fill it was. */
        wait->pended = 1;
        note_read(&key, wait->presence, wait->access, now, true, false);
    }
    return true;
}

/* An event that names nobody, or nobody that is known to wait. Where one memory has several VMs, its VM is that of the waiter
 * which will claim it, and it is counted then. */
static __always_inline void note_unnamed_read(struct page_key *key, u64 flags, u64 now) {
    struct memory_vms *vms = vms_of_memory(key->mm);
    if (!vms)
        return;
    struct vm_totals *vm = vms->made == 1 ? vm_totals_of(vms->slot[0]) : 0;
    if (vm)
        __sync_fetch_and_add(&vm->events_read, 1);
    note_read(key, presence_of_event(flags), access_of_event(flags), now, false, !vm);
}

/* The current thread if it reads a VM's userfaultfd, and the memory behind that; 0 if it reads something else. Looked up once
 * for each userfaultfd; a descriptor, and a struct file, may become something else's. */
static __always_inline struct thread *reader_of(u64 file) {
    struct thread *thread = thread_of(current_tid());
    struct settings *known = the_settings();
    if (!known || !file)
        return 0;
    if (thread && thread->reader_file == file && thread->reader_memories == (u32)known->memories)
        return read_u64(file + OFF_FILE_OP) == known->uffd_fops ? thread : 0;
    u64 mm = uffd_memory(file);
    if (!mm || !vms_of_memory(mm))
        return 0;
    thread = thread_or_new(current_tid());
    if (thread) {
        thread->reader_file = file;
        thread->reader_mm = mm;
        thread->reader_memories = known->memories;
        thread->reader_slot = NO_SLOT;
    }
    return thread;
}

/* The thread that waits for a page, by `waiting`: 0 unless it is sure to be found there when the page is filled. */
static __always_inline u32 waiter_of(struct page_key *key) {
    struct waiting *entry = waiting_for(key);
    if (!entry || entry->page != (key->page ^ key->mm))
        return 0;
    struct thread *waiter = thread_of(entry->tid);
    if (!waiter || !waiter->wait.found)
        return 0;
    return waiter->wait.found == FOUND_AGAIN || !(waiter->wait.seen & SEEN_READ) ? entry->tid : 0;
}

/* read(fd, buffer, ...) = bytes: if it was a VM's userfaultfd, each message is an event. The program runs again for those that are
 * left, as often as the kernel allows (MAX_TAIL_CALL_CNT, include/linux/bpf.h: 33 times); what is left then is counted. */
static __always_inline void exit_read(void *ctx, void *further, u64 file, u64 buffer, u64 bytes) {
    static long (*run_again)(void *, void *, u32) = (void *)BPF_FUNC_tail_call;
    struct thread *reader = reader_of(file);
    if (!reader)
        return;
    u64 count = bytes / UFFD_MSG_BYTES;
    u64 done = reader->messages;
    u64 now = done ? reader->search.read_ns : bpf_ktime_get_ns();
    reader->messages = 0;
    for (u32 i = 0; i < UFFD_MSG_BATCH; i++) {
        if (done + i >= count)
            return;
        u64 message[4] = {}; /* event; pagefault.flags; pagefault.address; pagefault.feat.ptid */
        if (bpf_probe_read_user(message, sizeof(message), (void *)(buffer + (done + i) * UFFD_MSG_BYTES))) {
            lose(LOSS_UNREADABLE);
            continue;
        }
        if ((message[0] & 0xff) != UFFD_EVENT_PAGEFAULT)
            continue;
        struct page_key key = {.mm = reader->reader_mm, .page = PAGE_OF(message[2])};
        u32 tid = message[3];
        if (!tid)
            tid = waiter_of(&key);
        if (!tid || !note_named_read(reader, tid, key.page, message[1], now))
            note_unnamed_read(&key, message[1], now);
    }
    done += UFFD_MSG_BATCH;
    if (count <= done)
        return;
    reader->messages = done;
    reader->search.read_ns = now;
    run_again(ctx, further, 0);
    reader->messages = 0;
    lose_many(LOSS_UNREADABLE, count - done);
}

/* read() of a userfaultfd returns, seen from inside the kernel: the call's own arguments say where the messages are. */
static __always_inline void exit_uffd_read(void *ctx, u64 file, s64 bytes) {
    if (bytes < UFFD_MSG_BYTES)
        return;
    u64 regs = (u64)bpf_task_pt_regs(bpf_get_current_task_btf());
    if (FIELD_U64(regs, OFF_REGS_SYSCALL) == NR_READ)
        exit_read(ctx, MAP(further_typed), file, ARGUMENT_2(regs), bytes);
}

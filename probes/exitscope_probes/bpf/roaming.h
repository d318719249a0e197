/* roaming.h: a vCPU is run by one thread, and later by another: its unfinished fault goes with it. */

#define SIGNAL_GROUP_EXIT 4 /* of signal_struct.flags: the whole process ends, include/linux/sched/signal.h */

/* Whether the vCPU that a thread has run is in a fault although KVM_RUN was left. */
static __always_inline bool is_unfinished(struct thread *thread) {
    return thread->exit_ns || thread->wait.open == OPEN_KICKED || thread->has_parked || thread->async_outstanding;
}

/* The state of a vCPU moves from one thread to another. What is remembered of descriptors goes with it, as the threads of a
 * process share them. */
static __always_inline void carry(struct thread *to, struct thread *from, u32 tid) {
    u32 self = to->self;
    __builtin_memcpy(to, from, sizeof(*to));
    to->tid = tid;
    to->self = self;
    to->run_fd = 0;
    to->filling = 0;
    if (to->exit_ns)
        note_exited(to);
}

/* The thread runs its vCPU no more, and knows nothing of it. */
static __always_inline void let_go(struct thread *thread) {
    thread->vcpu = 0;
    thread->slot = NO_SLOT;
    thread->vcpu_id = VCPU_OTHER;
    thread->exit_ns = 0;
    thread->async_outstanding = 0;
    thread->kicks = 0;
    thread->has_previous = 0;
    thread->has_parked = 0;
    thread->prefetched = 0;
    thread->halted = 0;
    close_wait(thread, &thread->wait);
}

/* The thread that has run this vCPU last, 0 if that is the current one, or if it is not known. */
static __always_inline struct thread *runner_before(u64 vcpu) {
    u32 *slot = bpf_map_lookup_elem(MAP(vcpu_slots), &vcpu);
    struct vcpu_totals *row = slot ? totals_of(*slot) : 0;
    if (!row || row->tid == current_tid())
        return 0;
    struct thread *thread = thread_of(row->tid);
    return thread && thread->vcpu == vcpu && thread->slot == *slot ? thread : 0;
}

/* A thread is about to run another vCPU while the one before is in a fault: that one's state gets a place of its own. */
static __always_inline void lay_down(struct thread *thread) {
    struct free_slot got = {};
    u64 vcpu = thread->vcpu;
    struct thread *place = bpf_map_pop_elem(MAP(free_threads), &got) ? 0 : thread_in(got.slot);
    if (!place || bpf_map_update_elem(MAP(resting), &vcpu, &got.slot, BPF_ANY)) {
        lose(LOSS_UNMATCHED_BEGIN);
        return;
    }
    place->self = got.slot;
    carry(place, thread, 0);
}

/* The current thread is about to run a vCPU that it has not run before, or not last. 0 if it is none that is traced. */
static __always_inline struct thread *run_another(struct thread *thread, u64 vcpu) {
    struct thread *before = runner_before(vcpu);
    if (thread && thread->vcpu && thread->vcpu != vcpu) {
        if (is_unfinished(thread))
            lay_down(thread);
        let_go(thread);
    }
    thread = adopt_vcpu(vcpu);
    u32 *rests = bpf_map_lookup_elem(MAP(resting), &vcpu);
    struct free_slot laid = {.slot = rests ? *rests : 0};
    struct thread *from = rests ? thread_in(laid.slot) : before && is_unfinished(before) ? before : 0;
    if (thread && from && from->slot == thread->slot)
        carry(thread, from, thread->tid);
    if (rests) {
        bpf_map_delete_elem(MAP(resting), &vcpu);
        bpf_map_push_elem(MAP(free_threads), &laid, 0);
    }
    if (before)
        let_go(before);
    return thread;
}

/* A thread has ended between two calls of KVM_RUN, in a fault of its vCPU, and its process lives on: another thread may run
 * that. True if so: its slot in threads is still needed. */
static __always_inline bool leaves_to_others(struct thread *thread) {
    u64 task = (u64)bpf_get_current_task_btf();
    u64 signal = OFF_TASK_SIGNAL && OFF_SIGNAL_FLAGS ? read_u64(task + OFF_TASK_SIGNAL) : 0;
    u64 vcpu = thread->vcpu;
    u32 slot = thread->self;
    if (!vcpu || !is_vcpu(thread) || !is_unfinished(thread) || thread->wait.open & OPEN_WAITS)
        return false;
    if (!signal || read_u32(signal + OFF_SIGNAL_FLAGS) & SIGNAL_GROUP_EXIT)
        return false;
    if (bpf_map_update_elem(MAP(resting), &vcpu, &slot, BPF_ANY))
        return false;
    thread->tid = 0;
    return true;
}

/* identity.h: which VM and which vCPU a thread belongs to; slots are handed out here and given back by loader.py,
 * those of threads by thread_exit.bpf.c. */

/* A VM has ended, which no tracepoint tells: its last descriptor is closed, or a new VM sits where it sat. */
static __always_inline void forget_vm(u64 kvm) {
    u32 *slot = bpf_map_lookup_elem(MAP(vm_slots), &kvm);
    struct vm_totals *vm = slot ? vm_totals_of(*slot) : 0;
    if (vm && vm->kvm == kvm)
        vm->kvm = 0;
    bpf_map_delete_elem(MAP(vm_slots), &kvm);
    bpf_map_delete_elem(MAP(not_counted), &kvm);
}

/* Whose memory is behind a userfaultfd may have changed. */
static __always_inline void note_new_memory(void) {
    struct settings *known = the_settings();
    if (known)
        __sync_fetch_and_add(&known->memories, 1);
}

/* Whether a VM has ended, as its struct kvm tells, which may be freed. */
static __always_inline bool has_ended(struct vm_totals *vm) {
    u32 users = 0; /* stays 0 where the memory is unmapped by now */
    if (!vm->kvm)
        return true;
    if (!OFF_KVM_USERS_COUNT)
        return false;
    bpf_probe_read_kernel(&users, sizeof(users), (void *)(vm->kvm + OFF_KVM_USERS_COUNT));
    return !users || read_u64(vm->kvm + OFF_KVM_MM) != vm->mm;
}

static __always_inline void add_to_memory(u64 mm, u32 slot, u32 tgid) {
    u32 zero = 0;
    struct memory_vms *none = bpf_map_lookup_elem(MAP(no_vms), &zero);
    if (none)
        bpf_map_update_elem(MAP(vm_slots_by_mm), &mm, none, BPF_NOEXIST);
    struct memory_vms *vms = vms_of_memory(mm);
    if (!vms) {
        lose(LOSS_MAP_FULL);
        return;
    }
    u32 last = vms->slot[at_most((vms->made - 1) % VMS_PER_MEMORY, VMS_PER_MEMORY - 1)];
    struct vm_totals *before = vms->made ? vm_totals_of(last) : 0;
    if (before && before->tgid != tgid && has_ended(before))
        vms->made = 0; /* the memory of a process that is gone, in the same place */
    vms->slot[at_most(vms->made % VMS_PER_MEMORY, VMS_PER_MEMORY - 1)] = slot;
    vms->made++;
}

/* Slot of the VM's totals, NO_SLOT if there is no room, or if it is none that is traced. */
static __always_inline u32 vm_slot_of(u64 kvm, u64 mm) {
    u32 *known = bpf_map_lookup_elem(MAP(vm_slots), &kvm);
    if (known)
        return *known;
    if (!is_wanted())
        return NO_SLOT;
    struct free_slot got = {};
    u32 user = current_user();
    if (!may_take(user, ROOM_VMS) || bpf_map_pop_elem(MAP(free_vms), &got)) {
        leave_out(kvm, 0, user);
        return NO_SLOT;
    }
    struct vm_totals *row = vm_totals_of(got.slot);
    if (!row)
        return NO_SLOT;
    take(user, ROOM_VMS, 1);
    bpf_map_update_elem(MAP(vm_users), &got.slot, &user, BPF_ANY);
    row->user = user;
    row->not_counted = 0;
    row->tgid = bpf_get_current_pid_tgid() >> 32;
    row->kvm = kvm;
    row->mm = mm;
    row->vm = got.vm; /* last: a row with a VM is live */
    u32 slot = got.slot;
    if (bpf_map_update_elem(MAP(vm_slots), &kvm, &slot, BPF_NOEXIST)) {
        /* Another vCPU of the same VM was quicker, or the map is full. */
        row->vm = 0;
        row->kvm = 0;
        take(user, ROOM_VMS, -1);
        bpf_map_push_elem(MAP(free_vms), &got, 0);
        known = bpf_map_lookup_elem(MAP(vm_slots), &kvm);
        if (!known)
            lose(LOSS_MAP_FULL);
        return known ? *known : NO_SLOT;
    }
    add_to_memory(mm, slot, row->tgid);
    note_new_memory();
    return slot;
}

/* Slot of a vCPU's totals (or of a VM's other threads), NO_SLOT if there is no room. `identity` is struct kvm_vcpu,
 * or the VM's number, which no kernel address equals. */
static __always_inline u32 vcpu_slot_of(u64 identity, struct thread *thread, u32 tgid) {
    u32 *known = bpf_map_lookup_elem(MAP(vcpu_slots), &identity);
    if (known) {
        struct vcpu_totals *row = totals_of(*known);
        if (row && row->vm == thread->vm && row->vcpu == thread->vcpu_id) {
            row->tid = thread->tid;
            row->exited = 0;
            return *known;
        }
    }
    struct free_slot got = {};
    struct vm_totals *vm = vm_totals_of(thread->wait.vm_slot);
    u32 user = vm ? vm->user : 0;
    if (!may_take(user, ROOM_VCPUS) || bpf_map_pop_elem(MAP(free_vcpus), &got)) {
        if (leave_out(identity, thread->vm, user) && vm)
            __sync_fetch_and_add(&vm->not_counted, 1);
        return NO_SLOT;
    }
    struct vcpu_totals *row = totals_of(got.slot);
    if (!row)
        return NO_SLOT;
    if (let_in(identity, thread->vm) && vm)
        __sync_fetch_and_add(&vm->not_counted, -1);
    take(user, ROOM_VCPUS, 1);
    bpf_map_update_elem(MAP(vcpu_users), &got.slot, &user, BPF_ANY);
    row->vm_slot = thread->wait.vm_slot;
    row->tgid = tgid;
    row->vcpu = thread->vcpu_id;
    row->tid = thread->tid;
    row->exited = 0;
    row->vm = thread->vm; /* last: a row with a VM is live */
    u32 slot = got.slot;
    if (bpf_map_update_elem(MAP(vcpu_slots), &identity, &slot, BPF_ANY))
        lose(LOSS_MAP_FULL);
    return slot;
}

/* A vCPU is made: its VM is known from now on, as pages may be placed before any vCPU has run. */
static __always_inline void note_new_vcpu(u64 vcpu) {
    u64 kvm = read_u64(vcpu + OFF_VCPU_KVM);
    u64 mm = kvm ? read_u64(kvm + OFF_KVM_MM) : 0;
    struct settings *known = the_settings();
    bpf_map_delete_elem(MAP(vcpu_slots), &vcpu); /* an ended one may have sat where it sits */
    bpf_map_delete_elem(MAP(resting), &vcpu);
    if (known)
        __sync_fetch_and_add(&known->vcpus_made, 1);
    if (mm)
        vm_slot_of(kvm, mm);
}

/* Whether the vCPU that a thread has run is the one that sits there now: that of an ended VM may have sat there. */
static __always_inline bool is_still(struct thread *thread) {
    u32 *slot = bpf_map_lookup_elem(MAP(vcpu_slots), &thread->vcpu);
    return slot && *slot == thread->slot;
}

/* State for a thread that is seen for the first time, 0 if there is no room. */
static __always_inline struct thread *new_thread(u32 tid) {
    u32 page = tid / TIDS_PER_PAGE;
    struct tid_page *row = bpf_map_lookup_elem(MAP(tids), &page);
    struct free_slot got = {};
    if (!row || bpf_map_pop_elem(MAP(free_threads), &got)) {
        lose(LOSS_MAP_FULL);
        return 0;
    }
    struct thread *thread = thread_in(got.slot);
    if (!thread)
        return 0;
    struct thread fresh = {.tid = tid, .self = got.slot, .slot = NO_SLOT, .vcpu_id = VCPU_OTHER};
    *thread = fresh;
    row->thread[tid % TIDS_PER_PAGE] = got.slot + 1;
    return thread;
}

static __always_inline struct thread *thread_or_new(u32 tid) {
    struct thread *thread = thread_of(tid);
    return thread ? thread : new_thread(tid);
}

/* Makes the current thread the one that runs `vcpu`. KVM itself refuses KVM_RUN when the VM's memory is not the
 * caller's (virt/kvm/kvm_main.c, kvm_vcpu_ioctl), so a pointer that fails this test is no vCPU. */
static __always_inline struct thread *adopt_vcpu(u64 vcpu) {
    u64 kvm = read_u64(vcpu + OFF_VCPU_KVM);
    u64 mm = read_u64(kvm + OFF_KVM_MM);
    u64 task = (u64)bpf_get_current_task_btf();
    if (!kvm || !mm || mm != FIELD_U64(task, OFF_TASK_MM))
        return 0;
    u32 vm_slot = vm_slot_of(kvm, mm);
    struct vm_totals *vm = vm_totals_of(vm_slot);
    struct thread *thread = vm ? thread_or_new(current_tid()) : 0; /* none for a VM that is not traced */
    if (!thread)
        return 0;
    thread->vcpu = vcpu;
    thread->mm = mm;
    thread->wait.vm_slot = vm_slot;
    thread->vm = vm->vm;
    thread->vcpu_id = read_u32(vcpu + OFF_VCPU_ID);
    thread->wait.open = 0;
    thread->exit_ns = 0;
    thread->has_parked = 0;
    thread->slot = vcpu_slot_of(vcpu, thread, vm->tgid);
    if (thread->slot != NO_SLOT)
        return thread;
    thread->vcpu = 0; /* tried again: there may be room by then */
    return 0;
}

/* The current thread if it runs a vCPU. */
static __always_inline struct thread *current_vcpu(void) {
    struct thread *thread = thread_of(current_tid());
    return thread && is_vcpu(thread) ? thread : 0;
}

/* A thread that waits for a page of a VM outside of a guest fault: a vCPU's, or another, which is remembered, so that
 * its next wait has a begin. 0 if it waits for no such page, or there is no room. */
static __always_inline struct thread *waiter_outside(u32 tid, u64 mm, u32 vm_slot) {
    struct vm_totals *vm = vm_totals_of(vm_slot);
    struct thread *thread = vm ? thread_or_new(tid) : 0;
    if (!thread)
        return 0;
    if (is_vcpu(thread))
        return thread->wait.open & (OPEN_GUEST | OPEN_KICKED) || thread->exit_ns || thread->mm != mm ? 0 : thread;
    thread->mm = mm;
    thread->wait.vm_slot = vm_slot;
    thread->vm = vm->vm;
    thread->slot = vcpu_slot_of(vm->vm, thread, vm->tgid);
    return thread->slot == NO_SLOT ? 0 : thread;
}

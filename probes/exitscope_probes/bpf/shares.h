/* shares.h: how much of the room for VMs and vCPUs each user takes.
 *
 * A user may take room as long as no less is free than is that user's already: one alone gets half of it, two a third
 * each, and some is always kept for another. Root is not bounded: libvirt and the like run everybody's VMs as one user.
 */

#define EVERYBODY 0xffffffffU /* no user's id, include/linux/uidgid.h (INVALID_UID) */
#define USER_NAMESPACES 32    /* within one another, include/linux/user_namespace.h */

#define ROOM_VMS 0
#define ROOM_VCPUS 1

struct share {
    u32 taken[2]; /* by ROOM_* */
    u32 not_counted;
    u32 reserved;
};

MAP_OF(shares, u32, struct share);          /* by user */
MAP_OF(shares_returned, u32, struct share); /* by user: what upkeep.py gave back */
MAP_OF(vm_users, u32, u32);                 /* by slot */
MAP_OF(vcpu_users, u32, u32);               /* by slot */
MAP_OF(not_counted, u64, u32); /* the VM of vCPUs that found no room, by struct; 0 of VMs; the oldest are forgotten */

/* Who answers for the current process: its real user, or who made its user namespace, as that has many users. */
static __always_inline u32 current_user(void) {
    u32 user = bpf_get_current_uid_gid();
    if (!OFF_CRED_USER_NS || !OFF_USER_NS_OWNER)
        return user;
    u64 task = (u64)bpf_get_current_task_btf();
    u64 space = read_u64(read_u64(task + OFF_TASK_CRED) + OFF_CRED_USER_NS);
    if (!read_u32(space + OFF_USER_NS_LEVEL))
        return user;
    for (u32 i = 0; i < USER_NAMESPACES && read_u32(space + OFF_USER_NS_LEVEL) > 1; i++)
        space = read_u64(space + OFF_USER_NS_PARENT);
    u32 owner = read_u32(space + OFF_USER_NS_OWNER);
    return owner ? owner : user;
}

static __always_inline u32 taken_by(u32 user, u32 room) {
    struct share *taken = bpf_map_lookup_elem(MAP(shares), &user);
    struct share *returned = bpf_map_lookup_elem(MAP(shares_returned), &user);
    s32 used = (taken ? taken->taken[room & 1] : 0) - (returned ? returned->taken[room & 1] : 0);
    return used > 0 ? used : 0;
}

static __always_inline bool may_take(u32 user, u32 room) {
    u32 all = room == ROOM_VMS ? ENTRIES_vm_totals : ENTRIES_vcpu_totals;
    u32 used = taken_by(EVERYBODY, room);
    return !user || taken_by(user, room) + used < all;
}

static __always_inline struct share *share_of(u32 user) {
    struct share *share = bpf_map_lookup_elem(MAP(shares), &user);
    if (share)
        return share;
    struct share none = {};
    bpf_map_update_elem(MAP(shares), &user, &none, BPF_NOEXIST);
    return bpf_map_lookup_elem(MAP(shares), &user);
}

static __always_inline void take(u32 user, u32 room, s32 count) {
    u32 everybody = EVERYBODY;
    struct share *own = share_of(user);
    struct share *whole = share_of(everybody);
    if (own)
        __sync_fetch_and_add(&own->taken[room & 1], count);
    if (whole)
        __sync_fetch_and_add(&whole->taken[room & 1], count);
}

/* No room for a VM (vm 0) or a vCPU of this VM, which may ask again: counted once. True if it is new; a struct of an
 * ended one may have sat there. */
static __always_inline bool leave_out(u64 identity, u32 vm, u32 user) {
    u32 *before = bpf_map_lookup_elem(MAP(not_counted), &identity);
    if (before && *before == vm)
        return false;
    bpf_map_update_elem(MAP(not_counted), &identity, &vm, BPF_ANY);
    lose(LOSS_NOT_COUNTED);
    struct share *share = share_of(user);
    if (share)
        __sync_fetch_and_add(&share->not_counted, 1);
    return true;
}

/* A vCPU of this VM has found room. True if it had found none before. */
static __always_inline bool let_in(u64 identity, u32 vm) {
    u32 *before = bpf_map_lookup_elem(MAP(not_counted), &identity);
    bool left_out = before && *before == vm;
    if (before)
        bpf_map_delete_elem(MAP(not_counted), &identity);
    return left_out;
}

/* only.h: whose VMs are traced: everybody's, or those of one process and its descendants, or of one control group.
 *
 * Asked where a VM is met for the first time, in the context of its process. Whatever belongs to another's VM is then
 * unknown everywhere else, and takes no room.
 */

#define ANCESTORS 64     /* processes above one another */
#define CGROUP_LEVELS 32 /* groups within one another */

struct only {
    u64 tgid;   /* 0: any */
    u64 cgroup; /* id, 0: any */
};

MAP_OF(only, u32, struct only);

static __always_inline bool descends_from(u32 tgid) {
    u64 task = (u64)bpf_get_current_task_btf();
    for (u32 i = 0; i < ANCESTORS && task; i++) {
        if (read_u32(task + OFF_TASK_TGID) == tgid)
            return true;
        u64 parent = read_u64(task + OFF_TASK_PARENT);
        if (parent == task) /* the first of all */
            return false;
        task = parent;
    }
    return false;
}

static __always_inline bool is_within(u64 cgroup) {
    if (!HAS_ANCESTOR_CGROUP)
        return false;
    for (u32 level = 0; level < CGROUP_LEVELS; level++) {
        u64 id = bpf_get_current_ancestor_cgroup_id(level);
        if (id == cgroup)
            return true;
        if (!id)
            return false;
    }
    return false;
}

/* Whether the current process's VMs are wanted. */
static __always_inline bool is_wanted(void) {
    u32 zero = 0;
    struct only *only = bpf_map_lookup_elem(MAP(only), &zero);
    if (!only)
        return true;
    return (!only->tgid || descends_from(only->tgid)) && (!only->cgroup || is_within(only->cgroup));
}

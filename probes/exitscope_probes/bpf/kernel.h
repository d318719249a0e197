/* kernel.h: the kernel's numbers and structs that the probes read.
 *
 * OFF_* are byte offsets that loader.py takes from the running kernel's BTF and passes with -D.
 */
#define KVM_RUN 0xAE80         /* include/uapi/linux/kvm.h */
#define KVM_CREATE_VM 0xAE01   /* likewise */
#define KVM_CREATE_VCPU 0xAE41 /* likewise */

#define UFFD_MSG_BYTES 32             /* sizeof(struct uffd_msg), include/uapi/linux/userfaultfd.h */
#define UFFD_EVENT_PAGEFAULT 0x12     /* likewise */
#define UFFD_MSG_BATCH 16             /* messages looked at by one run of a program, which then runs again */
#define UFFDIO_TYPE 0xAA              /* likewise */
#define UFFDIO_WRITEPROTECT_MODE_WP 1 /* likewise */
#define UFFDIO_API_NUMBER 0x3f        /* likewise: what a new userfaultfd is asked first */

#define MADV_POPULATE_READ 22  /* include/uapi/asm-generic/mman-common.h */
#define MADV_POPULATE_WRITE 23 /* likewise */

#define FAULT_FLAG_RETRY_NOWAIT 8 /* enum fault_flag, include/linux/mm_types.h */
#define UFFD_FEATURE_SIGBUS 128   /* include/uapi/linux/userfaultfd.h */
#define UFFD_FLAG_WRITE 1         /* of a page fault event, likewise */
#define UFFD_FLAG_WP 2
#define UFFD_FLAG_MINOR 4
#define VM_UFFD_MISSING 0x200 /* `reason` of handle_userfault, include/linux/mm.h; neither: a minor fault */
#define VM_UFFD_WP 0x1000

#define ERRNO_ENOENT 2
#define ERRNO_ESRCH 3
#define ERRNO_EINTR 4
#define ERRNO_EAGAIN 11
#define ERRNO_ENOMEM 12
#define ERRNO_EFAULT 14
#define ERRNO_EEXIST 17
#define ERRNO_EINVAL 22
#define ERRNO_EHWPOISON 133

#define PFERR_RESERVED 8 /* PFERR_RSVD_MASK, arch/x86/include/asm/kvm_host.h */

/* What a program at an ordinary tracepoint returns: with 0 the kernel keeps the event from every other reader of that
 * tracepoint, such as perf (kernel/events/core.c, perf_trace_run_bpf_submit). */
#define PASS 1

/* How far into handle_userfault an address on the stack of its sleeper can lie; it is among the first frames. */
#define HANDLE_USERFAULT_BYTES 0x1000ULL
#define STACK_FRAMES 8

#define PAGE_BYTES 4096ULL
#define HUGE_BYTES (2ULL << 20)     /* the smallest huge page of x86-64, and of arm64 with pages of 4 KiB */
#define GIGANTIC_BYTES (1ULL << 30) /* the next */
#define PAGE_OF(address) ((address) & ~(PAGE_BYTES - 1))

/* Arguments and result of a function in struct pt_regs, which is what a kprobe gets; OFF_REGS_* are the running
 * architecture's. The second is that of a system call, too; its first is kept apart, as arm64 puts the result there. */
#define ARGUMENT_1(regs) (*(volatile u64 *)((u64)(regs) + OFF_REGS_ARGUMENT_1))
#define SYSCALL_ARGUMENT_1(regs) (*(volatile u64 *)((u64)(regs) + OFF_REGS_SYSCALL_ARGUMENT_1))
#define ARGUMENT_2(regs) (*(volatile u64 *)((u64)(regs) + OFF_REGS_ARGUMENT_2))
#define ARGUMENT_3(regs) (*(volatile u64 *)((u64)(regs) + OFF_REGS_ARGUMENT_3))
#define RESULT(regs) (*(volatile u64 *)((u64)(regs) + OFF_REGS_RESULT))

/* Fields of pointers whose type the verifier knows (tp_btf arguments, the current task): a plain load, which the
 * kernel turns into 0 if the pointer is bad. A tenth of the price of a helper call. */
#define FIELD_U64(pointer, offset) (*(volatile u64 *)((pointer) + (offset)))
#define FIELD_U32(pointer, offset) (*(volatile u32 *)((pointer) + (offset)))
#define FIELD_U16(pointer, offset) (*(volatile u16 *)((pointer) + (offset)))
#define FIELD_U8(pointer, offset) (*(volatile u8 *)((pointer) + (offset)))

/* Any other kernel memory. */
static __always_inline u64 read_u64(u64 address) {
    u64 value = 0;
    bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
    return value;
}

static __always_inline u32 read_u32(u64 address) {
    u32 value = 0;
    bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
    return value;
}

/* A field of a pointer whose type the verifier knows (`typed`, a constant), or of any other. */
static __always_inline u64 load_u64(u64 pointer, u64 offset, bool typed) {
    return typed ? FIELD_U64(pointer, offset) : read_u64(pointer + offset);
}

static __always_inline u32 load_u32(u64 pointer, u64 offset, bool typed) {
    return typed ? FIELD_U32(pointer, offset) : read_u32(pointer + offset);
}

/* struct file of one of the current thread's descriptors, 0 if there is none. */
static __always_inline u64 file_of(u64 fd) {
    u64 task = (u64)bpf_get_current_task_btf();
    u64 files = FIELD_U64(task, OFF_TASK_FILES);
    u64 table = files ? FIELD_U64(files, OFF_FILES_FDT) : 0;
    return table ? read_u64(FIELD_U64(table, OFF_FDT_FD) + (fd & 0xffffff) * sizeof(u64)) : 0;
}

static __always_inline u64 private_of(u64 file) { return file ? read_u64(file + OFF_FILE_PRIVATE) : 0; }

/* What the tracepoints of a system call carry, the same for every one (kernel/trace/trace_syscalls.c). */
struct syscall_enter {
    u64 common;
    u64 number;
    u64 argument[6];
};

struct syscall_exit {
    u64 common;
    u64 number;
    s64 result;
};

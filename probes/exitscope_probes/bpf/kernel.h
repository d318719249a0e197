/* kernel.h: the kernel's numbers and structs that the probes read.
 *
 * OFF_* are byte offsets that loader.py takes from the running kernel's BTF and passes with -D.
 */
#define KVM_RUN 0xAE80           /* include/uapi/linux/kvm.h */
#define KVM_CREATE_VM 0xAE01     /* likewise */
#define KVM_CREATE_VCPU 0xAE41   /* likewise */
#define KVM_EXIT_MEMORY_FAULT 39 /* likewise, since 6.8 */
#define RUN_MEMORY_FAULT 32      /* offsetof(struct kvm_run, memory_fault): { flags, gpa, size }, likewise */

#define UFFD_MSG_BYTES 32         /* sizeof(struct uffd_msg), include/uapi/linux/userfaultfd.h */
#define UFFD_EVENT_PAGEFAULT 0x12 /* likewise */
#define UFFD_MSG_BATCH 16         /* messages looked at in one read(); the rest are counted unreadable */
#define UFFDIO_TYPE 0xAA          /* likewise */

#define MADV_POPULATE_READ 22  /* include/uapi/asm-generic/mman-common.h */
#define MADV_POPULATE_WRITE 23 /* likewise */

#define ERRNO_EINTR 4
#define ERRNO_EAGAIN 11
#define ERRNO_EFAULT 14
#define ERRNO_EHWPOISON 133

#define PAGE_BYTES 4096ULL
#define PAGE_OF(address) ((address) & ~(PAGE_BYTES - 1))

/* The second and first argument of a system call in x86-64's struct pt_regs. */
#define REGS_SECOND 104
#define REGS_FIRST 112

/* Fields of pointers whose type the verifier knows (tp_btf arguments, the current task): a plain load, which the
 * kernel turns into 0 if the pointer is bad. A tenth of the price of a helper call. */
#define FIELD_U64(pointer, offset) (*(volatile u64 *)((pointer) + (offset)))
#define FIELD_U32(pointer, offset) (*(volatile u32 *)((pointer) + (offset)))
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

/* struct file of one of the current thread's descriptors, 0 if there is none. */
static __always_inline u64 file_of(u64 fd) {
    u64 task = (u64)bpf_get_current_task_btf();
    u64 files = FIELD_U64(task, OFF_TASK_FILES);
    u64 table = files ? FIELD_U64(files, OFF_FILES_FDT) : 0;
    return table ? read_u64(FIELD_U64(table, OFF_FDT_FD) + (fd & 0xffffff) * sizeof(u64)) : 0;
}

static __always_inline u64 private_of(u64 file) { return file ? read_u64(file + OFF_FILE_PRIVATE) : 0; }

#define _GNU_SOURCE
#include "gmem.h"
#include "arch.h"
#include "common.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* include/uapi/linux/kvm.h of Linux 6.18; not in the headers of older ones. */
struct memory_region2 {
    uint32_t slot, flags;
    uint64_t guest_phys_addr, memory_size, userspace_addr, guest_memfd_offset;
    uint32_t guest_memfd, pad1;
    uint64_t pad2[14];
};
struct create_guest_memfd {
    uint64_t size, flags, reserved[6];
};
#define IOCTL_SET_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct memory_region2)
#define IOCTL_CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct create_guest_memfd)
#define CAP_GUEST_MEMFD_FLAGS 244
#define GUEST_MEMFD_MMAP_AND_SHARED 3
#define MEM_GUEST_MEMFD (1 << 2)

#define FIRST_SLOT 1 /* 0 is the control memory */

void gmem_require(int kvm_fd) {
    int flags = ioctl(kvm_fd, KVM_CHECK_EXTENSION, CAP_GUEST_MEMFD_FLAGS);
    if (flags < 0 || (flags & GUEST_MEMFD_MMAP_AND_SHARED) != GUEST_MEMFD_MMAP_AND_SHARED)
        fail("--mode memory_fault: this kernel has no guest_memfd for ordinary VMs: use Linux 6.18 or newer with "
             "CONFIG_KVM_GUEST_MEMFD, or --mode exit");
}

static int create(int vm_fd) {
    struct create_guest_memfd request = {.size = PAGE_SIZE, .flags = GUEST_MEMFD_MMAP_AND_SHARED};
    int fd = ioctl(vm_fd, IOCTL_CREATE_GUEST_MEMFD, &request);
    if (fd < 0)
        fail("KVM_CREATE_GUEST_MEMFD: %s", strerror(errno));
    return fd;
}

/* size 0 takes the memslot away. */
static void set_slot(int vm_fd, const struct memory *memory, uint64_t page, uint64_t size, int fd) {
    struct memory_region2 region = {.slot = FIRST_SLOT + (uint32_t)page,
                                    .flags = size ? MEM_GUEST_MEMFD : 0,
                                    .guest_phys_addr = DATA_GPA + page * PAGE_SIZE,
                                    .memory_size = size,
                                    .userspace_addr = (uintptr_t)memory->hva + page * PAGE_SIZE,
                                    .guest_memfd = size ? (uint32_t)fd : 0};
    if (ioctl(vm_fd, IOCTL_SET_MEMORY_REGION2, &region))
        fail("KVM_SET_USER_MEMORY_REGION2 of page %lu: %s: use fewer --pages", page, strerror(errno));
}

void gmem_add(int vm_fd, const struct memory *memory, uint64_t page) {
    int fd = create(vm_fd);
    set_slot(vm_fd, memory, page, PAGE_SIZE, fd);
    close(fd);
}

void gmem_fill(int vm_fd, const struct memory *memory, uint64_t page) {
    uint8_t *hva = memory->hva + page * PAGE_SIZE;
    int fd = create(vm_fd);

    if (mmap(hva, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
        fail("cannot map a guest_memfd: %s: use fewer --pages", strerror(errno));
    memory_pattern(hva, page);
    set_slot(vm_fd, memory, page, 0, -1);
    set_slot(vm_fd, memory, page, PAGE_SIZE, fd);
    close(fd); /* the mapping keeps it */
}

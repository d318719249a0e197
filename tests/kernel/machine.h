/* machine.h: VMs on kernel headers alone, whose vCPUs write to a list of guest addresses and ring a doorbell. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define GUEST_MEMORY (1UL << 30) /* guest physical */
#define DOORBELL (3UL << 30)
#define LIST 0x100000UL

struct machine {
    int kvm, vm, vcpu;
    uint8_t *own; /* code, page tables, and the list of addresses to touch */
    struct kvm_run *run;
    size_t run_bytes;
};

static void must(bool good, const char *what) {
    if (good)
        return;
    perror(what);
    exit(1);
}

static uint8_t *pages(uint64_t count) {
    uint8_t *at = mmap(0, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    must(at != MAP_FAILED, "mmap");
    madvise(at, count * PAGE, MADV_NOHUGEPAGE);
    return at;
}

static void add_slot(struct machine *m, int slot, uint64_t gpa, void *at, uint64_t bytes) {
    struct kvm_userspace_memory_region region = {
        .slot = slot, .guest_phys_addr = gpa, .memory_size = bytes, .userspace_addr = (uintptr_t)at};
    must(!ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region), "memslot");
}

static int new_vcpu(struct machine *m, int number) {
    int vcpu = ioctl(m->vm, KVM_CREATE_VCPU, number);
    must(vcpu >= 0, "KVM_CREATE_VCPU");
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + 256 * sizeof(struct kvm_cpuid_entry2));
    cpuid->nent = 256;
    must(!ioctl(m->kvm, KVM_GET_SUPPORTED_CPUID, cpuid) && !ioctl(vcpu, KVM_SET_CPUID2, cpuid), "cpuid");
    free(cpuid);
    struct kvm_sregs s;
    must(!ioctl(vcpu, KVM_GET_SREGS, &s), "sregs");
    struct kvm_segment cs = {
        .limit = ~0U, .selector = 0x0b, .type = 11, .dpl = 3, .present = 1, .s = 1, .l = 1, .g = 1};
    struct kvm_segment ds = {
        .limit = ~0U, .selector = 0x13, .type = 3, .dpl = 3, .present = 1, .s = 1, .db = 1, .g = 1};
    s.cs = cs;
    s.ds = s.es = s.fs = s.gs = s.ss = ds;
    s.cr0 = 0x80050033;
    s.cr3 = 0x2000;
    s.cr4 = 1 << 5;
    s.efer = 1 << 8 | 1 << 10;
    must(!ioctl(vcpu, KVM_SET_SREGS, &s), "sregs");
    return vcpu;
}

/* User mode, 64 bits, four GiB mapped one to one with large pages. */
static void create(struct machine *m, uint8_t *at, uint64_t count) {
    /* 1: mov (%rsi),%rax; movb $1,(%rax); add $8,%rsi; dec %rcx; jnz 1b; movb $1,(%r13); 2: jmp 2b */
    static const uint8_t code[] = {0x48, 0x8b, 0x06, 0xc6, 0x00, 0x01, 0x48, 0x83, 0xc6, 0x08, 0x48,
                                   0xff, 0xc9, 0x75, 0xf1, 0x41, 0xc6, 0x45, 0x00, 0x01, 0xeb, 0xfe};
    m->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    m->vm = ioctl(m->kvm, KVM_CREATE_VM, 0);
    must(m->vm >= 0, "KVM_CREATE_VM");
    m->own = pages(LIST / PAGE + 16);
    memcpy(m->own + 0x1000, code, sizeof code);
    *(uint64_t *)(m->own + 0x2000) = 0x3007;
    for (uint64_t gib = 0; gib < 4; gib++) {
        *(uint64_t *)(m->own + 0x3000 + 8 * gib) = (0x4000 + gib * PAGE) | 7;
        for (uint64_t i = 0; i < 512; i++)
            *(uint64_t *)(m->own + 0x4000 + gib * PAGE + 8 * i) = gib << 30 | i << 21 | 0xe7;
    }
    add_slot(m, 0, 0, m->own, LIST + 16 * PAGE);
    add_slot(m, 1, GUEST_MEMORY, at, count * PAGE);
    m->vcpu = new_vcpu(m, 0);
    m->run_bytes = ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    m->run = mmap(0, m->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0);
}

static void destroy(struct machine *m) {
    munmap(m->run, m->run_bytes);
    close(m->vcpu);
    close(m->vm);
    close(m->kvm);
    munmap(m->own, LIST + 16 * PAGE);
}

/* Writes into pages first.. of the guest's memory. Returns 0, or the errno of KVM_RUN. */
static int touch(struct machine *m, uint64_t first, uint64_t count) {
    struct kvm_regs regs = {.rip = 0x1000, .rflags = 2, .rsi = LIST, .rcx = count, .r13 = DOORBELL};
    for (uint64_t i = 0; i < count; i++)
        ((uint64_t *)(m->own + LIST))[i] = GUEST_MEMORY + (first + i) * PAGE;
    must(!ioctl(m->vcpu, KVM_SET_REGS, &regs), "regs");
    return ioctl(m->vcpu, KVM_RUN, 0) ? errno : 0;
}

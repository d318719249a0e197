/* x86-64: long mode, guest code at CPL 3, everything identity-mapped by 2 MiB pages. */
#ifndef __x86_64__
#error "exitscope guest runs on x86-64 only, so far"
#endif

#include "arch.h"
#include "common.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/* Control memory, by page: code, PML4, PDPT, then one page directory for each GiB up to the end of the
 * data. */
#define CODE_OFFSET 0x1000
#define PML4_OFFSET 0x2000
#define PDPT_OFFSET 0x3000
#define PD_OFFSET 0x4000
#define GIB_SHIFT 30
#define GIBS ((DATA_GPA >> GIB_SHIFT) + (MAX_PAGES * PAGE_SIZE >> GIB_SHIFT))
#define ENTRIES 512

/* Page table entry bits (Intel SDM vol. 3, 4.5). */
#define PTE_TABLE 0x07UL /* present, writable, user */
#define PTE_LARGE 0xe7UL /* the same, accessed and dirty, 2 MiB */
#define LARGE_SHIFT 21

/* The state of touch_order_next in registers; one `inc` is the touch. Its write faults at most once per
 * page. */
__asm__(".pushsection .rodata\n"
        "guest_code:\n"
        "    imulq %r9, %r11\n" /* state = (state * multiplier + increment) & mask */
        "    addq  %r10, %r11\n"
        "    andq  %r8, %r11\n"
        "    movq  %r11, %rax\n" /* page = state ^ (state >> shift) */
        "    shrq  %cl, %rax\n"
        "    xorq  %r11, %rax\n"
        "    cmpq  %rbx, %rax\n"
        "    jae   guest_code\n"
        "    imulq %rdx, %rax\n" /* of every stride-th page */
        "    shlq  $12, %rax\n"
        "    leaq  (%rsi,%rax), %rdi\n"
        "    incq  (%rdi)\n"
        "guest_touched:\n"
        "    incq  %r14\n" /* touches in all */
        "    decq  %rbp\n" /* touches left of the chunk */
        "    jnz   guest_code\n"
        "guest_doorbell:\n"
        "    movb  $1, (%r13)\n"
        "    movq  %r12, %rbp\n"
        "    jmp   guest_code\n"
        "guest_code_end:\n"
        ".popsection\n");

extern const uint8_t guest_code[], guest_touched[], guest_doorbell[], guest_code_end[];

static uint64_t guest_address(const uint8_t *label) {
    return CONTROL_GPA + CODE_OFFSET + (uint64_t)(label - guest_code);
}

uint64_t arch_control_size(void) { return PD_OFFSET + GIBS * PAGE_SIZE; }

void arch_control_init(uint8_t *control) {
    uint64_t *pml4 = (uint64_t *)(control + PML4_OFFSET);
    uint64_t *pdpt = (uint64_t *)(control + PDPT_OFFSET);

    memcpy(control + CODE_OFFSET, guest_code, (size_t)(guest_code_end - guest_code));
    pml4[0] = (CONTROL_GPA + PDPT_OFFSET) | PTE_TABLE;
    for (uint64_t gib = 0; gib < GIBS; gib++) {
        uint64_t *pd = (uint64_t *)(control + PD_OFFSET + gib * PAGE_SIZE);
        pdpt[gib] = (CONTROL_GPA + PD_OFFSET + gib * PAGE_SIZE) | PTE_TABLE;
        for (uint64_t i = 0; i < ENTRIES; i++)
            pd[i] = gib << GIB_SHIFT | i << LARGE_SHIFT | PTE_LARGE;
    }
}

void arch_vm_init(int vm_fd) {
    /* As any VMM for a real guest does, and async page faults need the in-kernel local APIC. */
    if (ioctl(vm_fd, KVM_CREATE_IRQCHIP, 0))
        fail("KVM_CREATE_IRQCHIP: %s", strerror(errno));
}

static void set_cpuid(int kvm_fd, int vcpu_fd) {
    const unsigned max_entries = 256; /* KVM_MAX_CPUID_ENTRIES */
    struct kvm_cpuid2 *cpuid = zalloc(1, sizeof *cpuid + max_entries * sizeof cpuid->entries[0]);

    cpuid->nent = max_entries;
    if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) || ioctl(vcpu_fd, KVM_SET_CPUID2, cpuid))
        fail("KVM_SET_CPUID2: %s", strerror(errno));
    free(cpuid);
}

static void set_registers(int vcpu_fd, const struct kvm_regs *regs) {
    if (ioctl(vcpu_fd, KVM_SET_REGS, regs))
        fail("KVM_SET_REGS: %s", strerror(errno));
}

static struct kvm_regs get_registers(int vcpu_fd) {
    struct kvm_regs regs;
    if (ioctl(vcpu_fd, KVM_GET_REGS, &regs))
        fail("KVM_GET_REGS: %s", strerror(errno));
    return regs;
}

static uint64_t flags(bool interrupts) {
    const uint64_t reserved = 1 << 1, interrupt_flag = 1 << 9;
    return interrupts ? reserved | interrupt_flag : reserved;
}

void arch_vcpu_init(int kvm_fd, int vcpu_fd, bool interrupts) {
    /* All vCPUs but the first would wait for a start IPI. */
    struct kvm_mp_state state = {.mp_state = KVM_MP_STATE_RUNNABLE};
    struct kvm_segment segment = {.limit = 0xffffffff, .selector = 1 << 3 | 3, .type = 11, .dpl = 3};
    struct kvm_sregs sregs;

    set_cpuid(kvm_fd, vcpu_fd);
    if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs))
        fail("KVM_GET_SREGS: %s", strerror(errno));
    segment.present = segment.s = segment.g = segment.l = 1; /* 64-bit code */
    sregs.cs = segment;
    segment.type = 3; /* data */
    segment.selector = 2 << 3 | 3;
    segment.l = 0;
    segment.db = 1;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment;
    sregs.cr3 = CONTROL_GPA + PML4_OFFSET;
    sregs.cr4 = 1 << 5;            /* PAE */
    sregs.cr0 = 0x80050033;        /* PG AM WP NE ET MP PE */
    sregs.efer = 1 << 8 | 1 << 10; /* LME LMA */
    if (ioctl(vcpu_fd, KVM_SET_SREGS, &sregs))
        fail("KVM_SET_SREGS: %s", strerror(errno));
    if (ioctl(vcpu_fd, KVM_SET_MP_STATE, &state))
        fail("KVM_SET_MP_STATE: %s", strerror(errno));
    arch_set_doorbell(vcpu_fd, interrupts);
}

void arch_set_doorbell(int vcpu_fd, bool interrupts) {
    struct kvm_regs regs = {.rip = guest_address(guest_doorbell), .rflags = flags(interrupts), .r13 = DOORBELL_GPA};
    set_registers(vcpu_fd, &regs);
}

void arch_set_pass(int vcpu_fd, bool interrupts, const struct share *share, uint64_t chunk, uint64_t next_chunk) {
    const struct touch_order *order = &share->order;
    struct kvm_regs regs = {
        .rip = guest_address(guest_code),
        .rflags = flags(interrupts),
        .r11 = order->state,
        .r9 = order->multiplier,
        .r10 = order->increment,
        .r8 = order->mask,
        .rcx = order->shift,
        .rbx = share->pages,
        .rdx = share->stride,
        .rsi = DATA_GPA + share->first_page * PAGE_SIZE,
        .rbp = chunk,
        .r12 = next_chunk,
        .r13 = DOORBELL_GPA,
    };
    set_registers(vcpu_fd, &regs);
}

uint64_t arch_touches(int vcpu_fd) {
    struct kvm_regs regs = get_registers(vcpu_fd);
    return regs.r14 + (regs.rip == guest_address(guest_touched));
}

uint64_t arch_touch_gpa(int vcpu_fd) { return get_registers(vcpu_fd).rdi; }

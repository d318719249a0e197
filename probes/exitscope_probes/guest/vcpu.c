/* One vCPU: its KVM_RUN loop, and what to do when that returns. */
#define _GNU_SOURCE
#include "arch.h"
#include "common.h"
#include "vm.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* Not in the headers of Linux < 6.8; include/uapi/linux/kvm.h since. */
#define EXIT_MEMORY_FAULT 39
struct memory_fault {
    uint64_t flags, gpa, size;
};

/* So many -EFAULT on one page in a row mean that filling it does not help. */
#define MAX_ATTEMPTS 10

/* The hva that UFFDIO_POISON has marked and this vCPU's guest has touched; 0: none. */
static _Thread_local volatile uintptr_t poisoned_hva;

static void note_poison(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    poisoned_hva = (uintptr_t)info->si_addr;
}

void vcpu_catch_poison(void) {
    struct sigaction action = {.sa_sigaction = note_poison, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
}

enum outcome { OUTCOME_DOORBELL, OUTCOME_FAULT, OUTCOME_INTERRUPTED };

static enum outcome run(struct vcpu *vcpu) {
    struct kvm_run *run = vcpu->run;

    run->exit_reason = KVM_EXIT_UNKNOWN; /* on -EFAULT, older kernels leave the last one standing */
    if (ioctl(vcpu->fd, KVM_RUN, 0)) {
        if (errno == EINTR)
            return OUTCOME_INTERRUPTED;
        if (errno == EFAULT && vcpu->vm->options->mode >= MODE_EXIT)
            return OUTCOME_FAULT;
        fail("vCPU %d: KVM_RUN: %s (exit reason %u)", vcpu->index, strerror(errno), run->exit_reason);
    }
    if (run->exit_reason == KVM_EXIT_MMIO && run->mmio.phys_addr == DOORBELL_GPA) {
        vcpu->doorbell_unfinished = true;
        return OUTCOME_DOORBELL;
    }
    fail("vCPU %d: KVM_RUN ended with exit reason %u, which this guest never asks for", vcpu->index, run->exit_reason);
}

/* KVM ends an MMIO access on the next KVM_RUN (Documentation/virt/kvm/api.rst): enter it, but run no guest
 * code. */
static void finish_doorbell(struct vcpu *vcpu) {
    if (!vcpu->doorbell_unfinished)
        return;
    vcpu->run->immediate_exit = 1;
    if (ioctl(vcpu->fd, KVM_RUN, 0) != -1 || errno != EINTR)
        fail("vCPU %d: KVM_RUN with immediate_exit: %s", vcpu->index, strerror(errno));
    vcpu->run->immediate_exit = stopping;
    vcpu->doorbell_unfinished = false;
}

void vcpu_create(struct vcpu *vcpu) {
    struct vm *vm = vcpu->vm;
    int run_size = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);

    vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)vcpu->index);
    if (vcpu->fd < 0)
        fail("KVM_CREATE_VCPU %d: %s: use fewer --vcpus", vcpu->index, strerror(errno));
    vcpu->run = mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (vcpu->run == MAP_FAILED)
        fail("vCPU %d: cannot map its kvm_run: %s", vcpu->index, strerror(errno));
    vcpu->scratch = scratch_create(vm->options);
    arch_vcpu_init(vm->kvm_fd, vcpu->fd, vm->options->async);
    /* Code, page tables and MMIO are mapped from here on: a pass faults on its own pages only. */
    while (run(vcpu) != OUTCOME_DOORBELL)
        ;
    finish_doorbell(vcpu);
}

static uint64_t faulting_page(const struct vcpu *vcpu) {
    struct memory_fault fault;
    uint64_t gpa, page;

    memcpy(&fault, &vcpu->run->hw, sizeof fault); /* any member of the union: its start */
    gpa = vcpu->run->exit_reason == EXIT_MEMORY_FAULT ? fault.gpa : arch_touch_gpa(vcpu->fd);
    page = (gpa - DATA_GPA) / PAGE_SIZE;
    if (gpa < DATA_GPA || page >= vcpu->vm->paging->memory->pages)
        fail("vCPU %d: KVM_RUN: EFAULT at gpa 0x%lx, which is not paged on demand", vcpu->index, gpa);
    return page;
}

struct attempts {
    uint64_t page, count;
};

static void resolve(struct vcpu *vcpu, struct attempts *attempts) {
    uint64_t page = faulting_page(vcpu);

    attempts->count = page == attempts->page ? attempts->count + 1 : 1;
    attempts->page = page;
    if (attempts->count > MAX_ATTEMPTS)
        fail("vCPU %d: page %lu still faults after %d fills: this kernel does not let exit mode make progress",
             vcpu->index, page, MAX_ATTEMPTS);
    paging_count_fault(vcpu->vm->paging, page);
    delay_wait(&vcpu->delay);
    vcpu->filled += paging_fill(vcpu->vm->paging, page, FILL_DEMAND, vcpu->scratch);
}

/* As a VMM would put in a page that it finds broken. */
static void repair_poisoned(struct vcpu *vcpu) {
    uintptr_t hva = poisoned_hva;

    if (!hva)
        return;
    poisoned_hva = 0;
    paging_repair(vcpu->vm->paging, (hva - (uintptr_t)vcpu->vm->paging->memory->hva) / PAGE_SIZE, vcpu->scratch);
}

/* --vcpu-touch: `pages` of this thread's own pages, in userspace. */
static void emulate_device(struct vcpu *vcpu, uint64_t first, uint64_t pages) {
    uint64_t page = first_device_page(vcpu->vm->options, (uint64_t)vcpu->index) + first;

    for (uint64_t i = 0; i < pages && !stopping; i++) {
        memory_touch(vcpu->vm->paging->memory, page + i);
        vcpu->device_touches++;
    }
}

/* What a vCPU does between two chunks; the time is not the guest's. */
static void pause_between_chunks(struct vcpu *vcpu, enum pass pass, uint64_t touches) {
    uint64_t begin_ns = now_ns();

    if (pass == PASS_DEMAND && touches >= vcpu->share.pages - vcpu->share.prefilled)
        prefill_wait(vcpu->vm->prefill);
    if (vcpu->vm->options->think_ns && touches)
        sleep_ns(vcpu->vm->options->think_ns);
    vcpu->pause_ns[pass] += now_ns() - begin_ns;
}

/* A pass is a sequence of chunks, each ended by a doorbell: one chunk of all pages; or two, the pages left to
 * demand and those filled in the background; or, with --think-us or --vcpu-touch, as many as there are touches. */
void vcpu_run_pass(struct vcpu *vcpu, enum pass pass) {
    const struct share *share = &vcpu->share;
    uint64_t demand = pass == PASS_DEMAND ? share->pages - share->prefilled : share->pages;
    uint64_t chunk = demand ? demand : share->pages, next_chunk = share->pages - demand, touches = 0;
    uint64_t device = pass == PASS_DEMAND ? vcpu->vm->options->vcpu_touch : 0, device_done = 0;
    struct attempts attempts = {.page = UINT64_MAX};
    uint64_t begin_ns = now_ns(), paused_ns = vcpu->pause_ns[pass];

    if (vcpu->vm->options->think_ns || device)
        chunk = next_chunk = 1;
    arch_set_pass(vcpu->fd, vcpu->vm->options->async, share, chunk, next_chunk);
    if (!demand)
        pause_between_chunks(vcpu, pass, 0);
    while (touches < share->pages) {
        enum outcome outcome = run(vcpu);
        if (outcome == OUTCOME_FAULT)
            resolve(vcpu, &attempts);
        repair_poisoned(vcpu);
        if (outcome == OUTCOME_DOORBELL) {
            if (device_done < device)
                emulate_device(vcpu, device_done++, 1);
            touches += chunk;
            chunk = next_chunk;
            if (touches < share->pages)
                pause_between_chunks(vcpu, pass, touches);
        }
        if (stopping && touches < share->pages) {
            finish_doorbell(vcpu);
            touches = arch_touches(vcpu->fd);
            break;
        }
    }
    finish_doorbell(vcpu);
    emulate_device(vcpu, device_done, device - device_done);
    vcpu->run_ns[pass] += now_ns() - begin_ns - (vcpu->pause_ns[pass] - paused_ns);
    if (pass == PASS_DEMAND)
        vcpu->touches += touches;
}

#define _GNU_SOURCE
#include "vm.h"
#include "arch.h"
#include "common.h"
#include "gmem.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CONTROL_SLOT, DATA_SLOT };

static int open_kvm(void) {
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0 && (errno == EACCES || errno == EPERM))
        fail("/dev/kvm: not permitted: run as root, or join the group kvm");
    if (fd < 0)
        fail("/dev/kvm: %s: load kvm_intel or kvm_amd; within a VM, turn nested virtualisation on", strerror(errno));
    if (ioctl(fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        fail("/dev/kvm speaks another API version than %d", KVM_API_VERSION);
    return fd;
}

static void add_memslot(int vm_fd, unsigned slot, uint64_t gpa, const uint8_t *hva, uint64_t size) {
    struct kvm_userspace_memory_region region = {
        .slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)hva};
    if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region))
        fail("KVM_SET_USER_MEMORY_REGION of %lu pages: %s", size / PAGE_SIZE, strerror(errno));
}

static void end_pass(struct vm *vm) {
    pthread_mutex_lock(&vm->lock);
    if (!--vm->running)
        eventfd_write(vm->idle_fd, 1);
    pthread_mutex_unlock(&vm->lock);
}

/* False when there will be no further pass. */
static bool await_pass(struct vm *vm, uint64_t passes_done) {
    pthread_mutex_lock(&vm->lock);
    while (!vm->quit && vm->passes == passes_done)
        pthread_cond_wait(&vm->started, &vm->lock);
    bool quit = vm->quit;
    pthread_mutex_unlock(&vm->lock);
    return !quit;
}

static void *vcpu_main(void *argument) {
    struct vcpu *vcpu = argument;
    char name[16];

    snprintf(name, sizeof name, "CPU %d/KVM", vcpu->index);
    pthread_setname_np(pthread_self(), name);
    vcpu->tid = gettid();
    vcpu_create(vcpu);
    end_pass(vcpu->vm);
    for (uint64_t passes_done = 0; await_pass(vcpu->vm, passes_done); passes_done++) {
        vcpu_run_pass(vcpu, vcpu->vm->pass);
        end_pass(vcpu->vm);
    }
    return NULL;
}

static void *vmm_main(void *argument) {
    struct vm *vm = argument;
    uint64_t first = first_vmm_page(vm->options);

    pthread_setname_np(pthread_self(), "vmm-io");
    vm->vmm.tid = gettid();
    end_pass(vm);
    for (uint64_t passes_done = 0; await_pass(vm, passes_done); passes_done++) {
        for (uint64_t i = 0; vm->pass == PASS_DEMAND && !stopping && i < vm->options->vmm_touch; i++) {
            memory_touch(vm->paging->memory, first + i);
            vm->vmm.touches++;
        }
        end_pass(vm);
    }
    return NULL;
}

static uint64_t threads_of(const struct options *options) { return options->vcpus + !!options->vmm_touch; }

static void await_idle(struct vm *vm) {
    eventfd_t value;
    while (eventfd_read(vm->idle_fd, &value) && errno == EINTR)
        ;
}

void vm_create(struct vm *vm, const struct options *options, struct paging *paging, struct prefill *prefill) {
    const struct memory *memory = paging->memory;
    uint64_t control_size = arch_control_size();
    uint8_t *control = mmap(NULL, control_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    *vm = (struct vm){.options = options, .paging = paging, .prefill = prefill, .running = threads_of(options)};
    pthread_mutex_init(&vm->lock, NULL);
    pthread_cond_init(&vm->started, NULL);
    vm->idle_fd = eventfd(0, EFD_CLOEXEC);
    vm->vcpu = zalloc(options->vcpus, sizeof *vm->vcpu);
    if (control == MAP_FAILED)
        fail("out of memory for the guest's page tables");
    arch_control_init(control);

    vm->kvm_fd = open_kvm();
    vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
    if (vm->fd < 0)
        fail("KVM_CREATE_VM: %s", strerror(errno));
    arch_vm_init(vm->fd);
    add_memslot(vm->fd, CONTROL_SLOT, CONTROL_GPA, control, control_size);
    paging->vm_fd = vm->fd;
    if (options->mode == MODE_MEMORY_FAULT) {
        gmem_require(vm->kvm_fd);
        for (uint64_t page = 0; page < memory->pages; page++)
            gmem_add(vm->fd, memory, page);
    } else {
        add_memslot(vm->fd, DATA_SLOT, DATA_GPA, memory->hva, memory->length);
    }

    for (uint64_t i = 0; i < options->vcpus; i++) {
        struct vcpu *vcpu = &vm->vcpu[i];
        *vcpu = (struct vcpu){
            .vm = vm, .index = (int)i, .share = share_of_vcpu(options, i), .delay = delay_create(options, i)};
        if (pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu))
            fail("cannot create the thread of vCPU %lu: raise the limit of processes, or use fewer --vcpus", i);
    }
    if (options->vmm_touch && pthread_create(&vm->vmm.thread, NULL, vmm_main, vm))
        fail("cannot create the VMM thread: raise the limit of processes");
    await_idle(vm);
}

void vm_start_pass(struct vm *vm, enum pass pass) {
    pthread_mutex_lock(&vm->lock);
    vm->pass = pass;
    vm->running = threads_of(vm->options);
    vm->passes++;
    pthread_cond_broadcast(&vm->started);
    pthread_mutex_unlock(&vm->lock);
}

void vm_kick(struct vm *vm) {
    for (uint64_t i = 0; i < vm->options->vcpus; i++) {
        *(volatile uint8_t *)&vm->vcpu[i].run->immediate_exit = 1;
        pthread_kill(vm->vcpu[i].thread, KICK_SIGNAL);
    }
}

void vm_stop(struct vm *vm) {
    pthread_mutex_lock(&vm->lock);
    vm->quit = true;
    pthread_cond_broadcast(&vm->started);
    pthread_mutex_unlock(&vm->lock);
    for (uint64_t i = 0; i < vm->options->vcpus; i++)
        pthread_join(vm->vcpu[i].thread, NULL);
    if (vm->options->vmm_touch)
        pthread_join(vm->vmm.thread, NULL);
}

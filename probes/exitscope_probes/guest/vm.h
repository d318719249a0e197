/* The VM and its vCPU threads. */
#ifndef EXITSCOPE_GUEST_VM_H
#define EXITSCOPE_GUEST_VM_H

#include "handler.h"
#include "order.h"

#include <linux/kvm.h>
#include <pthread.h>

struct vm;

enum pass { PASS_DEMAND, PASS_FAULT_FREE };

struct vcpu {
    struct vm *vm;
    int index, tid, fd;
    struct kvm_run *run;
    pthread_t thread;
    struct share share;
    struct delay delay;
    uint8_t *scratch;
    bool doorbell_unfinished; /* KVM_EXIT_MMIO came and KVM_RUN has not been entered since */
    uint64_t filled;          /* exit mode: pages this thread made present */
    uint64_t touches;         /* in demand passes */
    uint64_t device_touches;  /* --vcpu-touch: by this thread in userspace */
    uint64_t run_ns[2];       /* time in passes, by kind, without the pauses */
    uint64_t pause_ns[2];     /* --think-us, and waiting for the background fill */
};

/* The VMM's own thread, which touches guest memory (--vmm-touch). */
struct vmm {
    pthread_t thread;
    int tid;
    uint64_t touches;
};

struct vm {
    const struct options *options;
    struct paging *paging;
    struct prefill *prefill;
    int kvm_fd, fd;
    struct vcpu *vcpu;
    struct vmm vmm;
    /* One pass at a time: the main thread raises `passes`, every vCPU thread (and the VMM thread) does it and counts
     * down `running`. */
    pthread_mutex_t lock;
    pthread_cond_t started;
    enum pass pass;
    uint64_t passes, running;
    bool quit;
    int idle_fd; /* eventfd, readable when `running` has come down to 0 */
};

/* Creates VM and vCPU threads; returns when each vCPU has been in KVM_RUN once. */
void vm_create(struct vm *vm, const struct options *options, struct paging *paging, struct prefill *prefill);

/* Starts a pass on all vCPUs. idle_fd becomes readable when all have ended it. */
void vm_start_pass(struct vm *vm, enum pass pass);

/* Gets all vCPU threads out of KVM_RUN and of sleeps. `stopping` must be set, and a thread may be between its
 * test of that and the sleep: call it again until idle_fd is readable. */
void vm_kick(struct vm *vm);

/* Ends and joins the vCPU threads, which must be idle. */
void vm_stop(struct vm *vm);

/* vcpu.c: does one pass, and the first KVM_RUN. */
void vcpu_run_pass(struct vcpu *vcpu, enum pass pass);
void vcpu_create(struct vcpu *vcpu);

/* For --resolver poison: SIGBUS is noted, and its page repaired by the vCPU thread. */
void vcpu_catch_poison(void);

#endif

/* What depends on the processor: the guest's code, its page tables, its registers. */
#ifndef EXITSCOPE_GUEST_ARCH_H
#define EXITSCOPE_GUEST_ARCH_H

#include "order.h"

/* The guest's physical addresses. */
#define CONTROL_GPA 0UL           /* code and page tables: a memslot that is always present */
#define DOORBELL_GPA 0xd0000000UL /* no memslot: a store here leaves KVM_RUN with KVM_EXIT_MMIO */
#define DATA_GPA 0x100000000UL    /* the memory paged on demand */

uint64_t arch_control_size(void);

/* Writes code and page tables to the control memory (zeroed). */
void arch_control_init(uint8_t *control);

void arch_vm_init(int vm_fd);

/* Puts the vCPU in the state in which it can run the guest's code; interrupts: let KVM use async page
 * faults. */
void arch_vcpu_init(int kvm_fd, int vcpu_fd, bool interrupts);

/* The next KVM_RUN rings the doorbell and does nothing else. */
void arch_set_doorbell(int vcpu_fd, bool interrupts);

/* The next KVM_RUN touches the pages of `share` in its order and rings the doorbell after `chunk` touches and
 * then after every `next_chunk`. */
void arch_set_pass(int vcpu_fd, bool interrupts, const struct share *share, uint64_t chunk, uint64_t next_chunk);

/* Touches so far in this pass, of a vCPU out of KVM_RUN. */
uint64_t arch_touches(int vcpu_fd);

/* The address of the touch that made KVM_RUN fail: a bare -EFAULT does not say it. */
uint64_t arch_touch_gpa(int vcpu_fd);

#endif

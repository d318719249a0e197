/* Mode memory_fault: each page of guest memory is a memslot on a guest_memfd of its own.
 *
 * A guest_memfd that has been closed leaves its memslot without pages (virt/kvm/guest_memfd.c, kvm_gmem_release): the
 * guest's access ends KVM_RUN with -EFAULT and KVM_EXIT_MEMORY_FAULT. A new guest_memfd in that memslot resolves it.
 * Needs guest_memfds that can be mapped and hold shared memory: Linux 6.18, KVM_CAP_GUEST_MEMFD_FLAGS. */
#ifndef EXITSCOPE_GUEST_GMEM_H
#define EXITSCOPE_GUEST_GMEM_H

#include "memory.h"

/* Ends the process if this kernel cannot do it. */
void gmem_require(int kvm_fd);

/* The memslot of `page`, on a guest_memfd that is closed already. */
void gmem_add(int vm_fd, const struct memory *memory, uint64_t page);

/* Gives the memslot of `page` memory with its pattern, mapped at the page's hva. */
void gmem_fill(int vm_fd, const struct memory *memory, uint64_t page);

#endif

#define _GNU_SOURCE
#include "paging.h"
#include "common.h"
#include "order.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int open_uffd(void) {
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
#ifdef USERFAULTFD_IOC_NEW /* Linux 6.1: the right comes from the permissions of a device file */
    if (uffd < 0 && errno == EPERM) {
        int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
        if (device >= 0) {
            uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
            close(device);
        } else {
            errno = EPERM;
        }
    }
#endif
    if (uffd < 0 && errno == EPERM)
        fail("userfaultfd: not permitted: run as root, or set the sysctl vm.unprivileged_userfaultfd to 1");
    if (uffd < 0)
        fail("userfaultfd: %s: this kernel needs CONFIG_USERFAULTFD", strerror(errno));
    return uffd;
}

void paging_create(struct paging *paging, const struct options *options, struct memory *memory) {
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.range = {.start = (uintptr_t)memory->hva, .len = memory->length}};
    bool minor = options->fault == FAULT_MINOR;

    *paging = (struct paging){.options = options, .memory = memory, .uffd = -1};
    paging->faulted = zalloc(memory->pages, 1);
    paging->counts = aligned_alloc(sizeof *paging->counts, options->vcpus * sizeof *paging->counts);
    if (!paging->counts)
        fail("out of memory: use fewer --vcpus");
    memset((void *)paging->counts, 0, options->vcpus * sizeof *paging->counts);
    if (options->mode == MODE_NONE)
        return;

    if (options->mode == MODE_EXIT)
        api.features |= UFFD_FEATURE_SIGBUS;
    if (options->thread_id)
        api.features |= UFFD_FEATURE_THREAD_ID;
    if (minor)
        api.features |= UFFD_FEATURE_MINOR_SHMEM;
    paging->uffd = open_uffd();
    if (ioctl(paging->uffd, UFFDIO_API, &api))
        fail("this kernel's userfaultfd lacks a feature asked for (%s): try --fault missing, without "
             "--thread-id",
             strerror(errno));
    range.mode = minor ? UFFDIO_REGISTER_MODE_MINOR : UFFDIO_REGISTER_MODE_MISSING;
    if (ioctl(paging->uffd, UFFDIO_REGISTER, &range))
        fail("UFFDIO_REGISTER of %s memory for %s faults: %s", backing_name(options->backing),
             fault_name(options->fault), strerror(errno));
}

void paging_count_fault(struct paging *paging, uint64_t page) {
    struct fault_counts *counts = &paging->counts[vcpu_of_page(paging->options, page)];
    bool again = atomic_exchange_explicit(&paging->faulted[page], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(again ? &counts->repeats : &counts->faults, 1, memory_order_relaxed);
}

uint8_t *paging_scratch(void) {
    uint8_t *scratch = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
    if (!scratch)
        fail("out of memory: use fewer --vcpus");
    memset(scratch, 0, PAGE_SIZE);
    return scratch;
}

static int fill_page(struct paging *paging, uint64_t page, uint8_t *scratch) {
    uint64_t hva = (uintptr_t)paging->memory->hva + page * PAGE_SIZE;

    if (paging->options->fault == FAULT_MINOR) {
        struct uffdio_continue fill = {.range = {.start = hva, .len = PAGE_SIZE}};
        return ioctl(paging->uffd, UFFDIO_CONTINUE, &fill);
    }
    memory_pattern(scratch, page);
    struct uffdio_copy fill = {.dst = hva, .src = (uintptr_t)scratch, .len = PAGE_SIZE};
    return ioctl(paging->uffd, UFFDIO_COPY, &fill);
}

bool paging_fill(struct paging *paging, uint64_t page, enum fill kind, uint8_t *scratch) {
    int error;

    do
        error = fill_page(paging, page, scratch) ? errno : 0;
    while (error == EAGAIN); /* the address space was changing */
    if (error == EEXIST) {
        /* Whoever filled it woke the waiters of that moment; one may have come after. */
        struct uffdio_range range = {.start = (uintptr_t)paging->memory->hva + page * PAGE_SIZE, .len = PAGE_SIZE};
        ioctl(paging->uffd, UFFDIO_WAKE, &range);
        paging->present_already++;
        return false;
    }
    if (error)
        fail("UFFDIO_%s of page %lu: %s", paging_resolver(paging), page, strerror(error));
    atomic_fetch_add_explicit(kind == FILL_DEMAND ? &paging->demand_fills : &paging->background_fills, 1,
                              memory_order_relaxed);
    return true;
}

const char *paging_resolver(const struct paging *paging) {
    if (paging->options->mode == MODE_NONE)
        return NULL;
    return paging->options->fault == FAULT_MINOR ? "CONTINUE" : "COPY";
}

void paging_drop(struct paging *paging) {
    memory_drop(paging->memory);
    memset((void *)paging->faulted, 0, paging->memory->pages);
}

void paging_close(struct paging *paging) {
    if (paging->uffd >= 0)
        close(paging->uffd);
    paging->uffd = -1;
}

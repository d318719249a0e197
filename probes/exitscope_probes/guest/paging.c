#define _GNU_SOURCE
#include "paging.h"
#include "common.h"
#include "gmem.h"
#include "order.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
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

/* States of a range that is filled as one. */
enum { RANGE_MISSING, RANGE_CLAIMED, RANGE_PRESENT };

static void register_memory(const struct paging *paging) {
    const struct memory *memory = paging->memory;
    bool minor = paging->options->fault == FAULT_MINOR;
    struct uffdio_register range = {.range = {.start = (uintptr_t)memory->hva, .len = memory->length},
                                    .mode = minor ? UFFDIO_REGISTER_MODE_MINOR : UFFDIO_REGISTER_MODE_MISSING};

    if (ioctl(paging->uffd, UFFDIO_REGISTER, &range))
        fail("UFFDIO_REGISTER of %s memory for %s faults: %s", backing_name(paging->options->backing),
             fault_name(paging->options->fault), strerror(errno));
}

static uint64_t ranges_of(const struct paging *paging) {
    uint64_t each = paging->options->fill_pages;
    return (paging->memory->pages + each - 1) / each;
}

static void create_counts(struct paging *paging) {
    uint64_t size = (2 * paging->options->vcpus + 1) * sizeof *paging->counts;

    paging->faulted = zalloc(paging->memory->pages, 1);
    if (paging->options->fill_pages > 1)
        paging->ranges = zalloc(ranges_of(paging), 1);
    paging->counts = aligned_alloc(sizeof *paging->counts, size);
    if (!paging->counts)
        fail("out of memory: use fewer --vcpus");
    memset((void *)paging->counts, 0, size);
}

void paging_create(struct paging *paging, const struct options *options, struct memory *memory) {
    struct uffdio_api api = {.api = UFFD_API, .features = resolver_features(options)};

    *paging = (struct paging){.options = options, .memory = memory, .uffd = -1, .vm_fd = -1};
    create_counts(paging);
    if (options->mode == MODE_NONE || options->mode == MODE_MEMORY_FAULT)
        return;
    if (options->mode == MODE_EXIT)
        api.features |= UFFD_FEATURE_SIGBUS;
    if (options->thread_id)
        api.features |= UFFD_FEATURE_THREAD_ID;
    if (options->fault == FAULT_MINOR)
        api.features |= UFFD_FEATURE_MINOR_SHMEM;
    paging->uffd = open_uffd();
    if (ioctl(paging->uffd, UFFDIO_API, &api))
        fail("this kernel's userfaultfd lacks a feature asked for (%s): try --fault missing, without "
             "--thread-id and --resolver",
             strerror(errno));
    register_memory(paging);
}

struct fault_counts *counts_of_vcpu(const struct paging *paging, uint64_t vcpu) {
    return &paging->counts[vcpu];
}

struct fault_counts *counts_of_device(const struct paging *paging, uint64_t vcpu) {
    return &paging->counts[paging->options->vcpus + vcpu];
}

struct fault_counts *counts_of_vmm(const struct paging *paging) {
    return &paging->counts[2 * paging->options->vcpus];
}

static struct fault_counts *counts_of_page(const struct paging *paging, uint64_t page) {
    const struct options *options = paging->options;
    uint64_t first_device = first_device_page(options, 0);

    if (page < options->pages)
        return counts_of_vcpu(paging, vcpu_of_page(options, page));
    if (page < first_device)
        return counts_of_vmm(paging);
    return counts_of_device(paging, (page - first_device) / options->vcpu_touch);
}

void paging_count_fault(struct paging *paging, uint64_t page) {
    struct fault_counts *counts = counts_of_page(paging, page);
    bool again = atomic_exchange_explicit(&paging->faulted[page], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(again ? &counts->repeats : &counts->faults, 1, memory_order_relaxed);
}

static bool wake(struct paging *paging, uint64_t page) {
    /* Whoever filled it woke the waiters of that moment; one may have come after. */
    struct uffdio_range range = {.start = (uintptr_t)paging->memory->hva + page * PAGE_SIZE, .len = PAGE_SIZE};
    ioctl(paging->uffd, UFFDIO_WAKE, &range);
    paging->present_already++;
    return false;
}

/* With --fill-pages, whether the range is ours to fill; if not, it is present when this returns. */
static bool claim_range(struct paging *paging, uint64_t range) {
    uint8_t expected = RANGE_MISSING;

    if (!paging->ranges || atomic_compare_exchange_strong(&paging->ranges[range], &expected, RANGE_CLAIMED))
        return true;
    while (paging->ranges[range] != RANGE_PRESENT)
        sched_yield();
    return false;
}

bool paging_fill(struct paging *paging, uint64_t page, enum fill kind, uint8_t *scratch) {
    uint64_t each = paging->options->fill_pages, range = page / each, first = range * each;
    uint64_t pages = first + each <= paging->memory->pages ? each : paging->memory->pages - first;
    enum resolver resolver = paging->options->resolver;
    int error = 0;

    if (!claim_range(paging, range))
        return false;
    if (paging->options->mode == MODE_MEMORY_FAULT)
        gmem_fill(paging->vm_fd, paging->memory, page);
    else
        error = resolver_fill(paging->memory, resolver, paging->uffd, first, pages, scratch);
    if (error == EEXIST)
        return wake(paging, page);
    if (error)
        fail("%s of page %lu: %s", resolver_name(resolver), page, strerror(error));
    if (paging->ranges)
        paging->ranges[range] = RANGE_PRESENT;
    atomic_fetch_add_explicit(kind == FILL_DEMAND ? &paging->demand_fills : &paging->background_fills, 1,
                              memory_order_relaxed);
    return true;
}

void paging_repair(struct paging *paging, uint64_t page, uint8_t *scratch) {
    int error = resolver_fill(paging->memory, RESOLVER_COPY, paging->uffd, page, 1, scratch);
    if (error)
        fail("UFFDIO_COPY of poisoned page %lu: %s", page, strerror(error));
    paging->repaired++;
}

void paging_drop(struct paging *paging) {
    memory_drop(paging->memory);
    memset((void *)paging->faulted, 0, paging->memory->pages);
    if (paging->ranges)
        memset((void *)paging->ranges, 0, ranges_of(paging));
    if (paging->options->resolver == RESOLVER_POPULATE)
        register_memory(paging);
}

void paging_close(struct paging *paging) {
    if (paging->uffd >= 0)
        close(paging->uffd);
    paging->uffd = -1;
}

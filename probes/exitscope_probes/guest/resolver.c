#define _GNU_SOURCE
#include "resolver.h"
#include "common.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* include/uapi/linux/userfaultfd.h since Linux 6.6 (poison) and 6.8 (move); not in the headers of older ones. */
struct poison_request {
    struct uffdio_range range;
    uint64_t mode;
    int64_t updated;
};
struct move_request {
    uint64_t dst, src, len, mode;
    int64_t moved;
};
#define IOCTL_MOVE _IOWR(UFFDIO, 0x05, struct move_request)
#define IOCTL_POISON _IOWR(UFFDIO, 0x08, struct poison_request)
#define FEATURE_POISON (1UL << 14)
#define FEATURE_MOVE (1UL << 16)

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* include/uapi/asm-generic/mman-common.h since Linux 5.14 */
#endif

uint8_t *scratch_create(const struct options *options) {
    uint64_t size = options->fill_pages * PAGE_SIZE;
    uint8_t *scratch = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (scratch == MAP_FAILED)
        fail("out of memory: use fewer --vcpus");
    return scratch;
}

void scratch_free(const struct options *options, uint8_t *scratch) { munmap(scratch, options->fill_pages * PAGE_SIZE); }

uint64_t resolver_features(const struct options *options) {
    if (options->resolver == RESOLVER_MOVE)
        return FEATURE_MOVE;
    return options->resolver == RESOLVER_POISON ? FEATURE_POISON : 0;
}

/* One ioctl; *done: bytes that it did before it failed, if any. Returns 0 or an errno. */
static int fill_once(enum resolver resolver, int uffd, uint64_t hva, uint64_t length, uint64_t source, int64_t *done) {
    struct uffdio_range range = {.start = hva, .len = length};
    int failed;

    if (resolver == RESOLVER_CONTINUE) {
        struct uffdio_continue fill = {.range = range};
        failed = ioctl(uffd, UFFDIO_CONTINUE, &fill);
        *done = fill.mapped;
    } else if (resolver == RESOLVER_ZEROPAGE) {
        struct uffdio_zeropage fill = {.range = range};
        failed = ioctl(uffd, UFFDIO_ZEROPAGE, &fill);
        *done = fill.zeropage;
    } else if (resolver == RESOLVER_POISON) {
        struct poison_request fill = {.range = range};
        failed = ioctl(uffd, IOCTL_POISON, &fill);
        *done = fill.updated;
    } else if (resolver == RESOLVER_MOVE) {
        struct move_request fill = {.dst = hva, .src = source, .len = length};
        failed = ioctl(uffd, IOCTL_MOVE, &fill);
        *done = fill.moved;
    } else {
        struct uffdio_copy fill = {.dst = hva, .src = source, .len = length};
        failed = ioctl(uffd, UFFDIO_COPY, &fill);
        *done = fill.copy;
    }
    return failed ? errno : 0;
}

/* A registered page would be asked of the uffd again, and its SIGBUS ends in EFAULT here, too. */
static int populate(int uffd, uint64_t hva, uint64_t length) {
    struct uffdio_range range = {.start = hva, .len = length};

    if (ioctl(uffd, UFFDIO_UNREGISTER, &range))
        return errno;
    return madvise((void *)(uintptr_t)hva, length, MADV_POPULATE_WRITE) ? errno : 0;
}

int resolver_fill(const struct memory *memory, enum resolver resolver, int uffd, uint64_t page, uint64_t pages,
                  uint8_t *scratch) {
    uint64_t hva = (uintptr_t)memory->hva + page * PAGE_SIZE, source = (uintptr_t)scratch;
    uint64_t left = pages * PAGE_SIZE;
    int64_t done = 0;
    int error;

    if (resolver == RESOLVER_POPULATE)
        return populate(uffd, hva, left);
    if (resolver == RESOLVER_COPY || resolver == RESOLVER_MOVE)
        for (uint64_t i = 0; i < pages; i++)
            memory_pattern(scratch + i * PAGE_SIZE, page + i);
    /* EAGAIN: the address space was changing; the rest is still to do. */
    while ((error = fill_once(resolver, uffd, hva, left, source, &done)) == EAGAIN) {
        uint64_t step = done > 0 ? (uint64_t)done : 0;
        hva += step;
        source += step;
        left -= step;
    }
    return error;
}

#define _GNU_SOURCE
#include "memory.h"
#include "common.h"
#include "order.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE_TAG 0x7067000000000000UL /* "pg": a page of ours, not some other memory */
#define LAST_WORD (PAGE_SIZE / sizeof(uint64_t) - 1)

void memory_pattern(uint8_t *page, uint64_t index) {
    uint64_t *words = (uint64_t *)page;
    words[0] = PAGE_TAG | index;
    words[LAST_WORD] = ~(PAGE_TAG | index);
}

void memory_touch(const struct memory *memory, uint64_t page) {
    __atomic_fetch_add((uint64_t *)(memory->hva + page * PAGE_SIZE), 1, __ATOMIC_RELAXED); /* one instruction */
}

static uint8_t *map(uint64_t length, int flags, int fd) {
    uint8_t *hva = mmap(NULL, length, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd, 0);
    if (hva == MAP_FAILED)
        fail("cannot map %lu pages of guest memory (%s): use fewer --pages", length / PAGE_SIZE, strerror(errno));
    return hva;
}

/* Whether pages come with their pattern, by us or out of the page cache. */
static bool has_pattern(const struct options *options) {
    if (options->fault == FAULT_MINOR || options->mode == MODE_MEMORY_FAULT)
        return true;
    bool zeroes = options->resolver == RESOLVER_ZEROPAGE || options->resolver == RESOLVER_POPULATE;
    return options->mode != MODE_NONE && !zeroes;
}

void memory_create(struct memory *memory, const struct options *options) {
    *memory = (struct memory){.length = pages_in_all(options) * PAGE_SIZE,
                              .pages = pages_in_all(options),
                              .guest_pages = options->pages,
                              .backing = options->backing,
                              .fault = options->fault,
                              .filled = has_pattern(options)};
    if (options->backing != BACKING_SHMEM) { /* guest_memfds are mapped over it, a page each */
        memory->hva = map(memory->length, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    } else {
        int fd = memfd_create("exitscope-guest", MFD_CLOEXEC);
        if (fd < 0 || ftruncate(fd, (off_t)memory->length))
            fail("cannot create %lu pages of shmem (%s): use fewer --pages", memory->pages, strerror(errno));
        memory->hva = map(memory->length, MAP_SHARED, fd);
        if (options->fault == FAULT_MINOR)
            memory->alias = map(memory->length, MAP_SHARED, fd);
        close(fd); /* the mappings keep it */
    }
    /* One fault must be one page; EINVAL means a kernel without huge pages. */
    madvise(memory->hva, memory->length, MADV_NOHUGEPAGE);
    if (memory->alias) {
        madvise(memory->alias, memory->length, MADV_NOHUGEPAGE);
        for (uint64_t page = 0; page < memory->pages; page++)
            memory_pattern(memory->alias + page * PAGE_SIZE, page);
    }
}

void memory_drop(struct memory *memory) {
    bool keeps_page_cache = memory->fault == FAULT_MINOR;
    bool punch = memory->backing == BACKING_SHMEM && !keeps_page_cache;

    if (memory->backing == BACKING_GMEM)
        mmap(memory->hva, memory->length, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0); /* the last reference to each */
    else if (madvise(memory->hva, memory->length, punch ? MADV_REMOVE : MADV_DONTNEED))
        fail("cannot drop the guest memory: madvise: %s", strerror(errno));
    if (!keeps_page_cache)
        memory->touches = memory->userspace_touches = 0;
}

uint64_t memory_wrong_pages(const struct memory *memory) {
    uint64_t wrong = 0;

    for (uint64_t page = 0; page < memory->pages; page++) {
        const uint64_t *words = (const uint64_t *)(memory->hva + page * PAGE_SIZE);
        uint64_t first = memory->filled ? PAGE_TAG | page : 0;
        uint64_t last = memory->filled ? ~first : 0;
        uint64_t touches = page < memory->guest_pages ? memory->touches : memory->userspace_touches;
        wrong += words[0] != first + touches || words[LAST_WORD] != last;
    }
    return wrong;
}

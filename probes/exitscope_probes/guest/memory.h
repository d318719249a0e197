/* The guest memory that is paged on demand: its mapping, its content, dropping it, checking it. */
#ifndef EXITSCOPE_GUEST_MEMORY_H
#define EXITSCOPE_GUEST_MEMORY_H

#include "options.h"

struct memory {
    uint8_t *hva;   /* what the memslot and the uffd cover */
    uint8_t *alias; /* minor faults: a second mapping, which fills the page cache; else NULL */
    uint64_t length;
    uint64_t pages;       /* in all */
    uint64_t guest_pages; /* the first ones, which the guest touches; the others are touched in userspace */
    enum backing backing;
    enum fault fault;
    bool filled;                /* pages come with their pattern (by us), not as zeroes (by the kernel) */
    uint64_t touches;           /* of each page of the guest since it was filled */
    uint64_t userspace_touches; /* of each other page */
};

void memory_create(struct memory *memory, const struct options *options);

/* Writes the pattern of page `index` to `page` (PAGE_SIZE bytes); only its first and last word differ per
 * page. */
void memory_pattern(uint8_t *page, uint64_t index);

/* One access to `page` from userspace, as a device's emulation would make it. */
void memory_touch(const struct memory *memory, uint64_t page);

/* Makes every page fault again. Minor: the page cache keeps the content. */
void memory_drop(struct memory *memory);

/* How many pages differ from pattern + touches. All pages must be present. */
uint64_t memory_wrong_pages(const struct memory *memory);

#endif

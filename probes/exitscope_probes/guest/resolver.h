/* One fill: the call that makes pages present. */
#ifndef EXITSCOPE_GUEST_RESOLVER_H
#define EXITSCOPE_GUEST_RESOLVER_H

#include "memory.h"

/* What a fill needs beside the pages: staging memory of fill_pages pages, which UFFDIO_MOVE takes away and the next
 * fill gets anew. */
uint8_t *scratch_create(const struct options *options);
void scratch_free(const struct options *options, uint8_t *scratch);

/* UFFD_FEATURE_* that the resolver needs. */
uint64_t resolver_features(const struct options *options);

/* Makes `pages` pages from `page` on present and wakes who waits for them. Returns 0 or an errno; EEXIST: the first of
 * them was present. `uffd` must watch the memory; populate takes the pages out of its watch. */
int resolver_fill(const struct memory *memory, enum resolver resolver, int uffd, uint64_t page, uint64_t pages,
                  uint8_t *scratch);

#endif

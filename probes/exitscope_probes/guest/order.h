/* Which pages a vCPU has, and which of them it touches next.
 *
 * The order is the same arithmetic here as in the guest's registers (arch_x86.c).
 *
 * state = (state * multiplier + increment) & mask; page = state ^ (state >> shift); a page >= pages is passed
 * over. With increment odd and multiplier = 1 mod 4 the generator runs through all of 0..mask before it
 * repeats (Hull and Dobell 1962) and the xor-shift is a bijection, so each page comes exactly once; no table
 * in memory is needed, so that a touch is the only data access the guest makes. */
#ifndef EXITSCOPE_GUEST_ORDER_H
#define EXITSCOPE_GUEST_ORDER_H

#include "options.h"

struct touch_order {
    uint64_t state, multiplier, increment, mask, shift;
    uint64_t pages;
};

/* The pages of one vCPU: the first pages % vcpus vCPUs have one more than the others. In one piece, or with
 * --interleave every vcpus-th page (stride). */
struct share {
    uint64_t first_page, stride, pages;
    uint64_t prefilled; /* of these, the last ones in order of touch, which a background thread fills */
    struct touch_order order;
};

struct share share_of_vcpu(const struct options *options, uint64_t vcpu);
uint64_t vcpu_of_page(const struct options *options, uint64_t page);

/* Behind the pages that the guest touches, those of the VMM thread, then those of each vCPU thread. */
uint64_t pages_in_all(const struct options *options);
uint64_t first_vmm_page(const struct options *options);
uint64_t first_device_page(const struct options *options, uint64_t vcpu);

/* Which page the index-th of a share is. */
uint64_t share_page(const struct share *share, uint64_t index);

/* The index of the next page within the share, 0 <= index < pages. */
uint64_t touch_order_next(struct touch_order *order);

#endif

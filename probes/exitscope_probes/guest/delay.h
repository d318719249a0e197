/* The time that a page takes to come over the (pretended) network. */
#ifndef EXITSCOPE_GUEST_DELAY_H
#define EXITSCOPE_GUEST_DELAY_H

#include "options.h"

struct delay {
    enum delay_dist dist;
    uint64_t mean_ns;
    uint64_t random;
};

struct delay delay_create(const struct options *options, uint64_t stream);

/* Sleeps one sample of the distribution. */
void delay_wait(struct delay *delay);

/* Sleeps duration_ns, or less when the guest is stopping. */
void sleep_ns(uint64_t duration_ns);

#endif

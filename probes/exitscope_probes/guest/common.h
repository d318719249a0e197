/* What every part of the guest shares: errors, the clock, random numbers, the wish to stop. */
#ifndef EXITSCOPE_GUEST_COMMON_H
#define EXITSCOPE_GUEST_COMMON_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PAGE_SIZE 4096UL /* the guest's and the host's page on x86-64 */
#define NS_PER_US 1000UL
#define NS_PER_MS 1000000UL
#define NS_PER_S 1000000000UL

/* Sent to a thread to get it out of KVM_RUN or a sleep; its handler does nothing. */
#define KICK_SIGNAL SIGUSR1

/* Set once, on SIGTERM or SIGINT; sleeps and passes end early when they see it. */
extern atomic_bool stopping;

/* One line on stderr, then the whole process ends: status 1 (it failed) or 2 (wrong usage). */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void usage_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

uint64_t now_ns(void); /* CLOCK_MONOTONIC */

/* splitmix64 (Steele, Lea, Flood 2014): small, seedable, good enough for delays and page orders. */
uint64_t random_next(uint64_t *state);

void *zalloc(uint64_t count, uint64_t size); /* calloc that cannot fail */

#endif

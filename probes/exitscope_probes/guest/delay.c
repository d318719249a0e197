#include "delay.h"
#include "common.h"

#include <errno.h>
#include <math.h>
#include <time.h>

struct delay delay_create(const struct options *options, uint64_t stream) {
    uint64_t seed = options->seed ^ stream << 32;
    return (struct delay){.dist = options->delay_dist, .mean_ns = options->delay_ns, .random = random_next(&seed)};
}

void sleep_ns(uint64_t duration_ns) {
    uint64_t until_ns = now_ns() + duration_ns;
    struct timespec until = {.tv_sec = (time_t)(until_ns / NS_PER_S), .tv_nsec = (long)(until_ns % NS_PER_S)};

    while (!stopping && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        ;
}

void delay_wait(struct delay *delay) {
    if (delay->dist == DELAY_NONE || !delay->mean_ns)
        return;
    if (delay->dist == DELAY_FIXED) {
        sleep_ns(delay->mean_ns);
        return;
    }
    /* Inverse transform: 53 random bits as a number in (0, 1]. */
    double uniform = (double)((random_next(&delay->random) >> 11) + 1) * 0x1p-53;
    sleep_ns((uint64_t)(-log(uniform) * (double)delay->mean_ns));
}

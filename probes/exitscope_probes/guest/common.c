#include "common.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

atomic_bool stopping;

static _Noreturn void end(int status, const char *format, va_list arguments) {
    static atomic_flag ended = ATOMIC_FLAG_INIT;
    char line[512];

    if (atomic_flag_test_and_set(&ended))
        for (;;)
            pause(); /* another thread is already saying what went wrong */
    vsnprintf(line, sizeof line, format, arguments);
    fprintf(stderr, "exitscope guest: %s\n", line);
    _exit(status);
}

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    end(1, format, arguments);
}

void usage_error(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    end(2, format, arguments);
}

uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t random_next(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15UL;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9UL;
    z = (z ^ z >> 27) * 0x94d049bb133111ebUL;
    return z ^ z >> 31;
}

void *zalloc(uint64_t count, uint64_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory)
        fail("out of memory: use fewer --pages or --vcpus");
    return memory;
}

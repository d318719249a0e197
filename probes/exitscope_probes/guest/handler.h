/* The threads that fill pages: uffd handlers (mode uffd) and the background thread (--prefill-percent). */
#ifndef EXITSCOPE_GUEST_HANDLER_H
#define EXITSCOPE_GUEST_HANDLER_H

#include "paging.h"

#include <pthread.h>

struct handlers;

struct handler {
    pthread_t thread;
    int tid;
    uint64_t events_read; /* uffd messages */
    uint64_t filled;      /* fills that made a page present */
    struct delay delay;
    struct handlers *crew;
};

struct handlers {
    struct paging *paging;
    const struct options *options;
    uint64_t count;
    bool joined;
    int quit_fd;                  /* eventfd, readable when all handlers must end */
    _Atomic uint64_t fills_begun; /* for --kill-handlers-after */
    struct handler *handler;
};

/* Starts the handler threads; none but in mode uffd. */
void handlers_start(struct handlers *handlers, const struct options *options, struct paging *paging);

/* Ends and joins them. May be called again. */
void handlers_stop(struct handlers *handlers);

/* The background thread of one round. */
struct prefill {
    struct paging *paging;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t finished;
    bool is_finished;
};

void prefill_init(struct prefill *prefill, struct paging *paging);

/* Does nothing without --prefill-percent. */
void prefill_start(struct prefill *prefill);

/* By a vCPU thread: until all pages of the round's background fill are there, or we are stopping. */
void prefill_wait(struct prefill *prefill);

void prefill_join(struct prefill *prefill);

#endif

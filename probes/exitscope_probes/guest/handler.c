#define _GNU_SOURCE
#include "handler.h"
#include "common.h"
#include "order.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* With --gather: events are kept until every vCPU waits. */
struct gathered {
    uint64_t count;
    uint64_t hva[MAX_VCPUS];
};

static void ask_all_to_quit(struct handlers *handlers) { eventfd_write(handlers->quit_fd, 1); }

/* Resolves one fault; false when the handler must end. */
static bool resolve(struct handler *handler, uint64_t hva, uint8_t *scratch) {
    struct handlers *crew = handler->crew;
    uint64_t page = (hva - (uintptr_t)crew->paging->memory->hva) / PAGE_SIZE;

    handler->events_read++;
    paging_count_fault(crew->paging, page);
    if (crew->options->hold_fault)
        return true;
    uint64_t fills_before = crew->fills_begun++;
    if (fills_before < crew->options->kill_handlers_after) {
        delay_wait(&handler->delay);
        handler->filled += paging_fill(crew->paging, page, FILL_DEMAND, scratch);
    }
    if (fills_before + 1 < crew->options->kill_handlers_after)
        return true;
    ask_all_to_quit(crew);
    return false;
}

/* Keeps the event, or resolves all when every vCPU waits; false when the handler must end. */
static bool gather(struct handler *handler, struct gathered *gathered, uint64_t hva, uint8_t *scratch) {
    bool alive = true;

    gathered->hva[gathered->count++] = hva;
    if (gathered->count < handler->crew->options->vcpus)
        return true;
    for (uint64_t i = 0; alive && i < gathered->count; i++)
        alive = resolve(handler, gathered->hva[i], scratch);
    gathered->count = 0;
    return alive;
}

static void *handler_main(void *argument) {
    struct handler *handler = argument;
    struct handlers *crew = handler->crew;
    struct pollfd ready[] = {{.fd = crew->paging->uffd, .events = POLLIN}, {.fd = crew->quit_fd, .events = POLLIN}};
    struct uffd_msg *messages = zalloc(crew->options->batch, sizeof *messages);
    uint8_t *scratch = scratch_create(crew->options);
    struct gathered gathered = {.count = 0};
    bool alive = true;

    handler->tid = gettid();
    while (alive) {
        if (poll(ready, 2, -1) < 0 && errno != EINTR)
            fail("poll of the userfaultfd: %s", strerror(errno));
        if (ready[1].revents)
            break;
        ssize_t size = read(ready[0].fd, messages, crew->options->batch * sizeof *messages);
        if (size < 0 && errno != EAGAIN && errno != EINTR) /* EAGAIN: another handler was faster */
            fail("read of the userfaultfd: %s", strerror(errno));
        for (ssize_t i = 0; alive && i < size / (ssize_t)sizeof *messages; i++)
            if (messages[i].event == UFFD_EVENT_PAGEFAULT) {
                uint64_t hva = messages[i].arg.pagefault.address;
                alive =
                    crew->options->gather ? gather(handler, &gathered, hva, scratch) : resolve(handler, hva, scratch);
            }
    }
    scratch_free(crew->options, scratch);
    free(messages);
    return NULL;
}

void handlers_start(struct handlers *handlers, const struct options *options, struct paging *paging) {
    char name[16];

    *handlers = (struct handlers){.paging = paging, .options = options, .joined = true, .quit_fd = -1};
    if (options->mode != MODE_UFFD)
        return;
    handlers->count = options->handlers;
    handlers->joined = false;
    handlers->quit_fd = eventfd(0, EFD_CLOEXEC);
    handlers->handler = zalloc(handlers->count, sizeof *handlers->handler);
    for (uint64_t i = 0; i < handlers->count; i++) {
        struct handler *handler = &handlers->handler[i];
        *handler = (struct handler){.crew = handlers, .delay = delay_create(options, MAX_VCPUS + i)};
        if (pthread_create(&handler->thread, NULL, handler_main, handler))
            fail("cannot create handler thread %lu: raise the limit of processes, or use fewer --handlers", i);
        snprintf(name, sizeof name, "uffd-handler-%lu", i % MAX_HANDLERS);
        pthread_setname_np(handler->thread, name);
    }
}

void handlers_stop(struct handlers *handlers) {
    if (handlers->joined)
        return;
    ask_all_to_quit(handlers);
    for (uint64_t i = 0; i < handlers->count; i++) {
        while (pthread_tryjoin_np(handlers->handler[i].thread, NULL) == EBUSY) {
            if (stopping)
                pthread_kill(handlers->handler[i].thread, KICK_SIGNAL); /* out of its delay */
            nanosleep(&(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
        }
    }
    handlers->joined = true;
}

static void fill_ahead(struct paging *paging, uint8_t *scratch) {
    for (uint64_t vcpu = 0; vcpu < paging->options->vcpus; vcpu++) {
        struct share share = share_of_vcpu(paging->options, vcpu);
        for (uint64_t touch = 0; touch < share.pages; touch++) {
            uint64_t page = share_page(&share, touch_order_next(&share.order));
            if (stopping)
                return;
            if (touch >= share.pages - share.prefilled)
                paging_fill(paging, page, FILL_BACKGROUND, scratch);
        }
    }
}

static void *prefill_main(void *argument) {
    struct prefill *prefill = argument;
    uint8_t *scratch = scratch_create(prefill->paging->options);

    pthread_setname_np(pthread_self(), "prefill");
    fill_ahead(prefill->paging, scratch);
    pthread_mutex_lock(&prefill->lock);
    prefill->is_finished = true;
    pthread_cond_broadcast(&prefill->finished);
    pthread_mutex_unlock(&prefill->lock);
    scratch_free(prefill->paging->options, scratch);
    return NULL;
}

void prefill_init(struct prefill *prefill, struct paging *paging) {
    *prefill = (struct prefill){.paging = paging, .is_finished = true};
    pthread_mutex_init(&prefill->lock, NULL);
    pthread_cond_init(&prefill->finished, NULL);
}

void prefill_start(struct prefill *prefill) {
    if (!prefill->paging->options->prefill_percent)
        return;
    prefill->is_finished = false; /* no vCPU is running yet */
    if (pthread_create(&prefill->thread, NULL, prefill_main, prefill))
        fail("cannot create the prefill thread: raise the limit of processes");
    prefill->started = true;
}

void prefill_wait(struct prefill *prefill) {
    pthread_mutex_lock(&prefill->lock);
    while (!prefill->is_finished)
        pthread_cond_wait(&prefill->finished, &prefill->lock);
    pthread_mutex_unlock(&prefill->lock);
}

void prefill_join(struct prefill *prefill) {
    if (prefill->started)
        pthread_join(prefill->thread, NULL);
    prefill->started = false;
}

/* A real KVM guest that is paged on demand: the workload and the ground truth of exitscope's tests.
 *
 * Each vCPU touches each of its pages exactly once per round, with one read-modify-write instruction and no
 * other data access; what makes the page present, and who does it, is chosen by the options. */
#define _GNU_SOURCE
#include "common.h"
#include "report.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define KICK_INTERVAL_MS 5
#define STOP_PATIENCE_NS (200 * NS_PER_MS) /* after it, waiters that no handler resolves are let go */

struct guest {
    struct options options;
    struct memory memory;
    struct paging paging;
    struct prefill prefill;
    struct handlers handlers;
    struct vm vm;
    struct totals totals;
    int signal_fd;
    uint64_t close_uffd_at_ns; /* NEVER: not wanted, or done */
};

static void do_nothing(int signal) { (void)signal; }

/* SIGTERM and SIGINT arrive at a descriptor; every thread made later inherits that they are blocked. */
static int catch_signals(void) {
    struct sigaction kick = {.sa_handler = do_nothing}; /* no SA_RESTART: it must interrupt */
    sigset_t ends;

    sigaction(KICK_SIGNAL, &kick, NULL);
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    pthread_sigmask(SIG_BLOCK, &ends, NULL);
    return signalfd(-1, &ends, SFD_CLOEXEC);
}

/* Whether a line came on stdin; false on SIGTERM or SIGINT. */
static bool await_start(struct guest *guest) {
    struct pollfd ready[] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = guest->signal_fd, .events = POLLIN}};
    char byte = 0;

    while (byte != '\n') {
        if (poll(ready, 2, -1) < 0 && errno != EINTR)
            fail("poll of stdin: %s", strerror(errno));
        if (ready[1].revents) {
            stopping = true;
            return false;
        }
        if (ready[0].revents && read(STDIN_FILENO, &byte, 1) <= 0)
            fail("stdin ended before the line that --wait-start waits for: write a newline to it");
    }
    return true;
}

static void close_uffd(struct guest *guest) {
    handlers_stop(&guest->handlers);
    paging_close(&guest->paging);
    guest->close_uffd_at_ns = NEVER;
}

/* How long await_pass may sleep; -1: until something happens. */
static int patience_ms(const struct guest *guest) {
    uint64_t now = now_ns();

    if (stopping)
        return KICK_INTERVAL_MS;
    if (guest->close_uffd_at_ns == NEVER)
        return -1;
    return guest->close_uffd_at_ns > now ? (int)((guest->close_uffd_at_ns - now) / NS_PER_MS) + 1 : 0;
}

/* Until all vCPUs have ended the pass, at once after SIGTERM or SIGINT. */
static void await_pass(struct guest *guest) {
    struct pollfd ready[] = {{.fd = guest->vm.idle_fd, .events = POLLIN}, {.fd = guest->signal_fd, .events = POLLIN}};
    uint64_t stop_began_ns = 0;
    eventfd_t value;

    for (;;) {
        if (poll(ready, stopping ? 1 : 2, patience_ms(guest)) < 0 && errno != EINTR)
            fail("poll: %s", strerror(errno));
        if (!stopping && ready[1].revents) {
            stopping = true;
            stop_began_ns = now_ns();
        }
        if (ready[0].revents) {
            eventfd_read(guest->vm.idle_fd, &value);
            return;
        }
        if (stopping) {
            vm_kick(&guest->vm);
            if (guest->options.mode == MODE_UFFD && now_ns() - stop_began_ns > STOP_PATIENCE_NS) {
                prefill_join(&guest->prefill);
                close_uffd(guest);
            }
        } else if (now_ns() >= guest->close_uffd_at_ns) {
            close_uffd(guest);
        }
    }
}

static void run_round(struct guest *guest) {
    prefill_start(&guest->prefill);
    vm_start_pass(&guest->vm, PASS_DEMAND);
    await_pass(guest);
    prefill_join(&guest->prefill);
    if (stopping)
        return;
    guest->memory.touches++;
    guest->memory.userspace_touches++;
    if (guest->options.fault_free_pass) {
        vm_start_pass(&guest->vm, PASS_FAULT_FREE);
        await_pass(guest);
        if (stopping)
            return;
        guest->memory.touches++;
    }
    if (guest->options.verify) {
        guest->totals.verified_pages += guest->memory.pages;
        guest->totals.wrong_pages += memory_wrong_pages(&guest->memory);
    }
    guest->totals.rounds++;
}

static void run_rounds(struct guest *guest) {
    uint64_t begin_ns = now_ns();

    if (guest->options.close_uffd_after_ms != NEVER)
        guest->close_uffd_at_ns = begin_ns + guest->options.close_uffd_after_ms * NS_PER_MS;
    for (uint64_t round = 0; !stopping && (!guest->options.rounds || round < guest->options.rounds); round++) {
        if (round)
            paging_drop(&guest->paging);
        run_round(guest);
    }
    guest->totals.wall_ns = now_ns() - begin_ns;
}

int main(int argc, char **argv) {
    static struct guest guest = {.close_uffd_at_ns = NEVER};

    options_parse(&guest.options, argc, argv);
    prctl(PR_SET_TIMERSLACK, 1); /* ns; the default of 50 us would be added to each delay. Threads inherit it. */
    guest.signal_fd = catch_signals();
    if (guest.options.resolver == RESOLVER_POISON)
        vcpu_catch_poison();
    memory_create(&guest.memory, &guest.options);
    paging_create(&guest.paging, &guest.options, &guest.memory);
    prefill_init(&guest.prefill, &guest.paging);
    vm_create(&guest.vm, &guest.options, &guest.paging, &guest.prefill);
    handlers_start(&guest.handlers, &guest.options, &guest.paging);

    if (guest.options.wait_start)
        report_ready(&guest.vm);
    if (!guest.options.wait_start || await_start(&guest))
        run_rounds(&guest);
    handlers_stop(&guest.handlers);
    report_done(&guest.vm, &guest.handlers, &guest.totals);

    if (!stopping && guest.options.pause_before_exit_ms)
        poll(&(struct pollfd){.fd = guest.signal_fd, .events = POLLIN}, 1, (int)guest.options.pause_before_exit_ms);
    vm_stop(&guest.vm);
    if (guest.totals.wrong_pages)
        fail("%lu of %lu pages have wrong content", guest.totals.wrong_pages, guest.totals.verified_pages);
    return 0;
}

#include "options.h"
#include "common.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PAUSE_US 3600000000UL /* an hour, for any one delay or pause */

static const char *const modes[] = {"none", "uffd", "exit", "memory_fault", NULL};
static const char *const backings[] = {"anon", "shmem", "guest_memfd", NULL};
static const char *const faults[] = {"missing", "minor", NULL};
static const char *const resolvers[] = {"auto", "copy", "continue", "zeropage", "move", "poison", "populate", NULL};
static const char *const resolver_names[] = {"other", "COPY",   "CONTINUE",     "ZEROPAGE",
                                             "MOVE",  "POISON", "MADV_POPULATE"};
static const char *const orders[] = {"seq", "random", NULL};
static const char *const delays[] = {"none", "fixed", "exp", NULL};

const char *mode_name(enum mode mode) { return modes[mode]; }

const char *backing_name(enum backing backing) { return backings[backing]; }

const char *fault_name(enum fault fault) { return faults[fault]; }

const char *resolver_name(enum resolver resolver) { return resolver_names[resolver]; }

const char *order_name(enum page_order order) { return orders[order]; }

const char *delay_name(enum delay_dist dist) { return delays[dist]; }

static const char help[] =
    "usage: exitscope guest [options]\n"
    "A real KVM guest whose vCPUs touch each of their pages once; prints its own counts as one JSON line.\n\n"
    "  --vcpus N                 vCPUs, 1 to 256 (1)\n"
    "  --pages N                 pages in all vCPUs together; when not divisible, the first vCPUs get one "
    "more (4096)\n"
    "  --mode uffd|exit|memory_fault|none\n"
    "                            who resolves: handler threads, the vCPU thread after a bare -EFAULT, the vCPU "
    "thread\n"
    "                            after KVM_EXIT_MEMORY_FAULT, the kernel (uffd)\n"
    "  --backing anon|shmem      guest memory (anon; shmem with --fault minor; guest_memfd in mode memory_fault)\n"
    "  --fault missing|minor     missing: UFFDIO_COPY; minor: the page is in the page cache, UFFDIO_CONTINUE "
    "(missing)\n"
    "  --resolver copy|continue|zeropage|move|poison|populate\n"
    "                            what makes a page present (by --fault). poison: the vCPU takes SIGBUS and repairs "
    "the\n"
    "                            page; populate: MADV_POPULATE_WRITE, in mode exit\n"
    "  --fill-pages K            pages of one fill, 1 to 512 (1)\n"
    "  --handlers N              uffd handler threads, 1 to 64 (1)\n"
    "  --batch N                 uffd messages per read, 1 to 256 (1)\n"
    "  --order seq|random        order of touches (seq)      --seed N   of random orders and delays (1)\n"
    "  --interleave              deal the pages to the vCPUs in turn, not in one piece each\n"
    "  --gather                  the handler waits until all vCPUs wait, then resolves\n"
    "  --vmm-touch N             a VMM thread touches N further pages of guest memory in each round (0)\n"
    "  --vcpu-touch N            each vCPU thread touches N further pages between KVM_RUNs, as for an emulated device "
    "(0)\n"
    "  --async                   guest interrupts on, so that KVM uses async page faults\n"
    "  --delay-us X              sleep before each demand fill, standing for a network (0)\n"
    "  --delay-dist none|fixed|exp  its distribution (fixed)\n"
    "  --think-us X              pause of the vCPU after each touch, by one MMIO exit per touch (0: no "
    "exits)\n"
    "  --prefill-percent P       share of the pages that a background thread fills ahead of need (0)\n"
    "  --rounds N                times to drop all pages and go again; 0: until SIGTERM or SIGINT (1)\n"
    "  --fault-free-pass         touch the present pages once more after each round, and time that\n"
    "  --verify                  check the content of every page after each round\n"
    "  --thread-id               ask for UFFD_FEATURE_THREAD_ID\n"
    "  --wait-start              print {\"state\":\"ready\"} when the vCPUs exist, then wait for a line on "
    "stdin\n"
    "  --pause-ms-before-exit N  keep the VM for a while after the JSON line (0)\n"
    "  --name NAME               only to be seen in the process list\n"
    "test aids, with --mode uffd:\n"
    "  --hold-fault              read faults, never resolve them\n"
    "  --close-uffd-after-ms N   close the uffd under waiting vCPUs\n"
    "  --kill-handlers-after N   handler threads end after N fills in all\n"
    "test aid, with --mode exit --async:\n"
    "  --livelock                let the vCPU fault for ever\n";

enum kind { FLAG, COUNT, MICROSECONDS, CHOICE, TEXT };

/* An option, and the member of struct options that takes its value: bool, uint64_t (MICROSECONDS: in ns),
 * enum, or const char *. */
struct rule {
    const char *name;
    enum kind kind;
    size_t offset;
    uint64_t min, max;
    const char *const *choices;
};

#define TO(member) offsetof(struct options, member)

static const struct rule rules[] = {
    {"vcpus", COUNT, TO(vcpus), 1, MAX_VCPUS, NULL},
    {"pages", COUNT, TO(pages), 1, MAX_PAGES, NULL},
    {"mode", CHOICE, TO(mode), 0, 0, modes},
    {"backing", CHOICE, TO(backing), 0, 0, backings},
    {"fault", CHOICE, TO(fault), 0, 0, faults},
    {"resolver", CHOICE, TO(resolver), 0, 0, resolvers},
    {"fill-pages", COUNT, TO(fill_pages), 1, MAX_FILL_PAGES, NULL},
    {"handlers", COUNT, TO(handlers), 1, MAX_HANDLERS, NULL},
    {"batch", COUNT, TO(batch), 1, MAX_BATCH, NULL},
    {"order", CHOICE, TO(order), 0, 0, orders},
    {"seed", COUNT, TO(seed), 0, UINT64_MAX, NULL},
    {"interleave", FLAG, TO(interleave), 0, 0, NULL},
    {"gather", FLAG, TO(gather), 0, 0, NULL},
    {"vmm-touch", COUNT, TO(vmm_touch), 0, MAX_PAGES, NULL},
    {"vcpu-touch", COUNT, TO(vcpu_touch), 0, MAX_PAGES, NULL},
    {"async", FLAG, TO(async), 0, 0, NULL},
    {"delay-us", MICROSECONDS, TO(delay_ns), 0, MAX_PAUSE_US, NULL},
    {"delay-dist", CHOICE, TO(delay_dist), 0, 0, delays},
    {"think-us", MICROSECONDS, TO(think_ns), 0, MAX_PAUSE_US, NULL},
    {"prefill-percent", COUNT, TO(prefill_percent), 0, 100, NULL},
    {"rounds", COUNT, TO(rounds), 0, UINT32_MAX, NULL},
    {"fault-free-pass", FLAG, TO(fault_free_pass), 0, 0, NULL},
    {"verify", FLAG, TO(verify), 0, 0, NULL},
    {"thread-id", FLAG, TO(thread_id), 0, 0, NULL},
    {"wait-start", FLAG, TO(wait_start), 0, 0, NULL},
    {"pause-ms-before-exit", COUNT, TO(pause_before_exit_ms), 0, MAX_PAUSE_US / 1000, NULL},
    {"name", TEXT, TO(name), 0, 0, NULL},
    {"hold-fault", FLAG, TO(hold_fault), 0, 0, NULL},
    {"livelock", FLAG, TO(livelock), 0, 0, NULL},
    {"close-uffd-after-ms", COUNT, TO(close_uffd_after_ms), 0, MAX_PAUSE_US / 1000, NULL},
    {"kill-handlers-after", COUNT, TO(kill_handlers_after), 0, UINT32_MAX, NULL},
};

#define RULES (sizeof rules / sizeof rules[0])

static uint64_t parse_count(const struct rule *rule, const char *text) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || end == text || *end || strchr(text, '-') || value < rule->min || value > rule->max)
        usage_error("--%s %s: must be a whole number from %lu to %lu", rule->name, text, rule->min, rule->max);
    return value;
}

static uint64_t parse_us(const struct rule *rule, const char *text) {
    char *end;
    double value_us = strtod(text, &end);
    if (end == text || *end || !isfinite(value_us) || value_us < 0 || value_us > (double)rule->max)
        usage_error("--%s %s: must be a number of microseconds from 0 to %lu", rule->name, text, rule->max);
    return (uint64_t)(value_us * NS_PER_US);
}

static unsigned parse_choice(const struct rule *rule, const char *text) {
    char list[96] = "";

    for (unsigned i = 0; rule->choices[i]; i++) {
        size_t used = strlen(list);
        if (!strcmp(text, rule->choices[i]))
            return i;
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", rule->choices[i]);
    }
    usage_error("--%s %s: must be one of %s", rule->name, text, list);
}

static void apply(struct options *options, const struct rule *rule, const char *text) {
    void *member = (char *)options + rule->offset;

    if (rule->kind == FLAG)
        *(bool *)member = true;
    else if (rule->kind == COUNT)
        *(uint64_t *)member = parse_count(rule, text);
    else if (rule->kind == MICROSECONDS)
        *(uint64_t *)member = parse_us(rule, text);
    else if (rule->kind == CHOICE)
        *(unsigned *)member = parse_choice(rule, text);
    else
        *(const char **)member = text;
}

static void check_resolver(const struct options *o) {
    if (o->resolver != RESOLVER_OTHER && (o->mode == MODE_NONE || o->mode == MODE_MEMORY_FAULT))
        usage_error("--resolver: needs --mode uffd or exit");
    if (o->fault == FAULT_MINOR && o->resolver != RESOLVER_CONTINUE && o->resolver != RESOLVER_POPULATE)
        usage_error("--fault minor: needs --resolver continue or populate");
    if (o->fault == FAULT_MISSING && o->resolver == RESOLVER_CONTINUE)
        usage_error("--resolver continue: needs --fault minor");
    if (o->resolver == RESOLVER_MOVE && o->backing != BACKING_ANON)
        usage_error("--resolver move: needs --backing anon");
    if (o->resolver == RESOLVER_POISON && (o->mode != MODE_UFFD || o->async))
        usage_error("--resolver poison: needs --mode uffd, without --async");
    if (o->resolver == RESOLVER_POPULATE && (o->mode != MODE_EXIT || o->prefill_percent))
        usage_error("--resolver populate: needs --mode exit, without --prefill-percent");
}

static void check_combinations(const struct options *o) {
    bool others = o->vmm_touch || o->vcpu_touch;

    if (others && o->mode != MODE_UFFD)
        usage_error("--vmm-touch and --vcpu-touch: need --mode uffd (in mode exit the kernel would send SIGBUS)");
    if (others && (o->fill_pages > 1 || o->resolver == RESOLVER_POISON))
        usage_error("--vmm-touch and --vcpu-touch with --fill-pages or --resolver poison: choose one");
    if (o->pages + o->vmm_touch + o->vcpu_touch * o->vcpus > MAX_PAGES)
        usage_error("--pages, --vmm-touch and --vcpu-touch: together at most %lu pages", MAX_PAGES);
    if (o->fill_pages > 1 && (o->prefill_percent || o->mode == MODE_NONE || o->mode == MODE_MEMORY_FAULT))
        usage_error("--fill-pages: needs --mode uffd or exit, without --prefill-percent");
    if (o->gather && (o->mode != MODE_UFFD || o->handlers > 1 || o->pages % o->vcpus || o->prefill_percent || others))
        usage_error("--gather: needs --mode uffd, one handler, as many pages for each vCPU, and no other fills or "
                    "touches");
    if (o->gather && o->fill_pages > 1 && (!o->interleave || o->order != ORDER_SEQ || o->vcpus % o->fill_pages))
        usage_error("--gather with --fill-pages: needs --interleave, --order seq and --vcpus a multiple of the fill");
    if (o->mode == MODE_MEMORY_FAULT && (o->backing != BACKING_GMEM || o->async || o->fault == FAULT_MINOR))
        usage_error("--mode memory_fault: has --backing guest_memfd, without --async and --fault minor");
    if (o->mode == MODE_MEMORY_FAULT && o->pages > MAX_GMEM_PAGES)
        usage_error("--mode memory_fault: at most %lu pages, a memslot each", MAX_GMEM_PAGES);
    if (o->backing == BACKING_GMEM && o->mode != MODE_MEMORY_FAULT)
        usage_error("--backing guest_memfd: needs --mode memory_fault");
}

static void check(const struct options *o) {
    bool closes = o->close_uffd_after_ms != NEVER, kills = o->kill_handlers_after != NEVER;

    if (o->pages < o->vcpus)
        usage_error("--pages %lu: must be at least --vcpus (%lu), one page for each", o->pages, o->vcpus);
    if (o->fault == FAULT_MINOR && o->backing == BACKING_ANON)
        usage_error("--fault minor: needs --backing shmem (anonymous memory has no page cache)");
    if (o->livelock && !(o->async && o->mode == MODE_EXIT))
        usage_error("--livelock: needs --mode exit --async");
    if (o->async && o->mode == MODE_EXIT && !o->livelock)
        usage_error("--async with --mode exit: the vCPU would fault for ever (the async worker's attempt fails "
                    "unseen); leave out --async");
    if ((o->mode == MODE_NONE || o->mode == MODE_MEMORY_FAULT) && (o->prefill_percent || o->thread_id))
        usage_error("--prefill-percent and --thread-id: need --mode uffd or exit");
    if (o->mode != MODE_UFFD && (o->hold_fault || closes || kills))
        usage_error("--hold-fault, --close-uffd-after-ms and --kill-handlers-after: need --mode uffd");
    if (closes && o->prefill_percent)
        usage_error("--close-uffd-after-ms with --prefill-percent: choose one");
    check_resolver(o);
    check_combinations(o);
}

void options_parse(struct options *options, int argc, char **argv) {
    enum { HELP = RULES, FIRST = 256 }; /* values beyond any character */
    struct option table[RULES + 2] = {[RULES] = {"help", no_argument, NULL, FIRST + HELP}};
    bool backing_given = false, dist_given = false;

    for (int i = 0; i < (int)RULES; i++)
        table[i] = (struct option){rules[i].name, rules[i].kind != FLAG, NULL, FIRST + i};
    *options = (struct options){.mode = MODE_UFFD,
                                .vcpus = 1,
                                .pages = 4096,
                                .handlers = 1,
                                .batch = 1,
                                .rounds = 1,
                                .fill_pages = 1,
                                .seed = 1,
                                .close_uffd_after_ms = NEVER,
                                .kill_handlers_after = NEVER};
    opterr = 0; /* we say it ourselves, in one line */
    while (optind < argc) {
        const char *given = argv[optind];
        int option = getopt_long(argc, argv, "+:h", table, NULL);
        if (option == 'h' || option == FIRST + HELP) {
            fputs(help, stdout);
            exit(0);
        }
        if (option == ':')
            usage_error("%s: needs a value; see --help", given);
        if (option < FIRST)
            usage_error("%s: not an option, or it takes no value; see --help", given);
        const struct rule *rule = &rules[option - FIRST];
        apply(options, rule, optarg);
        backing_given |= rule->offset == TO(backing);
        dist_given |= rule->offset == TO(delay_dist);
    }
    if (options->fault == FAULT_MINOR && !backing_given)
        options->backing = BACKING_SHMEM;
    if (options->mode == MODE_MEMORY_FAULT && !backing_given)
        options->backing = BACKING_GMEM;
    if (options->resolver == RESOLVER_OTHER && (options->mode == MODE_UFFD || options->mode == MODE_EXIT))
        options->resolver = options->fault == FAULT_MINOR ? RESOLVER_CONTINUE : RESOLVER_COPY;
    if (!dist_given)
        options->delay_dist = options->delay_ns ? DELAY_FIXED : DELAY_NONE;
    check(options);
}

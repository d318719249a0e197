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

static const char *const modes[] = {"none", "uffd", "exit", NULL};
static const char *const backings[] = {"anon", "shmem", NULL};
static const char *const faults[] = {"missing", "minor", NULL};
static const char *const orders[] = {"seq", "random", NULL};
static const char *const delays[] = {"none", "fixed", "exp", NULL};

const char *mode_name(enum mode mode) { return modes[mode]; }

const char *backing_name(enum backing backing) { return backings[backing]; }

const char *fault_name(enum fault fault) { return faults[fault]; }

const char *order_name(enum page_order order) { return orders[order]; }

const char *delay_name(enum delay_dist dist) { return delays[dist]; }

static const char help[] =
    "usage: exitscope guest [options]\n"
    "A real KVM guest whose vCPUs touch each of their pages once; prints its own counts as one JSON line.\n\n"
    "  --vcpus N                 vCPUs, 1 to 256 (1)\n"
    "  --pages N                 pages in all vCPUs together; when not divisible, the first vCPUs get one "
    "more (4096)\n"
    "  --mode uffd|exit|none     who resolves: handler threads, the vCPU thread after -EFAULT, the kernel "
    "(uffd)\n"
    "  --backing anon|shmem      guest memory (anon; shmem with --fault minor)\n"
    "  --fault missing|minor     missing: UFFDIO_COPY; minor: the page is in the page cache, UFFDIO_CONTINUE "
    "(missing)\n"
    "  --handlers N              uffd handler threads, 1 to 64 (1)\n"
    "  --batch N                 uffd messages per read, 1 to 256 (1)\n"
    "  --order seq|random        order of touches (seq)      --seed N   of random orders and delays (1)\n"
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
    "  --kill-handlers-after N   handler threads end after N fills in all\n";

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
    {"handlers", COUNT, TO(handlers), 1, MAX_HANDLERS, NULL},
    {"batch", COUNT, TO(batch), 1, MAX_BATCH, NULL},
    {"order", CHOICE, TO(order), 0, 0, orders},
    {"seed", COUNT, TO(seed), 0, UINT64_MAX, NULL},
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
    char list[64] = "";

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

static void check(const struct options *o) {
    bool closes = o->close_uffd_after_ms != NEVER, kills = o->kill_handlers_after != NEVER;

    if (o->pages < o->vcpus)
        usage_error("--pages %lu: must be at least --vcpus (%lu), one page for each", o->pages, o->vcpus);
    if (o->fault == FAULT_MINOR && o->backing == BACKING_ANON)
        usage_error("--fault minor: needs --backing shmem (anonymous memory has no page cache)");
    if (o->async && o->mode == MODE_EXIT)
        usage_error("--async with --mode exit: the vCPU would fault for ever (the async worker's attempt fails "
                    "unseen); leave out --async");
    if (o->mode == MODE_NONE && (o->prefill_percent || o->thread_id))
        usage_error("--prefill-percent and --thread-id: need --mode uffd or exit");
    if (o->mode != MODE_UFFD && (o->hold_fault || closes || kills))
        usage_error("--hold-fault, --close-uffd-after-ms and --kill-handlers-after: need --mode uffd");
    if (closes && o->prefill_percent)
        usage_error("--close-uffd-after-ms with --prefill-percent: choose one");
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
    if (!dist_given)
        options->delay_dist = options->delay_ns ? DELAY_FIXED : DELAY_NONE;
    check(options);
}

/* What the guest says on stdout: one JSON object per line. */
#ifndef EXITSCOPE_GUEST_REPORT_H
#define EXITSCOPE_GUEST_REPORT_H

#include "vm.h"

struct totals {
    uint64_t rounds;  /* completed */
    uint64_t wall_ns; /* from the start of the first pass to the end of the last */
    uint64_t verified_pages, wrong_pages;
};

/* {"state": "ready", "pid", "vcpus": [{"vcpu", "tid"}]} */
void report_ready(const struct vm *vm);

/* {"state": "done", …}; the handler threads must have ended. */
void report_done(const struct vm *vm, const struct handlers *handlers, const struct totals *totals);

#endif

#include "report.h"
#include "common.h"

#include <stdio.h>
#include <unistd.h>

static const char *boolean(bool value) { return value ? "true" : "false"; }

static const char *separator(uint64_t index) { return index ? ", " : ""; }

static void print_string(const char *key, const char *text) {
    printf("\"%s\": ", key);
    if (!text) {
        printf("null");
        return;
    }
    putchar('"');
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c < 0x20 || *c >= 0x7f || *c == '"' || *c == '\\')
            printf("\\u%04x", *c); /* bytes beyond ASCII as Latin-1: the line stays valid whatever the name is */
        else
            putchar(*c);
    }
    putchar('"');
}

static void print_count(const char *key, uint64_t value) { printf("\"%s\": %lu", key, value); }

void report_ready(const struct vm *vm) {
    printf("{\"state\": \"ready\", \"pid\": %d, \"vcpus\": [", getpid());
    for (uint64_t i = 0; i < vm->options->vcpus; i++)
        printf("%s{\"vcpu\": %lu, \"tid\": %d}", separator(i), i, vm->vcpu[i].tid);
    printf("], \"vmm_tid\": ");
    printf(vm->options->vmm_touch ? "%d}\n" : "null}\n", vm->vmm.tid);
    fflush(stdout);
}

static void print_vcpu(const struct vm *vm, const struct vcpu *vcpu) {
    const struct fault_counts *counts = counts_of_vcpu(vm->paging, (uint64_t)vcpu->index);
    const struct fault_counts *device = counts_of_device(vm->paging, (uint64_t)vcpu->index);

    printf("{\"vcpu\": %d, \"tid\": %d, \"pages\": %lu, \"touches\": %lu, \"faults\": %lu, \"repeats\": %lu, ",
           vcpu->index, vcpu->tid, vcpu->share.pages, vcpu->touches, counts->faults, counts->repeats);
    printf("\"userspace_touches\": %lu, \"userspace_faults\": %lu, ", vcpu->device_touches, device->faults);
    printf("\"filled\": %lu, \"run_ns\": %lu, \"pause_ns\": %lu, \"fault_free_ns\": ", vcpu->filled,
           vcpu->run_ns[PASS_DEMAND], vcpu->pause_ns[PASS_DEMAND]);
    if (vm->options->fault_free_pass)
        printf("%lu}", vcpu->run_ns[PASS_FAULT_FREE]);
    else
        printf("null}");
}

static void print_vmm(const struct vm *vm) {
    const struct fault_counts *counts = counts_of_vmm(vm->paging);

    printf("\"vmm\": ");
    if (!vm->options->vmm_touch) {
        printf("null, ");
        return;
    }
    printf("{\"tid\": %d, \"pages\": %lu, \"touches\": %lu, ", vm->vmm.tid, vm->options->vmm_touch, vm->vmm.touches);
    printf("\"faults\": %lu, \"repeats\": %lu}, ", counts->faults, counts->repeats);
}

static uint64_t print_handlers(const struct handlers *handlers) {
    uint64_t events_read = 0;

    printf("\"handlers\": [");
    for (uint64_t i = 0; i < handlers->count; i++) {
        const struct handler *handler = &handlers->handler[i];
        printf("%s{\"handler\": %lu, \"tid\": %d, \"events_read\": %lu, \"filled\": %lu}", separator(i), i,
               handler->tid, handler->events_read, handler->filled);
        events_read += handler->events_read;
    }
    printf("], ");
    return events_read;
}

static void print_conditions(const struct options *o) {
    printf("\"conditions\": {");
    print_string("name", o->name);
    printf(", \"vcpus\": %lu, \"pages\": %lu, ", o->vcpus, o->pages);
    print_string("mode", mode_name(o->mode));
    printf(", ");
    print_string("backing", backing_name(o->backing));
    printf(", ");
    print_string("fault", fault_name(o->fault));
    printf(", ");
    print_string("resolver", resolver_name(o->resolver));
    printf(", \"fill_pages\": %lu, \"interleave\": %s, \"gather\": %s, ", o->fill_pages, boolean(o->interleave),
           boolean(o->gather));
    printf("\"vmm_touch\": %lu, \"vcpu_touch\": %lu", o->vmm_touch, o->vcpu_touch);
    printf(", \"handlers\": %lu, \"batch\": %lu, ", o->handlers, o->batch);
    print_string("order", order_name(o->order));
    printf(", \"seed\": %lu, \"async\": %s, \"delay_ns\": %lu, ", o->seed, boolean(o->async), o->delay_ns);
    print_string("delay_dist", delay_name(o->delay_dist));
    printf(", \"think_ns\": %lu, \"prefill_percent\": %lu, ", o->think_ns, o->prefill_percent);
    printf("\"rounds\": %lu, \"fault_free_pass\": %s, ", o->rounds, boolean(o->fault_free_pass));
    printf("\"verify\": %s, \"thread_id\": %s, ", boolean(o->verify), boolean(o->thread_id));
    printf("\"wait_start\": %s, \"pause_before_exit_ms\": %lu, ", boolean(o->wait_start), o->pause_before_exit_ms);
    printf("\"hold_fault\": %s, \"livelock\": %s, ", boolean(o->hold_fault), boolean(o->livelock));
    printf("\"close_uffd_after_ms\": ");
    printf(o->close_uffd_after_ms != NEVER ? "%lu" : "null", o->close_uffd_after_ms);
    printf(", \"kill_handlers_after\": ");
    printf(o->kill_handlers_after != NEVER ? "%lu}" : "null}", o->kill_handlers_after);
}

void report_done(const struct vm *vm, const struct handlers *handlers, const struct totals *totals) {
    const struct options *options = vm->options;
    uint64_t faults = 0, fault_free_ns = 0;

    printf("{\"state\": \"done\", \"pid\": %d, ", getpid());
    print_string("mode", mode_name(options->mode));
    printf(", ");
    print_string("backing", backing_name(options->backing));
    printf(", ");
    print_string("fault", fault_name(options->fault));
    printf(", ");
    print_string("resolver", options->mode == MODE_NONE ? NULL : resolver_name(options->resolver));
    printf(", \"async\": %s, \"vcpus\": [", boolean(options->async));
    for (uint64_t i = 0; i < options->vcpus; i++) {
        printf("%s", separator(i));
        print_vcpu(vm, &vm->vcpu[i]);
        faults += counts_of_vcpu(vm->paging, i)->faults;
        fault_free_ns += vm->vcpu[i].run_ns[PASS_FAULT_FREE];
    }
    printf("], ");
    print_vmm(vm);
    print_count("events_read", print_handlers(handlers));
    printf(", \"fills\": {\"demand\": %lu, \"background\": %lu, \"eexist\": %lu, ", vm->paging->demand_fills,
           vm->paging->background_fills, vm->paging->present_already);
    printf("\"repaired\": %lu}, ", vm->paging->repaired);
    printf("\"faults\": %lu, \"pages\": %lu, ", faults, options->pages);
    printf("\"rounds\": %lu, \"wall_ns\": %lu, \"fault_free_ns\": ", totals->rounds, totals->wall_ns);
    printf(options->fault_free_pass ? "%lu, " : "null, ", fault_free_ns);
    if (options->verify)
        printf("\"verify\": {\"pages\": %lu, \"wrong\": %lu}, ", totals->verified_pages, totals->wrong_pages);
    else
        printf("\"verify\": null, ");
    print_conditions(options);
    printf("}\n");
    fflush(stdout);
}

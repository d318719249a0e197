#include "order.h"
#include "common.h"

static struct touch_order create_order(enum page_order kind, uint64_t pages, uint64_t seed) {
    struct touch_order order = {.state = UINT64_MAX, .multiplier = 1, .increment = 1, .shift = 63, .pages = pages};
    unsigned bits = 0;

    while (1UL << bits < pages)
        bits++;
    order.mask = (1UL << bits) - 1;
    if (kind == ORDER_RANDOM) {
        order.state = random_next(&seed);
        order.multiplier = (random_next(&seed) & ~3UL) | 1;
        order.increment = random_next(&seed) | 1;
        order.shift = (bits + 1) / 2 ? (bits + 1) / 2 : 1;
    }
    return order;
}

struct share share_of_vcpu(const struct options *options, uint64_t vcpu) {
    uint64_t each = options->pages / options->vcpus;
    uint64_t larger = options->pages % options->vcpus;
    struct share share = {
        .first_page = vcpu * each + (vcpu < larger ? vcpu : larger), .stride = 1, .pages = each + (vcpu < larger)};

    if (options->interleave) {
        share.first_page = vcpu;
        share.stride = options->vcpus;
    }
    share.prefilled = share.pages * options->prefill_percent / 100;
    share.order = create_order(options->order, share.pages, options->seed ^ vcpu << 48);
    return share;
}

uint64_t vcpu_of_page(const struct options *options, uint64_t page) {
    uint64_t each = options->pages / options->vcpus;
    uint64_t larger = options->pages % options->vcpus;
    uint64_t in_larger = larger * (each + 1);

    if (options->interleave)
        return page % options->vcpus;
    return page < in_larger ? page / (each + 1) : larger + (page - in_larger) / each;
}

uint64_t pages_in_all(const struct options *options) {
    return options->pages + options->vmm_touch + options->vcpu_touch * options->vcpus;
}

uint64_t first_vmm_page(const struct options *options) { return options->pages; }

uint64_t first_device_page(const struct options *options, uint64_t vcpu) {
    return options->pages + options->vmm_touch + vcpu * options->vcpu_touch;
}

uint64_t share_page(const struct share *share, uint64_t index) { return share->first_page + index * share->stride; }

uint64_t touch_order_next(struct touch_order *order) {
    uint64_t page;

    do {
        order->state = (order->state * order->multiplier + order->increment) & order->mask;
        page = order->state ^ order->state >> order->shift;
    } while (page >= order->pages);
    return page;
}

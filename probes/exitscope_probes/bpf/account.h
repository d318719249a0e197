/* account.h: exact totals and histograms, and the one record of a finished fault. */

/* histogram.py computes the same. Without branches: the verifier would walk each of their combinations. */
static __always_inline u64 bucket_of(u64 ns) {
    u64 units = ns >> BUCKET_UNIT_SHIFT;
    u64 bits = units >> BUCKET_SUB_BITS;
    bits |= bits >> 1; /* all ones below the highest one: their number, less one, is the exponent */
    bits |= bits >> 2;
    bits |= bits >> 4;
    bits |= bits >> 8;
    bits |= bits >> 16;
    bits |= bits >> 32;
    bits >>= 1;
    bits -= (bits >> 1) & 0x5555555555555555ULL;
    bits = (bits & 0x3333333333333333ULL) + ((bits >> 2) & 0x3333333333333333ULL);
    bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
    u64 exponent = (bits * 0x0101010101010101ULL) >> 56;
    return (exponent << BUCKET_SUB_BITS) + (units >> exponent);
}

/* A vCPU's totals have one writer at a time, its thread (or who wakes it while it sleeps): plain adds suffice.
 * Those of a VM's other threads are shared. */
static __always_inline void account(struct vcpu_totals *totals, struct vcpu_histograms *histograms, u32 series, u64 ns,
                                    bool shared) {
    u64 bucket = at_most(bucket_of(ns), BUCKETS - 1);
    u64 which = at_most(series, SERIES - 1);
    struct series_totals *row = &totals->series[which];
    if (shared) {
        __sync_fetch_and_add(&row->count, 1);
        __sync_fetch_and_add(&row->sum_ns, ns);
        __sync_fetch_and_add(&histograms->series[which].bucket[bucket], 1);
    } else {
        row->count += 1;
        row->sum_ns += ns;
        histograms->series[which].bucket[bucket] += 1;
    }
    if (ns > row->max_ns)
        row->max_ns = ns;
}

/* Moments of a fault in their order; 0 = not seen. */
struct moments {
    u64 begin_ns;
    u64 queued_ns; /* or KVM_RUN returned */
    u64 read_ns;   /* exit modes: unused */
    u64 fill_begin_ns;
    u64 fill_end_ns;
    u64 end_ns;
};

/* Clamps a moment that was not seen, or was seen by another CPU after the next one, between its neighbours. */
static __always_inline u64 between(u64 low, u64 moment, u64 high) {
    if (moment < low)
        return low;
    return moment > high ? high : moment;
}

/* Turns moments into stages that add up to the whole exactly. */
static __always_inline void set_stages(struct fault_record *record, const struct moments *m) {
    u64 queued = between(m->begin_ns, m->queued_ns, m->read_ns ? m->read_ns : m->end_ns);
    queued = between(m->begin_ns, queued, m->end_ns);
    u64 read = between(queued, m->read_ns, m->end_ns);
    /* Not seen: a fill that nobody saw leaves its time in "serve". */
    u64 fill_begin = between(read, m->fill_begin_ns ? m->fill_begin_ns : m->end_ns, m->end_ns);
    u64 fill_end = between(fill_begin, m->fill_end_ns ? m->fill_end_ns : m->end_ns, m->end_ns);
    record->begin_ns = m->begin_ns;
    record->stage_ns[STAGE_RAISE] = queued - m->begin_ns;
    record->stage_ns[STAGE_NOTIFY] = read - queued;
    record->stage_ns[STAGE_SERVE] = fill_begin - read;
    record->stage_ns[STAGE_FILL] = fill_end - fill_begin;
    record->stage_ns[STAGE_FINISH] = m->end_ns - fill_end;
}

/* Stages of which both ends were seen, a bit each. */
static __always_inline u32 stages_seen(u8 seen, bool exit) {
    u32 counted = seen & SEEN_ACCESS ? 1 << STAGE_RAISE : 0;
    if (seen & SEEN_READ)
        counted |= 1 << STAGE_NOTIFY | 1 << STAGE_SERVE;
    if (exit)
        counted |= 1 << STAGE_SERVE;
    if (seen & SEEN_FILL)
        counted |= 1 << STAGE_FILL | 1 << STAGE_FINISH;
    return counted;
}

/* Counts a finished fault in the totals and sends its record. */
static __always_inline void finish(u32 slot, struct fault_record *record, u64 whole_ns, u64 stall_ns, bool shared) {
    struct vcpu_totals *totals = totals_of(slot);
    struct vcpu_histograms *histograms = histograms_of(slot);
    if (!totals || !histograms)
        return;
    bool exit = record->mode == MODE_EXIT || record->mode == MODE_MEMORY_FAULT;
    u32 series = exit ? SERIES_STAGES_EXIT : record->mode == MODE_ASYNC ? SERIES_STAGES_ASYNC : SERIES_STAGES_UFFD;
    u32 counted = stages_seen(record->seen, exit);
    account(totals, histograms, record->mode, whole_ns, shared);
    if (shared)
        __sync_fetch_and_add(&totals->stall_ns, stall_ns);
    else
        totals->stall_ns += stall_ns;
    totals->open_since_ns = 0;
    /* A loop, not five copies: code that is not in the cache is the larger part of the price. */
#pragma clang loop unroll(disable)
    for (u32 stage = 0; stage < STAGES; stage++) {
        if (counted & 1 << stage)
            account(totals, histograms, series, record->stage_ns[stage], shared);
        if (!exit || stage != STAGE_NOTIFY)
            series++;
    }
    if (record->mode == MODE_UFFD && !(record->seen & SEEN_READ))
        totals->unread += 1;
    if (record->seen & SEEN_NAMED)
        totals->named_reads += 1;
    if (bpf_ringbuf_output(MAP(records), record, sizeof(*record), BPF_RB_NO_WAKEUP))
        lose(LOSS_RING_FULL);
}

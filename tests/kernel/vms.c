/* vms WAY [N]: VMs that fault in other ways than the guest of exitscope does. Says READY, waits for a line, does its work, says
 * DONE {what it counted}, and waits for another line.
 *
 *   churn N     VMs one after the other on one thread, of four pages each, while the first one lives on
 *   idle        a VM beside the first one is made, and never run
 *   crowd N     N VMs at once, each with three vCPUs that touch two pages each
 *   together    two VMs at once, of 100 pages each, which take turns; the newer one is destroyed in between
 *   twin TID    500 pages are touched by a thread of this number; `named`: its events bear the number
 *   snapshot    300 of 1,000 pages are written while userfaultfd protects all against writing; 700 are freed in the background
 *   protected   100 pages are written that come protected against writing (UFFDIO_COPY_MODE_WP)
 *   written     500 pages are written into a shared memory by another mapping, and announced by UFFDIO_WAKE
 *   huge SHIFT  16 hugetlb pages of this size are touched in their middle
 *   thp         16 transparent huge pages' worth of memory is touched, and comes in small pages
 *   elsewhere   exit mode: another thread places the pages
 *   thread      300 pages are asked for ahead by a thread with MADV_POPULATE_WRITE, and 400 touched then
 *   process     the same by another process, with process_vm_writev
 *   ioctl       the same by the vCPU's thread, with KVM_PRE_FAULT_MEMORY; refused: its errno
 *   halfway     100 ranges of 16 pages are copied to where the sixth page is present already
 *   released    the userfaultfd is closed while the vCPU waits, before anybody has read its event
 *   reused      a descriptor of which events were read becomes a file's
 *   roaming N   exit mode: two VMs of 40 pages each; a thread of its own runs both from one fault to the next, and ends (N = 0)
 *               or stays; the next one places the page and goes on
 */
#include "machine.h"

static struct machine first, other;
static int uffd;
static uint8_t *memory, *source, *alias; /* alias: another mapping of memory */
static uint64_t fill_bytes = PAGE, copy_mode;
static volatile bool quit, answering;
static volatile uint64_t events, fills;
static int refused;
static pthread_t handler;

static void watch(uint64_t features, uint64_t count, uint64_t mode) {
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    struct uffdio_register range = {.range = {(uintptr_t)memory, count * PAGE}, .mode = mode};
    uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    must(uffd >= 0 && !ioctl(uffd, UFFDIO_API, &api) && !ioctl(uffd, UFFDIO_REGISTER, &range), "userfaultfd");
}

static bool copy(void *at, uint64_t bytes) {
    struct uffdio_copy c = {.dst = (uintptr_t)at, .src = (uintptr_t)source, .len = bytes, .mode = copy_mode};
    return !ioctl(uffd, UFFDIO_COPY, &c);
}

static bool protect(void *at, uint64_t count, bool on) {
    struct uffdio_writeprotect w = {{(uintptr_t)at, count * PAGE}, on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
    return !ioctl(uffd, UFFDIO_WRITEPROTECT, &w);
}

static bool write_and_wake(uint8_t *at) {
    struct uffdio_range page = {(uintptr_t)at, PAGE};
    memset(alias + (at - memory), 7, PAGE);
    return !ioctl(uffd, UFFDIO_WAKE, &page);
}

static void *handle(void *argument) {
    int fd = argument ? *(int *)argument : uffd;
    struct uffd_msg m;
    while (!quit) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 20) <= 0 || read(fd, &m, sizeof m) != sizeof m)
            continue;
        uint8_t *at = (uint8_t *)(uintptr_t)(m.arg.pagefault.address & ~(fill_bytes - 1));
        answering = true;
        events++;
        if (m.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP)
            fills += protect(at, 1, false);
        else
            fills += alias ? write_and_wake(at) : copy(at, fill_bytes);
        answering = false;
    }
    return NULL;
}

static void begin(void) { must(!pthread_create(&handler, 0, handle, 0), "pthread_create"); }

static void say(const char *line) {
    char answer[16];
    puts(line);
    fflush(stdout);
    if (!fgets(answer, sizeof answer, stdin))
        exit(0);
}

/* Until somebody wants the work to be done. */
static void ready(void) { say("READY"); }

static void ready_with_handler(void) {
    ready();
    begin();
}

static void ordinary(uint64_t features) {
    watch(features, 16 * 1024, UFFDIO_REGISTER_MODE_MISSING);
    create(&first, memory, 1600);
}

static void churn(uint64_t n, const char *unused) {
    (void)unused;
    ordinary(0);
    ready_with_handler();
    must(!touch(&first, 0, 4), "run");
    for (uint64_t i = 0; i < n; i++) {
        create(&other, memory + (2000 + i * 4) * PAGE, 4);
        must(!touch(&other, 0, 4), "run");
        destroy(&other);
    }
}

static void idle(uint64_t n, const char *unused) {
    (void)n, (void)unused;
    ordinary(0);
    ready_with_handler();
    must(!touch(&first, 0, 4), "run");
    create(&other, memory + 2000 * PAGE, 4);
}

/* Further vCPUs of a VM, each with a page of the list for itself. */
struct further {
    struct machine *m;
    int number, vcpu;
};

static pthread_barrier_t touched;

static void *touch_two(void *argument) {
    struct further *f = argument;
    uint64_t list = LIST + f->number * PAGE;
    struct kvm_regs regs = {.rip = 0x1000, .rflags = 2, .rsi = list, .rcx = 2, .r13 = DOORBELL};
    for (uint64_t i = 0; i < 2; i++)
        ((uint64_t *)(f->m->own + list))[i] = GUEST_MEMORY + (2 * f->number + i) * PAGE;
    must(!ioctl(f->vcpu, KVM_SET_REGS, &regs) && !ioctl(f->vcpu, KVM_RUN, 0), "run");
    pthread_barrier_wait(&touched);
    pause();
    return NULL;
}

static void crowd(uint64_t vms, const char *unused) {
    (void)unused;
    ordinary(0);
    ready_with_handler();
    struct machine *machines = calloc(vms, sizeof *machines);
    struct further *all = calloc(3 * vms, sizeof *all);
    pthread_barrier_init(&touched, 0, 3 * vms + 1);
    for (uint64_t i = 0; i < 3 * vms; i++) {
        struct machine *m = &machines[i / 3];
        pthread_t thread;
        if (i % 3 == 0)
            create(m, memory + (2000 + 2 * i) * PAGE, 6);
        all[i] = (struct further){.m = m, .number = i % 3, .vcpu = i % 3 ? new_vcpu(m, i % 3) : m->vcpu};
        must(!pthread_create(&thread, 0, touch_two, &all[i]), "pthread_create");
    }
    pthread_barrier_wait(&touched);
}

static void together(uint64_t n, const char *unused) {
    (void)n, (void)unused;
    ordinary(0);
    ready_with_handler();
    create(&other, memory + 2000 * PAGE, 100);
    for (uint64_t i = 0; i < 100; i++)
        must(!touch(&first, i, 1) && !touch(&other, i, 1), "run");
    copy(memory + 1000 * PAGE, PAGE); /* ahead of need: the older one's */
    destroy(&other);
    must(!touch(&first, 100, 100), "run");
}

/* A process whose first thread has this number, in the innermost PID namespace. */
static void become(uint64_t tid) {
    pid_t wanted = tid;
    struct clone_args arguments = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&wanted, .set_tid_size = 1};
    pid_t child = syscall(SYS_clone3, &arguments, sizeof arguments);
    must(child >= 0, "clone3");
    if (child) {
        waitpid(child, NULL, 0);
        exit(0);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static void twin(uint64_t tid, const char *named) {
    if (tid)
        become(tid);
    ordinary(named ? UFFD_FEATURE_THREAD_ID : 0);
    ready_with_handler();
    must(!touch(&first, 0, 500), "run");
}

static void snapshot(uint64_t n, const char *unused) {
    (void)n, (void)unused;
    memset(memory, 1, 1000 * PAGE);
    create(&first, memory, 1000);
    must(!touch(&first, 0, 1000), "run");
    watch(UFFD_FEATURE_PAGEFAULT_FLAG_WP, 1000, UFFDIO_REGISTER_MODE_WP);
    ready_with_handler();
    must(protect(memory, 1000, true), "UFFDIO_WRITEPROTECT");
    must(!touch(&first, 0, 300), "run");
    for (uint64_t i = 300; i < 1000; i++)
        must(protect(memory + i * PAGE, 1, false), "UFFDIO_WRITEPROTECT");
}

static void protected(uint64_t n, const char *unused) {
    (void)n, (void)unused;
    copy_mode = UFFDIO_COPY_MODE_WP;
    watch(UFFD_FEATURE_PAGEFAULT_FLAG_WP, 100, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
    create(&first, memory, 100);
    ready_with_handler();
    must(!touch(&first, 0, 100), "run");
}

static void written(uint64_t n, const char *unused) {
    int fd = memfd_create("guest", MFD_CLOEXEC);
    (void)n, (void)unused;
    must(!ftruncate(fd, 500 * PAGE), "ftruncate");
    memory = mmap(0, 500 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    alias = mmap(0, 500 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    watch(0, 500, UFFDIO_REGISTER_MODE_MISSING);
    create(&first, memory, 500);
    ready_with_handler();
    must(!touch(&first, 0, 500), "run");
}

/* Memory of 16 large pages, or of one that is very large; each is touched once, in its middle. */
static void large(uint64_t shift, int flags, int advice) {
    uint64_t size = 1UL << shift, count = shift < 30 ? 16 : 1, bytes = (count + (flags == 0)) * size;
    memory = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
    must(memory != MAP_FAILED, "large pages");
    memory = (uint8_t *)(((uintptr_t)memory + size - 1) & ~(size - 1));
    if (advice)
        must(!madvise(memory, count * size, advice), "madvise");
    watch(0, count * size / PAGE, UFFDIO_REGISTER_MODE_MISSING);
    create(&first, memory, count * size / PAGE);
    ready_with_handler();
    for (uint64_t i = 0; i < count; i++)
        must(!touch(&first, (i * size + size / 2) / PAGE, 1), "run");
}

static void huge(uint64_t shift, const char *unused) {
    (void)unused;
    fill_bytes = 1UL << shift;
    source = mmap(0, fill_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    large(shift, MAP_HUGETLB | shift << MAP_HUGE_SHIFT, 0);
}

static void thp(uint64_t n, const char *unused) {
    (void)n, (void)unused;
    large(21, 0, MADV_HUGEPAGE);
}

static void *asked; /* exit mode: the page that is wanted */

static void *place(void *unused) {
    (void)unused;
    while (!quit) {
        void *at = __atomic_load_n(&asked, __ATOMIC_SEQ_CST);
        usleep(200);
        if (!at)
            continue;
        fills += copy(at, PAGE);
        __atomic_store_n(&asked, NULL, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

static void elsewhere(uint64_t n, const char *unused) {
    (void)n, (void)unused;
    ordinary(UFFD_FEATURE_SIGBUS);
    ready();
    pthread_create(&handler, 0, place, 0);
    for (uint64_t i = 0; i < 100; i++) {
        must(touch(&first, i, 1) == EFAULT, "no fault");
        __atomic_store_n(&asked, memory + i * PAGE, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(&asked, __ATOMIC_SEQ_CST))
            usleep(100);
        must(!ioctl(first.vcpu, KVM_RUN, 0), "run");
    }
}

struct step {
    struct machine *machine[2];
    uint8_t *page[2]; /* to be placed before, NULL: the vCPU starts */
    int error[2];     /* of KVM_RUN */
    bool stays;       /* the thread, until all is done */
    volatile bool done;
};

static void *run_step(void *argument) {
    struct step *s = argument;
    for (int i = 0; i < 2; i++) {
        if (s->page[i])
            fills += copy(s->page[i], PAGE);
        s->error[i] = s->page[i] ? (ioctl(s->machine[i]->vcpu, KVM_RUN, 0) ? errno : 0) : touch(s->machine[i], 0, 40);
    }
    s->done = true;
    while (s->stays && !quit)
        usleep(1000);
    return NULL;
}

static void roaming(uint64_t stays, const char *unused) {
    struct step s = {.machine = {&first, &other}, .stays = stays};
    pthread_t runner[41];
    (void)unused;
    ordinary(UFFD_FEATURE_SIGBUS);
    ready();
    create(&other, memory + 2000 * PAGE, 40);
    for (uint64_t i = 0; i <= 40; i++) {
        s.done = false;
        pthread_create(&runner[i], 0, run_step, &s);
        while (stays && !s.done)
            usleep(100);
        if (!stays)
            pthread_join(runner[i], 0);
        must(s.error[0] == (i < 40 ? EFAULT : 0) && s.error[1] == s.error[0], "run");
        s.page[0] = memory + i * PAGE;
        s.page[1] = memory + (2000 + i) * PAGE;
    }
    quit = true;
    for (int i = 0; stays && i <= 40; i++)
        pthread_join(runner[i], 0);
}

/* Ahead of the guest, which touches these pages then, and others. */
enum { AHEAD = 300, TOUCHED = 400 };

static void by_thread(uint64_t n, const char *unused) {
    (void)n, (void)unused;
    ordinary(0);
    ready_with_handler();
    must(!madvise(memory, AHEAD * PAGE, MADV_POPULATE_WRITE), "MADV_POPULATE_WRITE");
    must(!touch(&first, 0, TOUCHED), "run");
}

static void by_process(uint64_t n, const char *unused) {
    (void)n, (void)unused;
    ordinary(0);
    ready_with_handler();
    pid_t vmm = getpid(), child = fork();
    for (int i = 0; !child && i < AHEAD; i++) {
        struct iovec here = {source, 64}, there = {memory + i * PAGE, 64};
        must(process_vm_writev(vmm, &here, 1, &there, 1, 0) == 64, "process_vm_writev");
    }
    if (!child)
        _exit(0);
    waitpid(child, NULL, 0);
    must(!touch(&first, 0, TOUCHED), "run");
}

static void by_ioctl(uint64_t n, const char *unused) {
    struct {
        uint64_t gpa, size, flags, padding[5];
    } ahead = {.gpa = GUEST_MEMORY, .size = AHEAD * PAGE}; /* struct kvm_pre_fault_memory, since Linux 6.11 */
    (void)n, (void)unused;
    ordinary(0);
    ready_with_handler();
    refused = ioctl(first.vcpu, _IOWR(KVMIO, 0xd5, ahead), &ahead) ? errno : 0;
    must(!touch(&first, 0, TOUCHED), "run");
}

static void halfway(uint64_t n, const char *unused) {
    (void)n, (void)unused;
    ordinary(0);
    ready();
    for (uint64_t i = 0; i < 100; i++) {
        must(copy(memory + (i * 16 + 5) * PAGE, PAGE), "UFFDIO_COPY");
        must(!copy(memory + i * 16 * PAGE, 16 * PAGE), "a page that is present was copied");
    }
}

static void *close_soon(void *unused) {
    (void)unused;
    usleep(300000);
    close(uffd);
    return NULL;
}

static void released(uint64_t n, const char *unused) {
    (void)n, (void)unused;
    ordinary(0);
    ready();
    pthread_create(&handler, 0, close_soon, 0);
    must(!touch(&first, 0, 1), "run");
}

static void reused(uint64_t n, const char *unused) {
    (void)n, (void)unused;
    ordinary(0);
    ready();
    int fd = dup(uffd);
    pthread_t runner;
    pthread_create(&handler, 0, handle, &fd);
    must(!touch(&first, 0, 100), "run");
    quit = true;
    pthread_join(handler, 0);
    close(fd);
    must(open("/dev/zero", O_RDONLY) == fd, "another descriptor");
    quit = false;
    pthread_create(&runner, 0, handle, &fd); /* reads zeros as if they were events */
    usleep(200000);
    quit = true;
    pthread_join(runner, 0);
}

static const struct {
    const char *name;
    void (*run)(uint64_t n, const char *option);
} ways[] = {
    {"churn", churn},        {"idle", idle},         {"crowd", crowd},         {"together", together},
    {"twin", twin},          {"snapshot", snapshot}, {"protected", protected}, {"written", written},
    {"huge", huge},          {"thp", thp},           {"elsewhere", elsewhere}, {"thread", by_thread},
    {"process", by_process}, {"ioctl", by_ioctl},    {"halfway", halfway},     {"released", released},
    {"reused", reused},      {"roaming", roaming},
};

int main(int count, char **argument) {
    uint64_t n = count > 2 ? strtoul(argument[2], 0, 0) : 0;
    char done[128];
    source = pages(16);
    memset(source, 3, 16 * PAGE);
    memory = pages(16 * 1024);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        if (count > 1 && !strcmp(argument[1], ways[i].name)) {
            ways[i].run(n, count > 3 ? argument[3] : NULL);
            while (answering) /* it has woken the vCPU, and counts its fill next */
                usleep(100);
            sprintf(done, "DONE {\"events\": %lu, \"fills\": %lu, \"tid\": %ld, \"refused\": %d}", events, fills,
                    syscall(SYS_gettid), refused);
            say(done);
            return 0;
        }
    return 2;
}

/* vms WAY [N]: VMs that fault in other ways than the guest of exitscope does. Says READY, waits for a line, does its work, says
 * DONE {what it counted}, and waits for another line.
 *
 *   churn N     VMs one after the other on one thread, of four pages each, while the first one lives on
 *   idle        a VM beside the first one is made, and never run
 *   together    two VMs at once, of 100 pages each, which take turns; the newer one is destroyed in between
 *   snapshot    300 of 1,000 pages are written while userfaultfd protects all against writing; 700 are freed in the background
 *   elsewhere   exit mode: another thread places the pages
 *   halfway     100 ranges of 16 pages are copied to where the sixth page is present already
 *   released    the userfaultfd is closed while the vCPU waits, before anybody has read its event
 *   reused      a descriptor of which events were read becomes a file's
 *   roaming N   exit mode: two VMs of 40 pages each; a thread of its own runs both from one fault to the next, and ends (N = 0)
 *               or stays; the next one places the page and goes on
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096UL
#define GUEST_MEMORY (1UL << 30) /* guest physical */
#define DOORBELL (3UL << 30)
#define LIST 0x100000UL

struct machine {
    int kvm, vm, vcpu;
    uint8_t *own; /* code, page tables, and the list of addresses to touch */
    struct kvm_run *run;
    size_t run_bytes;
};

static int uffd;
static uint8_t *memory, *source;
static volatile bool quit;
static volatile uint64_t events, fills;

static void must(bool good, const char *what) {
    if (good)
        return;
    perror(what);
    exit(1);
}

static uint8_t *pages(uint64_t count) {
    uint8_t *at = mmap(0, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    must(at != MAP_FAILED, "mmap");
    madvise(at, count * PAGE, MADV_NOHUGEPAGE);
    return at;
}

static void add_slot(struct machine *m, int slot, uint64_t gpa, void *at, uint64_t bytes) {
    struct kvm_userspace_memory_region region = {
        .slot = slot, .guest_phys_addr = gpa, .memory_size = bytes, .userspace_addr = (uintptr_t)at};
    must(!ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region), "memslot");
}

/* User mode, 64 bits, four GiB mapped one to one with large pages. */
static void create(struct machine *m, uint8_t *at, uint64_t count) {
    /* 1: mov (%rsi),%rax; movb $1,(%rax); add $8,%rsi; dec %rcx; jnz 1b; movb $1,(%r13); 2: jmp 2b */
    static const uint8_t code[] = {0x48, 0x8b, 0x06, 0xc6, 0x00, 0x01, 0x48, 0x83, 0xc6, 0x08, 0x48,
                                   0xff, 0xc9, 0x75, 0xf1, 0x41, 0xc6, 0x45, 0x00, 0x01, 0xeb, 0xfe};
    m->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    m->vm = ioctl(m->kvm, KVM_CREATE_VM, 0);
    must(m->vm >= 0, "KVM_CREATE_VM");
    m->own = pages(LIST / PAGE + 16);
    memcpy(m->own + 0x1000, code, sizeof code);
    *(uint64_t *)(m->own + 0x2000) = 0x3007;
    for (uint64_t gib = 0; gib < 4; gib++) {
        *(uint64_t *)(m->own + 0x3000 + 8 * gib) = (0x4000 + gib * PAGE) | 7;
        for (uint64_t i = 0; i < 512; i++)
            *(uint64_t *)(m->own + 0x4000 + gib * PAGE + 8 * i) = gib << 30 | i << 21 | 0xe7;
    }
    add_slot(m, 0, 0, m->own, LIST + 16 * PAGE);
    add_slot(m, 1, GUEST_MEMORY, at, count * PAGE);
    m->vcpu = ioctl(m->vm, KVM_CREATE_VCPU, 0);
    must(m->vcpu >= 0, "KVM_CREATE_VCPU");
    m->run_bytes = ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    m->run = mmap(0, m->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0);
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + 256 * sizeof(struct kvm_cpuid_entry2));
    cpuid->nent = 256;
    must(!ioctl(m->kvm, KVM_GET_SUPPORTED_CPUID, cpuid) && !ioctl(m->vcpu, KVM_SET_CPUID2, cpuid), "cpuid");
    free(cpuid);
    struct kvm_sregs s;
    must(!ioctl(m->vcpu, KVM_GET_SREGS, &s), "sregs");
    struct kvm_segment cs = {
        .limit = ~0U, .selector = 0x0b, .type = 11, .dpl = 3, .present = 1, .s = 1, .l = 1, .g = 1};
    struct kvm_segment ds = {
        .limit = ~0U, .selector = 0x13, .type = 3, .dpl = 3, .present = 1, .s = 1, .db = 1, .g = 1};
    s.cs = cs;
    s.ds = s.es = s.fs = s.gs = s.ss = ds;
    s.cr0 = 0x80050033;
    s.cr3 = 0x2000;
    s.cr4 = 1 << 5;
    s.efer = 1 << 8 | 1 << 10;
    must(!ioctl(m->vcpu, KVM_SET_SREGS, &s), "sregs");
}

static void destroy(struct machine *m) {
    munmap(m->run, m->run_bytes);
    close(m->vcpu);
    close(m->vm);
    close(m->kvm);
    munmap(m->own, LIST + 16 * PAGE);
}

/* Writes into pages first.. of the guest's memory. Returns 0, or the errno of KVM_RUN. */
static int touch(struct machine *m, uint64_t first, uint64_t count) {
    struct kvm_regs regs = {.rip = 0x1000, .rflags = 2, .rsi = LIST, .rcx = count, .r13 = DOORBELL};
    for (uint64_t i = 0; i < count; i++)
        ((uint64_t *)(m->own + LIST))[i] = GUEST_MEMORY + (first + i) * PAGE;
    must(!ioctl(m->vcpu, KVM_SET_REGS, &regs), "regs");
    return ioctl(m->vcpu, KVM_RUN, 0) ? errno : 0;
}

static void watch(uint64_t features, void *at, uint64_t count, uint64_t mode) {
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    struct uffdio_register range = {.range = {(uintptr_t)at, count * PAGE}, .mode = mode};
    uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    must(uffd >= 0 && !ioctl(uffd, UFFDIO_API, &api) && !ioctl(uffd, UFFDIO_REGISTER, &range), "userfaultfd");
}

static bool copy(void *at, uint64_t count) {
    struct uffdio_copy c = {.dst = (uintptr_t)at, .src = (uintptr_t)source, .len = count * PAGE};
    return !ioctl(uffd, UFFDIO_COPY, &c);
}

static bool protect(void *at, uint64_t count, bool on) {
    struct uffdio_writeprotect w = {{(uintptr_t)at, count * PAGE}, on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
    return !ioctl(uffd, UFFDIO_WRITEPROTECT, &w);
}

static void *handle(void *argument) {
    int fd = argument ? *(int *)argument : uffd;
    struct uffd_msg m;
    while (!quit) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 20) <= 0 || read(fd, &m, sizeof m) != sizeof m)
            continue;
        uint8_t *at = (uint8_t *)(uintptr_t)(m.arg.pagefault.address & ~(PAGE - 1));
        events++;
        fills += m.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP ? protect(at, 1, false) : copy(at, 1);
    }
    return NULL;
}

static void say(const char *line) {
    char answer[16];
    puts(line);
    fflush(stdout);
    if (!fgets(answer, sizeof answer, stdin))
        exit(0);
}

static pthread_t handler;
static void *asked; /* exit mode: the page that is wanted */

static void *place(void *unused) {
    (void)unused;
    while (!quit) {
        void *at = __atomic_load_n(&asked, __ATOMIC_SEQ_CST);
        usleep(200);
        if (!at)
            continue;
        fills += copy(at, 1);
        __atomic_store_n(&asked, NULL, __ATOMIC_SEQ_CST);
    }
    return NULL;
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
            fills += copy(s->page[i], 1);
        s->error[i] = s->page[i] ? (ioctl(s->machine[i]->vcpu, KVM_RUN, 0) ? errno : 0) : touch(s->machine[i], 0, 40);
    }
    s->done = true;
    while (s->stays && !quit)
        usleep(1000);
    return NULL;
}

static void roam(struct machine *first, struct machine *other, bool stays) {
    struct step s = {.machine = {first, other}, .stays = stays};
    pthread_t runner[41];
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

static void *close_soon(void *unused) {
    (void)unused;
    usleep(300000);
    close(uffd);
    return NULL;
}

int main(int count, char **argument) {
    const char *way = count > 1 ? argument[1] : "";
    uint64_t n = count > 2 ? strtoul(argument[2], 0, 0) : 0;
    struct machine first, other;
    char done[128];
    source = pages(16);
    memset(source, 3, 16 * PAGE);
    memory = pages(16 * 1024);
    if (!strcmp(way, "snapshot")) {
        memset(memory, 1, 1000 * PAGE);
        create(&first, memory, 1000);
        must(!touch(&first, 0, 1000), "run");
        watch(UFFD_FEATURE_PAGEFAULT_FLAG_WP, memory, 1000, UFFDIO_REGISTER_MODE_WP);
    } else {
        bool exits = !strcmp(way, "elsewhere") || !strcmp(way, "roaming");
        watch(exits ? UFFD_FEATURE_SIGBUS : 0, memory, 16 * 1024, UFFDIO_REGISTER_MODE_MISSING);
        create(&first, memory, 1600);
    }
    say("READY");
    if (strcmp(way, "halfway") && strcmp(way, "elsewhere") && strcmp(way, "released") && strcmp(way, "reused") &&
        strcmp(way, "roaming"))
        pthread_create(&handler, 0, handle, 0);
    if (!strcmp(way, "churn")) {
        must(!touch(&first, 0, 4), "run");
        for (uint64_t i = 0; i < n; i++) {
            create(&other, memory + (2000 + i * 4) * PAGE, 4);
            must(!touch(&other, 0, 4), "run");
            destroy(&other);
        }
    } else if (!strcmp(way, "idle")) {
        must(!touch(&first, 0, 4), "run");
        create(&other, memory + 2000 * PAGE, 4);
    } else if (!strcmp(way, "together")) {
        create(&other, memory + 2000 * PAGE, 100);
        for (uint64_t i = 0; i < 100; i++)
            must(!touch(&first, i, 1) && !touch(&other, i, 1), "run");
        copy(memory + 1000 * PAGE, 1); /* ahead of need: the older one's */
        destroy(&other);
        must(!touch(&first, 100, 100), "run");
    } else if (!strcmp(way, "snapshot")) {
        must(protect(memory, 1000, true), "UFFDIO_WRITEPROTECT");
        must(!touch(&first, 0, 300), "run");
        for (uint64_t i = 300; i < 1000; i++)
            must(protect(memory + i * PAGE, 1, false), "UFFDIO_WRITEPROTECT");
    } else if (!strcmp(way, "elsewhere")) {
        pthread_create(&handler, 0, place, 0);
        for (uint64_t i = 0; i < 100; i++) {
            must(touch(&first, i, 1) == EFAULT, "no fault");
            __atomic_store_n(&asked, memory + i * PAGE, __ATOMIC_SEQ_CST);
            while (__atomic_load_n(&asked, __ATOMIC_SEQ_CST))
                usleep(100);
            must(!ioctl(first.vcpu, KVM_RUN, 0), "run");
        }
    } else if (!strcmp(way, "roaming")) {
        create(&other, memory + 2000 * PAGE, 40);
        roam(&first, &other, n);
    } else if (!strcmp(way, "halfway")) {
        for (uint64_t i = 0; i < 100; i++) {
            must(copy(memory + (i * 16 + 5) * PAGE, 1), "UFFDIO_COPY");
            must(!copy(memory + i * 16 * PAGE, 16), "a page that is present was copied");
        }
    } else if (!strcmp(way, "released")) {
        pthread_create(&handler, 0, close_soon, 0);
        must(!touch(&first, 0, 1), "run");
    } else if (!strcmp(way, "reused")) {
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
    if (handler && !quit) { /* what it has counted is all, then */
        quit = true;
        pthread_join(handler, 0);
    }
    sprintf(done, "DONE {\"events\": %lu, \"fills\": %lu}", events, fills);
    say(done);
    return 0;
}

/* pager.c: a VM of one vCPU whose memory is filled in by somebody, as VMMs do it that restore snapshots.
 *
 * pager thread    by a thread of its own
 * pager workers   a thread reads the events and starts another one for each, which ends when it has placed the page
 * pager kept      by another process; the VMM keeps its own descriptor of the userfaultfd
 * pager closed    by another process, which alone has the descriptor
 * pager given     by a daemon, which takes the userfaultfd when it is told of it; the VMM takes a line, and closes its own
 * pager lent      the same, and the VMM keeps its own
 * Says "READY PID" with the process that fills (given, lent: the number of the descriptor), takes lines
 * "PAGES MICROSECONDS", touches so many further pages, each of which comes that late, says "DONE", and ends in order with
 * its stdin.
 *
 * pager daemon    fills the memory of several VMs: takes lines "take PID FD", "hold N" and "release N" (the faults of the Nth
 *                 are read, and answered no more), says "DONE" to each, and ends with its stdin. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define PAGES 512UL
#define DATA_AT 0x40000000UL /* guest addresses */
#define BELL_AT 0xf0000000UL
#define CODE_AT 0x1000UL
#define TABLES_AT 0x2000UL

static int uffd;
static uint64_t *late_us; /* shared with the process that fills */
static uint8_t content[PAGE];

static void must(int good, const char *what) {
    if (!good) {
        perror(what);
        exit(1);
    }
}

static void *place(void *address) {
    struct timespec late = {.tv_sec = *late_us / 1000000, .tv_nsec = *late_us % 1000000 * 1000};
    nanosleep(&late, 0);
    struct uffdio_copy copy = {.dst = (uint64_t)address, .src = (uint64_t)content, .len = PAGE};
    ioctl(uffd, UFFDIO_COPY, &copy);
    return 0;
}

static void *fill(void *workers) {
    struct uffd_msg message;
    for (;;) {
        struct pollfd ready = {.fd = uffd, .events = POLLIN};
        poll(&ready, 1, -1);
        if (read(uffd, &message, sizeof(message)) != sizeof(message))
            continue;
        void *address = (void *)(message.arg.pagefault.address & ~(PAGE - 1));
        pthread_t thread;
        if (!workers)
            place(address);
        else if (!pthread_create(&thread, 0, place, address))
            pthread_detach(thread);
    }
    return 0;
}

static void take_events(int fd, int held, uint64_t *kept) {
    struct uffd_msg message;
    if (read(fd, &message, sizeof(message)) != sizeof(message))
        return;
    uffd = fd;
    *kept = message.arg.pagefault.address & ~(PAGE - 1);
    if (!held)
        place((void *)*kept);
}

static int daemon_of_several(void) {
    struct pollfd ready[9] = {{.events = POLLIN}};
    int taken = 0, held = -1, pid, fd;
    uint64_t kept[8];
    char line[64];
    printf("READY %d\n", getpid());
    for (;;) {
        fflush(stdout);
        must(poll(ready, taken + 1, -1) > 0, "poll");
        for (int i = 0; i < taken; i++)
            if (ready[i + 1].revents)
                take_events(ready[i + 1].fd, i == held, &kept[i]);
        if (!ready[0].revents)
            continue;
        ssize_t bytes = read(0, line, sizeof(line) - 1);
        if (bytes <= 0)
            return 0;
        line[bytes] = 0;
        if (sscanf(line, "take %d %d", &pid, &fd) == 2) {
            int process = syscall(SYS_pidfd_open, pid, 0);
            ready[++taken] = (struct pollfd){.fd = syscall(SYS_pidfd_getfd, process, fd, 0), .events = POLLIN};
            must(ready[taken].fd >= 0, "pidfd_getfd");
            close(process);
        } else if (sscanf(line, "release %d", &held) == 1) {
            uffd = ready[held + 1].fd;
            place((void *)kept[held]);
            held = -1;
        } else {
            sscanf(line, "hold %d", &held);
        }
        printf("DONE\n");
    }
}

static void add_memory(int vm, uint32_t slot, uint64_t gpa, void *memory, uint64_t bytes) {
    struct kvm_userspace_memory_region region = {
        .slot = slot, .guest_phys_addr = gpa, .memory_size = bytes, .userspace_addr = (uint64_t)memory};
    must(!ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

/* User code in long mode, memory mapped one to one: writes a byte to each of rcx pages from rsi on, and rings the bell. */
static int new_vcpu(int kvm, int vm) {
    static const uint8_t code[] = {0xc6, 0x06, 0x01, 0x48, 0x81, 0xc6, 0x00, 0x10, 0,    0,    0x48,
                                   0xff, 0xc9, 0x75, 0xf1, 0x41, 0xc6, 0x45, 0x00, 0x01, 0xeb, 0xfe};
    uint8_t *low = mmap(0, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(low + CODE_AT, code, sizeof(code));
    uint64_t *tables = (uint64_t *)(low + TABLES_AT);
    tables[0] = (TABLES_AT + PAGE) | 7;
    for (uint64_t gib = 0; gib < 4; gib++) {
        tables[512 + gib] = (TABLES_AT + (2 + gib) * PAGE) | 7;
        for (uint64_t i = 0; i < 512; i++)
            tables[(2 + gib) * 512 + i] = gib << 30 | i << 21 | 0xe7;
    }
    add_memory(vm, 0, 0, low, 16 * PAGE);
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    must(vcpu >= 0, "KVM_CREATE_VCPU");
    struct kvm_cpuid2 *known = calloc(1, sizeof(*known) + 256 * sizeof(struct kvm_cpuid_entry2));
    known->nent = 256;
    must(!ioctl(kvm, KVM_GET_SUPPORTED_CPUID, known) && !ioctl(vcpu, KVM_SET_CPUID2, known), "KVM_SET_CPUID2");
    struct kvm_sregs sregs;
    must(!ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    struct kvm_segment data = {
        .limit = ~0U, .selector = 0x13, .type = 3, .dpl = 3, .present = 1, .s = 1, .db = 1, .g = 1};
    sregs.cs = (struct kvm_segment){
        .limit = ~0U, .selector = 0x0b, .type = 11, .dpl = 3, .present = 1, .s = 1, .l = 1, .g = 1};
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.cr0 = 0x80050033;
    sregs.cr3 = TABLES_AT;
    sregs.cr4 = 1 << 5;
    sregs.efer = 1 << 8 | 1 << 10;
    must(!ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    return vcpu;
}

static void touch(int vcpu, uint64_t first, uint64_t count) {
    struct kvm_regs regs = {.rip = CODE_AT, .rflags = 2, .rsi = DATA_AT + first * PAGE, .rcx = count, .r13 = BELL_AT};
    must(!ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
    while (ioctl(vcpu, KVM_RUN, 0))
        must(errno == EINTR, "KVM_RUN"); /* kicked by SIGUSR1, or stopped */
}

static void nothing(int signal) { (void)signal; }

int main(int count, char **arguments) {
    must(count == 2, "usage");
    int closed = !strcmp(arguments[1], "closed"), process = closed || !strcmp(arguments[1], "kept");
    int given = !strcmp(arguments[1], "given"), lent = !strcmp(arguments[1], "lent");
    uint8_t *memory = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    late_us = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset(content, 7, PAGE);
    if (!strcmp(arguments[1], "daemon"))
        return daemon_of_several();
    uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.range = {(uint64_t)memory, PAGES * PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    must(uffd >= 0 && !ioctl(uffd, UFFDIO_API, &api), "userfaultfd");
    must(!ioctl(uffd, UFFDIO_REGISTER, &range), "UFFDIO_REGISTER");
    int filler = getpid();
    if (given || lent) {
        filler = uffd;
    } else if (process) {
        filler = fork();
        if (!filler) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            fill(0);
        }
    } else {
        pthread_t thread;
        must(!pthread_create(&thread, 0, fill, strcmp(arguments[1], "workers") ? 0 : late_us), "pthread_create");
    }
    if (closed)
        close(uffd);
    signal(SIGUSR1, nothing);
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    must(vm >= 0, "KVM_CREATE_VM");
    int vcpu = new_vcpu(kvm, vm);
    add_memory(vm, 1, DATA_AT, memory, PAGES * PAGE);
    printf("READY %d\n", filler);
    fflush(stdout);
    if (given || lent)
        scanf("%*s");
    if (given)
        close(uffd);
    uint64_t done = 0, pages;
    while (scanf("%lu %lu", &pages, late_us) == 2) {
        touch(vcpu, done, pages);
        done += pages;
        printf("DONE\n");
        fflush(stdout);
    }
    return 0;
}

/* stranger.c: VMs of a user who means no good. Their vCPUs run until their first HLT.
 *
 * stranger stuck        whoever takes its mmap_lock waits, until a line comes on stdin
 * stranger many UID N   N VMs with one vCPU each in a process of that user
 * Says "READY" when all vCPUs have run once, and ends with its stdin. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/fuse.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096UL

static void must(int good, const char *what) {
    if (!good) {
        perror(what);
        exit(1);
    }
}

static int new_vm(int kvm) {
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    must(vm >= 0, "KVM_CREATE_VM");
    uint8_t *code = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset(code, 0xf4, PAGE); /* hlt */
    struct kvm_userspace_memory_region region = {.memory_size = PAGE, .userspace_addr = (uint64_t)code};
    must(!ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
    return vm;
}

static void run_vcpu(int vm) {
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    must(vcpu >= 0, "KVM_CREATE_VCPU");
    struct kvm_sregs sregs;
    must(!ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    sregs.cs.base = sregs.cs.selector = 0;
    must(!ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    struct kvm_regs regs = {.rip = 0, .rflags = 2};
    must(!ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
    ioctl(vcpu, KVM_RUN, 0);
}

/* A file system that is one file, whose content comes when `release` can be read. */
static void serve(int fuse, int release) {
    char request[2 * FUSE_MIN_READ_BUFFER];
    struct fuse_in_header *in = (void *)request;
    uint64_t held = 0;
    for (;;) {
        if (held) {
            char content[PAGE] = {};
            if (read(release, content, 1) < 1)
                _exit(0);
            struct fuse_out_header out = {.len = sizeof(out) + PAGE, .unique = held};
            struct iovec parts[] = {{&out, sizeof(out)}, {content, PAGE}};
            writev(fuse, parts, 2);
            held = 0;
        }
        if (read(fuse, request, sizeof(request)) < 0 && errno != EINTR && errno != ENOENT)
            _exit(0);
        struct fuse_init_out init = {.major = 7, .minor = 31, .max_write = PAGE};
        struct fuse_attr_out attributes = {.attr_valid = 1000,
                                           .attr = {.ino = 1, .size = PAGE, .mode = S_IFREG | 0600, .nlink = 1}};
        struct fuse_open_out opened = {};
        struct iovec parts[2] = {};
        struct fuse_out_header out = {.unique = in->unique};
        switch (in->opcode) {
        case FUSE_INIT:
            parts[1] = (struct iovec){&init, sizeof(init)};
            break;
        case FUSE_GETATTR:
            parts[1] = (struct iovec){&attributes, sizeof(attributes)};
            break;
        case FUSE_OPEN:
            parts[1] = (struct iovec){&opened, sizeof(opened)};
            break;
        case FUSE_READ:
            held = in->unique;
            continue;
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
            continue;
        default:
            out.error = -ENOSYS;
        }
        parts[0] = (struct iovec){&out, sizeof(out)};
        out.len = parts[0].iov_len + parts[1].iov_len;
        writev(fuse, parts, 2);
    }
}

/* Holds the mmap_lock while the page is read: /proc/PID/mem does not let go of it. */
static void *read_own_memory(void *page) {
    char byte;
    pread(open("/proc/self/mem", O_RDONLY | O_CLOEXEC), &byte, 1, (off_t)page);
    return 0;
}

/* Waits for the mmap_lock to change something: nobody who wants to read passes it by. */
static void *change_own_memory(void *unused) { return mmap(0, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

/* Returns a descriptor: a byte that is written to it ends it. */
static int hold_mmap_lock(void) {
    char name[] = "/tmp/strangerXXXXXX", options[100];
    must(!unshare(CLONE_NEWNS) && !mount(0, "/", 0, MS_REC | MS_PRIVATE, 0), "unshare");
    int place = mkstemp(name), fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC), ends[2];
    snprintf(options, sizeof(options), "fd=%d,rootmode=100000,user_id=0,group_id=0", fuse);
    must(place >= 0 && fuse >= 0 && !pipe(ends), "/dev/fuse");
    must(!mount("stranger", name, "fuse", MS_NOSUID | MS_NODEV, options), "mount");
    if (!fork()) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ends[1]);
        serve(fuse, ends[0]);
    }
    close(fuse);
    int file = open(name, O_RDONLY | O_CLOEXEC);
    struct stat status; /* the kernel asks for the file's size */
    must(!fstat(file, &status), "fstat");
    void *page = mmap(0, PAGE, PROT_READ, MAP_PRIVATE, file, 0);
    must(page != MAP_FAILED, "mmap of a FUSE file");
    pthread_t threads[2];
    must(!pthread_create(&threads[0], 0, read_own_memory, page), "pthread_create");
    usleep(200000);
    must(!umount2(name, MNT_DETACH) && !unlink(name), "umount");
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    static char stack[1 << 16] __attribute__((aligned(4096)));
    return pthread_attr_setstack(&attributes, stack, sizeof(stack)) ||
                   pthread_create(&threads[1], &attributes, change_own_memory, 0)
               ? -1
               : ends[1];
}

int main(int count, char **arguments) {
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    must(kvm >= 0 && count > 1, "/dev/kvm");
    int stuck = !strcmp(arguments[1], "stuck"), release = -1, vms = 1;
    if (!stuck) {
        int user = atoi(arguments[2]);
        vms = atoi(arguments[3]);
        must(!setgroups(0, 0) && !setresgid(user, user, user) && !setresuid(user, user, user), "setresuid");
    }
    for (int i = 0; i < vms; i++) {
        int vm = new_vm(kvm);
        if (stuck) {
            release = hold_mmap_lock();
            usleep(200000);
        }
        run_vcpu(vm);
    }
    write(1, "READY\n", 6);
    char byte;
    while (read(0, &byte, 1) == 1)
        if (release >= 0)
            write(release, &byte, 1);
    return 0;
}

/* A guest that is its own firmware (QEMU's -bios, 64 KiB below 1 MiB): each vCPU writes a byte into pages at random, for
 * ever, in user mode of long mode.
 *
 * Assembled with --defsym: VCPUS; FIRST, END the range of the pages, above 1 MiB; ASYNC 1: takes interrupts, none of
 * which come, so that KVM may make its page faults asynchronous. Memory is zeroed when it starts.
 */
.set BASE, 0xf0000
.set COUNT, 0x6000   /* u32: vCPUs that have come up */
.set TOUCHES, 0x6040 /* u64 by vCPU: pages written so far */
.set TABLES, 0x10000 /* three page tables */
.set LAPIC_ICR, 0xfee00300
.set INIT_OTHERS, 0xc4500 /* to all but self: Intel SDM 3A, 11.6.1 */
.set START_OTHERS, 0xc4600 + (BASE >> 12)

.text
.code16
real_mode: /* the others begin here, f000:0000 */
    cli
    lgdtl %cs:(gdt_pointer - real_mode)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x08, $protected_mode

.code32
protected_mode:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $1, %ebp
    lock xaddl %ebp, COUNT
    testl %ebp, %ebp
    jnz long_mode_on
    movb $0xff, %al /* the interrupt controller's lines stay quiet */
    outb %al, $0x21
    outb %al, $0xa1
    movl $(TABLES + 0x1000 + 7), TABLES
    movl $(TABLES + 0x2000 + 7), TABLES + 0x1000
    movl $(TABLES + 0x2000), %edi
    movl $0x87, %eax /* 512 pages of 2 MiB, for user mode too */
    movl $512, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 1b
    cmpl $VCPUS, COUNT
    je long_mode_on
    movl $INIT_OTHERS, LAPIC_ICR
    movl $2000, %ecx
1:  pause
    loop 1b
    movl $START_OTHERS, LAPIC_ICR

long_mode_on:
    movl %cr4, %eax
    orl $0x20, %eax /* PAE */
    movl %eax, %cr4
    movl $TABLES, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx /* EFER */
    rdmsr
    orl $0x100, %eax /* LME */
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    movl %ebp, %esp
    shll $8, %esp
    addl $0x20100, %esp
    ljmp $0x18, $long_mode

.code64
long_mode:
    movl %esp, %eax
    pushq $0x23
    pushq %rax
    pushq $(0x3002 + ASYNC * 0x200)
    pushq $0x2b
    movl $user, %eax
    pushq %rax
    iretq

user:
    movabsq $6364136223846793005, %r12 /* D. Knuth's MMIX linear congruential generator */
    leal 1(%rbp,%rbp), %r13d
    imulq %r12, %r13
    movl $((END - FIRST) >> 12), %r14d
    movl $FIRST, %r9d
1:  imulq %r12, %r13
    addq %r12, %r13
    movq %r13, %rax
    shrq $32, %rax
    imulq %r14, %rax
    shrq $32, %rax
    shlq $12, %rax
    incb (%r9,%rax)
    incq TOUCHES(,%rbp,8)
    jmp 1b

.balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff /* 08: 32-bit code */
    .quad 0x00cf93000000ffff /* 10: data */
    .quad 0x00af9b000000ffff /* 18: 64-bit code */
    .quad 0x00cff3000000ffff /* 20: data, user */
    .quad 0x00affb000000ffff /* 28: 64-bit code, user */
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt

.org 0xfff0
.code16
    ljmp $(BASE >> 4), $0 /* the first vCPU begins here */
.org 0xffff
    .byte 0

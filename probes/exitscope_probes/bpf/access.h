/* access.h: what the guest wanted to do with the page, out of the code that came with its fault.
 *
 * The tracepoint kvm:kvm_page_fault carries as "error_code" the EPT exit qualification on VMX and the page fault
 * error code on SVM, and on VMX too where shadow paging is in use; what the kernel's function kvm_mmu_page_fault
 * gets is a page fault error code on both. Mirrored by access.py.
 */
#ifndef EXITSCOPE_ACCESS_H
#define EXITSCOPE_ACCESS_H

/* Exit qualification of an EPT violation: bits 0-2 the access; 3-5 what the entry allowed (arch/x86/include/asm/
 * vmx.h, EPT_VIOLATION_ACC_*; Intel SDM volume 3, table "Exit Qualification for EPT Violations"). */
#define EPT_ACCESS_READ (1 << 0)
#define EPT_ACCESS_WRITE (1 << 1)
#define EPT_ACCESS_FETCH (1 << 2)

/* Page fault error code (arch/x86/include/asm/kvm_host.h, PFERR_*): present 0, user 2, reserved 3 say nothing here. */
#define PFERR_WRITE (1 << 1)
#define PFERR_FETCH (1 << 4)

/* Exception syndrome register of a stage 2 abort (arch/arm64/include/asm/esr.h): its class, and of a data abort
 * whether it was a write or the walk of a page table, which writes the access flag. */
#define ESR_CLASS(esr) (((esr) >> 26) & 0x3f)
#define ESR_CLASS_IABT_LOW 0x20
#define ESR_WNR (1 << 6)
#define ESR_S1PTW (1 << 7)

/* ACCESS_* of a fault. is_vmx: the code is an EPT exit qualification (-DIS_VMX); an access that reads and writes
 * at once has both bits there, and the write alone in an error code. 0: the processor did not say. */
static inline __attribute__((always_inline)) __u8 access_of(__u64 error_code, int is_vmx) {
    if (is_vmx)
        return (error_code & EPT_ACCESS_READ ? ACCESS_READ : 0) | (error_code & EPT_ACCESS_WRITE ? ACCESS_WRITE : 0) |
               (error_code & EPT_ACCESS_FETCH ? ACCESS_EXEC : 0);
    if (error_code & PFERR_FETCH)
        return ACCESS_EXEC;
    return error_code & PFERR_WRITE ? ACCESS_WRITE : ACCESS_READ;
}

/* The same of arm64's kvm:kvm_guest_fault, whose hsr is the syndrome. */
static inline __attribute__((always_inline)) __u8 access_of_syndrome(__u64 esr) {
    if (ESR_CLASS(esr) == ESR_CLASS_IABT_LOW)
        return ACCESS_EXEC;
    return (esr & ESR_WNR) && !(esr & ESR_S1PTW) ? ACCESS_WRITE : ACCESS_READ;
}

#endif

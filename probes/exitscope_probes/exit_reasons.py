"""Hardware exits by name: which cell of struct hardware_exits counts which exit code, and what the kernel calls it.

VMX and SVM names are those of VMX_EXIT_REASONS and SVM_EXIT_REASONS (arch/x86/include/uapi/asm/vmx.h and svm.h), which
the tracepoint kvm:kvm_exit prints, and perf with it. arm64's are the exception classes ESR_ELx_EC_* (arch/arm64/
include/asm/esr.h) of a trap, and the other exception codes ARM_EXCEPTION_* (arch/arm64/include/asm/kvm_asm.h).
"""

from typing import Final

ISA_NONE, ISA_VMX, ISA_SVM, ISA_ARM64 = range(4)
"""VMX and SVM as the tracepoint's field `isa` says (KVM_ISA_*, arch/x86/kvm/trace.h), arm64 ours; 0: nothing seen."""

ISAS: Final = ("", "vmx", "svm", "arm64")

DIRECT: Final = 256
FOLDED: Final = 16
FOLDED_FROM: Final = 0x400
BEYOND: Final = DIRECT + FOLDED
HARDWARE_CELLS: Final = BEYOND + 1

ARM_EXCEPTION_TRAP: Final = 2
ARM64_CODES: Final = 64  # cells of the exception codes that are no traps, behind those of the classes


def _numbered(first: int, names: str) -> dict[int, str]:
    """Names by number, counting up; `.` leaves a number out."""
    return {number: name for number, name in enumerate(names.split(), first) if name != "."}


_VMX: Final = _numbered(
    0,
    "EXCEPTION_NMI EXTERNAL_INTERRUPT TRIPLE_FAULT INIT_SIGNAL SIPI_SIGNAL . . INTERRUPT_WINDOW NMI_WINDOW TASK_SWITCH "
    "CPUID . HLT INVD INVLPG RDPMC RDTSC . VMCALL VMCLEAR VMLAUNCH VMPTRLD VMPTRST VMREAD VMRESUME VMWRITE VMOFF VMON "
    "CR_ACCESS DR_ACCESS IO_INSTRUCTION MSR_READ MSR_WRITE INVALID_STATE MSR_LOAD_FAIL . MWAIT_INSTRUCTION "
    "MONITOR_TRAP_FLAG . MONITOR_INSTRUCTION PAUSE_INSTRUCTION MCE_DURING_VMENTRY . TPR_BELOW_THRESHOLD APIC_ACCESS "
    "EOI_INDUCED GDTR_IDTR LDTR_TR EPT_VIOLATION EPT_MISCONFIG INVEPT RDTSCP PREEMPTION_TIMER INVVPID WBINVD XSETBV "
    "APIC_WRITE RDRAND INVPCID VMFUNC ENCLS RDSEED PML_FULL XSAVES XRSTORS . . UMWAIT TPAUSE . . . . . BUS_LOCK NOTIFY "
    ". TDCALL . . . . . . MSR_READ_IMM MSR_WRITE_IMM",
)

_CONTROL_REGISTERS: Final = (0, 2, 3, 4, 8)
_EXCEPTIONS: Final = _numbered(0, "DE DB . BP OF BR UD NM DF . TS NP SS GP PF . MF AC MC XF")
_SVM: Final = (
    {number: f"read_cr{number}" for number in _CONTROL_REGISTERS}
    | {0x10 + number: f"write_cr{number}" for number in _CONTROL_REGISTERS}
    | {0x20 + number: f"read_dr{number}" for number in range(8)}
    | {0x30 + number: f"write_dr{number}" for number in range(8)}
    | {0x40 + vector: f"{name} excp" for vector, name in _EXCEPTIONS.items()}
    | _numbered(
        0x60,
        "interrupt nmi smi init vintr cr0_sel_write read_idtr read_gdtr read_ldtr read_rt write_idtr write_gdtr "
        "write_ldtr write_rt rdtsc rdpmc pushf popf cpuid rsm iret swint invd pause hlt invlpg invlpga io msr "
        "task_switch ferr_freeze shutdown vmrun hypercall vmload vmsave stgi clgi skinit rdtscp icebp wbinvd monitor "
        "mwait . xsetbv . write_efer_trap write_cr0_trap . . . write_cr4_trap . . . write_cr8_trap",
    )
    | {0xA2: "invpcid", 0xA5: "buslock", 0xA6: "idle-halt"}
    | _numbered(DIRECT, "npf avic_incomplete_ipi avic_unaccelerated_access vmgexit")
)

_ARM64: Final = _numbered(
    0,
    "UNKNOWN WFx . CP15_32 CP15_64 CP14_MR CP14_LS FP_ASIMD CP10_ID PAC OTHER . CP14_64 BTI ILL . . SVC32 HVC32 SMC32 "
    ". SVC64 HVC64 SMC64 SYS64 SVE ERET . FPAC SME . IMP_DEF IABT_LOW IABT_CUR PC_ALIGN . DABT_LOW DABT_CUR SP_ALIGN "
    "MOPS FP_EXC32 . . . FP_EXC64 GCS . EC_SERROR BREAKPT_LOW BREAKPT_CUR SOFTSTP_LOW SOFTSTP_CUR WATCHPT_LOW "
    "WATCHPT_CUR . . BKPT32 . VECTOR32 . BRK64",
) | _numbered(ARM64_CODES, "IRQ EL1_SERROR . IL")

_NAMES: Final = {ISA_VMX: _VMX, ISA_SVM: _SVM, ISA_ARM64: _ARM64}


def cell_of(isa: int, code: int, exception_class: int = 0) -> int:
    """Cell that counts an exit; hardware_exit.bpf.c computes the same.

    code: the tracepoint's exit_reason, of which VMX has flags above bit 15; on arm64 its `ret`, with its `esr_ec`.
    """
    code &= 0xFFFF_FFFF
    if isa == ISA_ARM64:
        code = exception_class & 0x3F if code == ARM_EXCEPTION_TRAP else min(ARM64_CODES + code, DIRECT)
    elif isa == ISA_VMX:
        code &= 0xFFFF
    elif FOLDED_FROM <= code < FOLDED_FROM + FOLDED:
        return DIRECT + code - FOLDED_FROM
    return code if code < DIRECT else BEYOND


def name_of(isa: int, cell: int) -> str:
    """The kernel's name of what a cell counts, or its number where the kernel has no name; no two have the same."""
    if cell >= BEYOND:
        return "other"
    known = _NAMES.get(isa, {}).get(cell)
    if known:
        return known
    if isa == ISA_ARM64:
        return f"EC {cell:#04x}" if cell < ARM64_CODES else f"exit code {cell - ARM64_CODES}"
    return f"exit {cell:#05x}" if cell < DIRECT else f"exit {cell - DIRECT + FOLDED_FROM:#05x}"

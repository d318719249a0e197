"""Fault rates that others published, for the eye to compare; never measured here."""

from typing import Final

SOURCE: Final = (
    "published with the kernel series that lets KVM_RUN exit on missing memory (KVM_CAP_EXIT_ON_MISSING): "
    "256-core x86, one userfaultfd, every vCPU faulting"
)

RATES_PER_S: Final[dict[str, dict[int, int]]] = {
    "uffd": {
        1: 150_000, 2: 191_000, 4: 210_000, 8: 155_000, 16: 130_000, 32: 108_000, 64: 86_000, 128: 62_000, 256: 36_000,
    },
    "exit": {
        1: 340_000, 2: 477_000, 4: 809_000, 8: 1_239_000, 16: 1_595_000, 32: 2_299_000, 64: 3_482_000,
        128: 4_134_000, 256: 4_012_000,
    },
}  # fmt: skip
"""Mode -> vCPUs -> faults per second."""

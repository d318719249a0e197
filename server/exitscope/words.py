"""Numbers as a person reads them: the only place here where nanoseconds become µs and ms, and bytes GiB."""

from typing import Protocol


class Interval(Protocol):
    """A value with its bounds, ns."""

    @property
    def value(self) -> float:
        """The value itself."""

    @property
    def low(self) -> float:
        """Its lower bound."""

    @property
    def high(self) -> float:
        """Its upper bound."""


def duration(ns: float) -> str:
    """812 ns, 66.4 µs, 1.32 ms, 4.07 s."""
    for unit, size in (("ns", 1.0), ("µs", 1e3), ("ms", 1e6)):
        if abs(ns) / size < 999.5:
            return f"{_three(ns / size) if size > 1 else f'{ns:.0f}'} {unit}"
    return f"{_three(ns / 1e9)} s"


def interval(of: Interval) -> str:
    """12.1 µs [11.9, 12.4]: one unit, that of the value."""
    value = duration(of.value)
    _, _, unit = value.rpartition(" ")
    size = {"ns": 1.0, "µs": 1e3, "ms": 1e6, "s": 1e9}[unit]
    return f"{value} [{_three(of.low / size)}, {_three(of.high / size)}]"


def factor(value: float) -> str:
    """1.7×, 0.92×, 0.017×"""
    if value < 0.095:
        return f"{value:.1g}×" if value < 0.01 else f"{value:.2g}×"
    return f"{_three(value) if value >= 10 else f'{value:.2f}' if value < 1.2 else f'{value:.1f}'}×"


def rate(per_s: float) -> str:
    """12.3 k/s"""
    if per_s >= 999.5e3:
        return f"{_three(per_s / 1e6)} M/s"
    return f"{_three(per_s / 1e3)} k/s" if per_s >= 999.5 else f"{_three(per_s)} /s"


def percent(share: float) -> str:
    """15 %"""
    return f"{100 * share:.0f} %" if abs(share) >= 0.0995 or share == 0 else f"{100 * share:.2g} %"


def count(number: int) -> str:
    """1,234,567"""
    return f"{number:,}"


def counted(number: int, what: str, many: str = "") -> str:
    """1 fault, 12,345 faults. many: the plural where it takes more than an s."""
    return f"{count(number)} {what if number == 1 else many or what + 's'}"


def size(length_bytes: int) -> str:
    """4 KiB, 1.50 GiB"""
    for unit, bytes_each in (("bytes", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)):
        if length_bytes < 1000 * bytes_each:
            whole, rest = divmod(length_bytes, bytes_each)
            return f"{whole if not rest else _three(length_bytes / bytes_each)} {unit}"
    return f"{_three(length_bytes / (1 << 40))} TiB"


def _three(value: float) -> str:
    size = abs(value)
    return f"{value:.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"

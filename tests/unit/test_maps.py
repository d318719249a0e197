"""Compiled code names maps by number; at every start their descriptors are put in."""

import struct
from types import SimpleNamespace

from exitscope_probes.maps import Maps

MOVE, LOAD, EXIT = 0xBF, 0x18, 0x95


def instruction(opcode: int, registers: int, immediate: int) -> bytes:
    return struct.pack("<BBhi", opcode, registers, 0, immediate)


def test_descriptors_replace_numbers_in_map_loads_only() -> None:
    maps = object.__new__(Maps)
    maps._by_name = {"first": SimpleNamespace(fd=41), "second": SimpleNamespace(fd=7)}  # type: ignore[dict-item]
    place = 1 << 20
    code = b"".join(
        (
            instruction(LOAD, 0x11, place + 1),
            instruction(0, 0, 0),
            instruction(LOAD, 0x02, place),  # a plain constant of the same value
            instruction(0, 0, 0),
            instruction(MOVE, 0x16, place),
            instruction(LOAD, 0x13, place),
            instruction(0, 0, 0),
            instruction(EXIT, 0, 0),
        )
    )
    relocated = maps.relocate(code)
    immediates = [struct.unpack("<BBhi", relocated[i : i + 8])[3] for i in range(0, len(relocated), 8)]
    assert immediates == [7, 0, place, 0, place, 41, 0, 0]
    assert len(relocated) == len(code)

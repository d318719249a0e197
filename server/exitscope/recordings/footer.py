"""The footer of a Parquet file, looked through before Arrow and DuckDB make objects of it: what takes three bytes in
Thrift's compact protocol (github.com/apache/thrift, doc/specs/thrift-compact-protocol.md) takes a kilobyte there."""

from typing import Final

MAX_PARTS: Final = 600_000
"""Structs, and items of lists: twelve for each column of 2,048 row groups."""

_MAX_DEPTH: Final = 16
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_FIXED: Final = {_BYTE: 1, _DOUBLE: 8}
_VARINTS: Final = (_I16, _I32, _I64)
_ROW_GROUPS: Final = (4,)
"""Numbers of the fields that lead to the lists whose length is bounded (parquet.thrift)."""

_COLUMNS: Final = (4, 1)
_SCHEMA: Final = (2,)


def check(footer: bytes, row_groups: int, columns: int) -> None:
    """Raises ValueError if it is no FileMetaData, or of more row groups, columns or parts than are believed."""
    most = {_ROW_GROUPS: row_groups, _COLUMNS: columns, _SCHEMA: columns + 1}
    try:
        _Walk(footer, most).struct(())
    except IndexError:
        raise ValueError("its footer is cut off") from None


class _Walk:
    def __init__(self, data: bytes, most: dict[tuple[int, ...], int]) -> None:
        self._data = data
        self._most = most
        self._at = 0
        self._parts = 0

    def struct(self, path: tuple[int, ...]) -> None:
        """path: the numbers of the fields that lead here."""
        self._count(1, path)
        data, number = self._data, 0
        while head := data[self._at]:
            self._at += 1
            if delta := head >> 4:
                number += delta
            else:
                number = self._varint() >> 1
            self._value(head & 15, (*path, number), in_field=True)
        self._at += 1

    def _value(self, kind: int, path: tuple[int, ...], in_field: bool = False) -> None:
        if kind in _VARINTS:
            self._varint()
        elif kind == _BINARY:
            self._skip(self._varint())
        elif kind == _STRUCT:
            self.struct(path)
        elif kind in (_LIST, _SET):
            self._list(path)
        elif kind in _FIXED:
            self._skip(_FIXED[kind])
        elif kind in (_TRUE, _FALSE):
            self._skip(0 if in_field else 1)
        else:  # Parquet has no maps
            raise ValueError(f"its footer has a value of kind {kind}")

    def _list(self, path: tuple[int, ...]) -> None:
        head = self._data[self._at]
        self._at += 1
        size, kind = head >> 4, head & 15
        if size == 15:
            size = self._varint()
        if size > (most := self._most.get(path, MAX_PARTS)):
            raise ValueError(f"its footer has a list of {size} items where at most {most} are believed")
        self._count(size if kind != _STRUCT else 0, path)
        for _ in range(size):
            self._value(kind, path)

    def _count(self, parts: int, path: tuple[int, ...]) -> None:
        self._parts += parts
        if self._parts > MAX_PARTS:
            raise ValueError(f"its footer has more than {MAX_PARTS} parts")
        if len(path) > _MAX_DEPTH:
            raise ValueError("its footer is nested too deep")

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ValueError("its footer has a number that is too long")

    def _skip(self, length: int) -> None:
        self._at += length
        if self._at > len(self._data):
            raise IndexError

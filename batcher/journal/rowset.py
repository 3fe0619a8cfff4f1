"""A set of row numbers, one bit a row: 100 million rows in 12.5 MB."""

import re
from collections.abc import Iterator, Sequence

_NOT_EMPTY = re.compile(rb"[^\x00]")
_NOT_FULL = re.compile(rb"[^\xff]")


class RowSet:
    """Row numbers from 0. Its memory grows with the highest row it ever held, not with how many."""

    __slots__ = ("_bits", "_count")

    def __init__(self) -> None:
        self._bits = bytearray()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, row: int) -> bool:
        byte = row >> 3
        return 0 <= byte < len(self._bits) and bool(self._bits[byte] >> (row & 7) & 1)

    def __iter__(self) -> Iterator[int]:
        """The rows in the set, ascending."""
        for byte in _matches(_NOT_EMPTY, self._bits):
            value = self._bits[byte]
            yield from (byte * 8 + bit for bit in range(8) if value >> bit & 1)

    def add(self, row: int) -> bool:
        """Take the row in; False when it was there already.

        Raises:
            ValueError: The row is negative.
        """
        byte, mask = row >> 3, 1 << (row & 7)
        bits = self._bits
        if byte < 0:
            raise ValueError(f"row {row} is negative")
        if byte >= len(bits):
            bits.extend(bytes(byte + 1 - len(bits)))
        if bits[byte] & mask:
            return False
        bits[byte] |= mask
        self._count += 1
        return True

    def discard(self, row: int) -> bool:
        """Let the row go; False when it was not there."""
        if row not in self:
            return False
        self._bits[row >> 3] ^= 1 << (row & 7)
        self._count -= 1
        return True

    def add_range(self, start: int, stop: int) -> int:
        """Take in the rows from `start` up to `stop`; how many of them are new.

        Costs a few operations however long the range is.
        """
        if not 0 <= start <= stop:
            raise ValueError(f"{start} to {stop} is no range of rows")
        if start == stop:
            return 0
        first, last = start >> 3, (stop - 1) >> 3
        bits = self._bits
        if last >= len(bits):
            bits.extend(bytes(last + 1 - len(bits)))
        before = int.from_bytes(bits[first : last + 1], "little")
        wanted = ((1 << (stop - start)) - 1) << (start & 7)
        bits[first : last + 1] = (before | wanted).to_bytes(last + 1 - first, "little")
        new = (stop - start) - (before & wanted).bit_count()
        self._count += new
        return new

    def add_new(self, rows: Sequence[int]) -> None:
        """Take in rows that are not there yet, none of them negative or twice in `rows`.

        For rows that lie apart: costs a third of `add`, which looks at each of them.
        """
        last = max(rows, default=-1) >> 3
        bits = self._bits
        if last >= len(bits):
            bits.extend(bytes(last + 1 - len(bits)))
        for row in rows:
            bits[row >> 3] |= 1 << (row & 7)
        self._count += len(rows)

    def has_any(self, rows: Sequence[int]) -> bool:
        """Whether any of these rows is in the set; none of them is negative."""
        bits, end = self._bits, len(self._bits) * 8
        return any(bits[row >> 3] >> (row & 7) & 1 for row in rows if row < end)

    def overlaps(self, start: int, stop: int) -> bool:
        """Whether any row from `start` up to `stop` is in the set."""
        if start >= stop:
            return False
        first = start >> 3
        value = int.from_bytes(self._bits[first : ((stop - 1) >> 3) + 1], "little")
        return bool(value >> (start & 7) & ((1 << (stop - start)) - 1))

    def first_missing(self, start: int = 0) -> int:
        """The lowest row from `start` on that is not in the set."""
        row = start
        while row & 7 and row in self:
            row += 1
        if row not in self:
            return row
        found = _NOT_FULL.search(self._bits, row >> 3)
        if found is None:
            return len(self._bits) * 8
        value = self._bits[found.start()]
        return found.start() * 8 + next(bit for bit in range(8) if not value >> bit & 1)

    def missing(self, stop: int, start: int = 0) -> Iterator[int]:
        """The rows from `start` up to `stop` that are not in the set, ascending."""
        row = self.first_missing(start)
        while row < stop:
            yield row
            row = self.first_missing(row + 1)


def _matches(pattern: re.Pattern[bytes], bits: bytearray) -> Iterator[int]:
    """Positions of the bytes that match. Searched one by one: an open `finditer` would lock the array's size."""
    found = pattern.search(bits)
    while found is not None:
        at = found.start()
        del found  # a match object holds the buffer, and a held bytearray cannot grow
        yield at
        found = pattern.search(bits, at + 1)

"""Finds keys that name two rows, however many rows there are, in flat memory.

A few keys are kept and compared as they are, which is exact. More are handed to `key_hashes`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from batcher.sources.key_hashes import HASHES_IN_MEMORY_MAX, HashCheck

KEPT_ROWS_MAX = 100_000
KEPT_BYTES_MAX = 8 * 2**20
"""Above either, hashes are kept in place of the keys."""


class KeyCheck(AbstractContextManager["KeyCheck"]):
    """Takes all keys, then tells which may stand twice. Leaving it removes its temporary files.

    Args:
        in_memory_max: So many hashes are kept in memory; more are spilled.
    """

    def __init__(self, *, in_memory_max: int = HASHES_IN_MEMORY_MAX) -> None:
        self._in_memory_max = in_memory_max
        self._kept: list[pa.Array] = []
        self._rows = self._bytes = 0
        self._twice: pa.Array | None = None
        self._hashed: HashCheck | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._hashed is not None:
            self._hashed.__exit__(kind, error, trace)

    def add(self, keys: pa.Array) -> None:
        """Take some keys, all of one type."""
        if self._hashed is not None:
            self._hashed.add(keys)
            return
        self._kept.append(keys)
        self._rows += len(keys)
        self._bytes += keys.nbytes
        if self._rows > KEPT_ROWS_MAX or self._bytes > KEPT_BYTES_MAX:
            self._hash()

    def has_suspects(self) -> bool:
        """Whether any two keys may be equal. After it no key is taken any more."""
        if self._hashed is not None:
            return self._hashed.has_suspects()
        if not self._kept:
            return False
        keys = pa.chunked_array(self._kept)
        if len(pc.unique(keys)) == len(keys):  # half the cost of counting each of them
            return False
        counts = pc.value_counts(keys)
        self._twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        return len(self._twice) > 0

    def is_suspect(self, keys: pa.Array) -> list[bool]:
        """For each key whether it may stand for more than one row."""
        if self._hashed is not None:
            return self._hashed.is_suspect(keys)
        mask: list[bool] = pc.is_in(keys, value_set=self._twice).to_pylist()
        return mask

    def _hash(self) -> None:
        self._hashed = HashCheck(in_memory_max=self._in_memory_max)
        for keys in self._drained():
            self._hashed.add(keys)

    def _drained(self) -> Iterator[pa.Array]:
        kept, self._kept = self._kept, []
        yield from kept

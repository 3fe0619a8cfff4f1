"""Finds which of many keys may name two rows, in flat memory: `KeyCheck` asks it where it has too many for itself.

Each key is hashed to 8 bytes. Up to a million hashes stay in memory; more are spilled to 64 temporary files by
their remainder, and each file is looked through on its own. Equal hashes are only suspects: the caller reads the
keys once more and asks `is_suspect`, so that the real values decide. polars does it, which takes 0.1 s to load.
"""

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl
import pyarrow as pa

from batcher.storage.durable import storage_error

HASHES_IN_MEMORY_MAX = 1_000_000
_PARTS = 64
_SUSPECTS_MAX = 100_000
_CHUNKS_MAX = 4096


class HashCheck(AbstractContextManager["HashCheck"]):
    """Takes the hashes of all keys, then tells which may stand twice. Leaving it removes its temporary files."""

    def __init__(self, *, in_memory_max: int = HASHES_IN_MEMORY_MAX) -> None:
        self._in_memory_max = in_memory_max
        self._chunks: list[pl.Series] = []
        self._count = 0
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._suspects = pl.Series(dtype=pl.UInt64)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._directory is not None:
            self._directory.cleanup()

    def add(self, keys: pa.Array) -> None:
        """Take some keys."""
        self._chunks.append(_hashes(keys))
        self._count += len(keys)
        if self._count >= self._in_memory_max:
            self._spill()
        elif len(self._chunks) >= _CHUNKS_MAX:
            self._chunks = [pl.concat(self._chunks, rechunk=True)]

    def has_suspects(self) -> bool:
        """Whether any two keys may be equal. After it no key is taken any more."""
        found = [part.filter(part == part.shift(1)).head(_SUSPECTS_MAX) for part in map(pl.Series.sort, self._parts())]
        if found:
            self._suspects = pl.concat(found).head(_SUSPECTS_MAX)
        return len(self._suspects) > 0

    def is_suspect(self, keys: pa.Array) -> list[bool]:
        """For each key whether its hash stands for more than one row (of the first 100,000 such hashes)."""
        mask: list[bool] = _hashes(keys).is_in(self._suspects.implode()).to_list()
        return mask

    def _parts(self) -> Iterator[pl.Series]:
        if self._directory is None:
            if self._chunks:
                yield pl.concat(self._chunks, rechunk=True)
            return
        self._spill()
        for number in range(_PARTS):
            path = self._path(number)
            if path.exists():
                content = pa.py_buffer(path.read_bytes())
                part = pl.from_arrow(pa.Array.from_buffers(pa.uint64(), content.size // 8, [None, content]))
                assert isinstance(part, pl.Series)
                yield part

    def _spill(self) -> None:
        if not self._chunks:
            return
        hashes = pl.concat(self._chunks, rechunk=True)
        self._chunks, self._count = [], 0
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="batcher-keys-")
        remainders = hashes % _PARTS
        for number in range(_PARTS):
            part = hashes.filter(remainders == number).to_arrow()
            if not len(part):
                continue
            start = part.offset * 8
            path = self._path(number)
            try:
                with path.open("ab") as file:
                    file.write(memoryview(part.buffers()[1])[start : start + len(part) * 8])
            except OSError as error:
                raise storage_error(error, path) from error

    def _path(self, number: int) -> Path:
        assert self._directory is not None
        return Path(self._directory.name, f"{number:02}")


def _hashes(keys: pa.Array) -> pl.Series:
    series = pl.Series(keys)
    return series.hash(seed=20261121)

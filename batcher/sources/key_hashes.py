"""Finds which of many keys may name two rows, in flat memory: `KeyCheck` asks it where it has too many for itself.

Each key is hashed to 8 bytes. Up to 131,072 hashes stay in memory; more are spilled to 64 temporary files by some of
their bits, and each file is looked through on its own. Equal hashes are only suspects: the caller reads the keys once
more and asks `is_suspect`, so that the real values decide.

The hash is Python's own, under 0.4 µs a key. To load polars, which hashes too, takes 30 to 40 MB, and what a run of
20 thousand rows does not need, one of 2 million should not.
"""

import tempfile
from array import array
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from batcher.storage.durable import storage_error

# A million in memory takes 25 MB, 17 MB more than this, and spares 0.05 s.
HASHES_IN_MEMORY_MAX = 131_072
_PARTS = 64  # a power of two
_MIXER = 0x1E3779B97F4A7C15  # an odd number near 2**61 over the golden ratio: Fibonacci hashing
_SUSPECTS_MAX = 100_000
_CHUNKS_MAX = 4096


class HashCheck(AbstractContextManager["HashCheck"]):
    """Takes the hashes of all keys, then tells which may stand twice. Leaving it removes its temporary files."""

    def __init__(self, *, in_memory_max: int = HASHES_IN_MEMORY_MAX) -> None:
        self._in_memory_max = in_memory_max
        self._chunks: list[pa.Array] = []
        self._count = 0
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._suspects = pa.array([], pa.int64())

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
            self._chunks = [pa.concat_arrays(self._chunks)]

    def has_suspects(self) -> bool:
        """Whether any two keys may be equal. After it no key is taken any more."""
        for part in self._parts():
            if len(pc.unique(part)) == len(part):  # two thirds of the cost of counting each of them
                continue
            counts = pc.value_counts(part)
            twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
            self._suspects = pa.concat_arrays([self._suspects, twice])[:_SUSPECTS_MAX]
        return len(self._suspects) > 0

    def is_suspect(self, keys: pa.Array) -> list[bool]:
        """For each key whether its hash stands for more than one row (of the first 100,000 such hashes)."""
        mask: list[bool] = pc.is_in(_hashes(keys), value_set=self._suspects).to_pylist()
        return mask

    def _parts(self) -> Iterator[pa.Array]:
        if self._directory is None:
            if self._chunks:
                yield pa.concat_arrays(self._chunks)
            return
        self._spill()
        for number in range(_PARTS):
            path = self._path(number)
            if path.exists():
                content = pa.py_buffer(path.read_bytes())
                yield pa.Array.from_buffers(pa.int64(), content.size // 8, [None, content])

    def _spill(self) -> None:
        if not self._chunks:
            return
        hashes = pa.concat_arrays(self._chunks)
        self._chunks, self._count = [], 0
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="batcher-keys-")
        # Numbers hash to themselves: multiples of 64 would all go to one file by their last bits.
        mixed = pc.bit_wise_and(pc.shift_right(pc.multiply(hashes, _MIXER), 48), _PARTS - 1)
        for number in range(_PARTS):
            part = hashes.filter(pc.equal(mixed, number))
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


def _hashes(keys: pa.Array) -> pa.Array:
    """Equal for equal keys, in this process: Python salts the hashes of text anew in each."""
    type_ = keys.type
    if not (pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_integer(type_)):
        # Times that Python cannot hold, and numbers that are not equal to themselves.
        keys = keys.cast(pa.large_string())
    return pa.Array.from_buffers(pa.int64(), len(keys), [None, pa.py_buffer(array("q", map(hash, keys.to_pylist())))])

"""What an input is, in a few bytes: whether the files are still those that a run began with.

A file up to 256 MiB is hashed whole. A larger one is hashed at its head, its tail and 64 places between, with its size:
that finds another file, a longer or a shorter one, but not every change of single bytes that keeps the size.

When a broken line stopped a run, the user mends it and goes on. Then only what came before must be equal: such a
fingerprint ends with the lines before the broken one, uncompressed, and lets everything behind them change.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import msgspec
import xxhash

from batcher.errors import InputError
from batcher.sources.files import InputFile
from batcher.sources.lines import line_blocks
from batcher.sources.table import BrokenInputError

_VERSION = 1
_WHOLE_BYTES_MAX = 256 * 2**20
_END_BYTES = 8 * 2**20
_SAMPLES = 64
_SAMPLE_BYTES = 2**20
_PIECE_BYTES = 256 * 2**10


@dataclass(frozen=True, slots=True)
class FileFingerprint:
    """One file. With `lines`, `hash` is of that many lines at its beginning, and `size_bytes` says nothing."""

    path: str
    size_bytes: int
    hash: str
    lines: int | None = None


@dataclass(frozen=True, slots=True)
class InputFingerprint:
    """All files, in order; after one with `lines` there may be others."""

    files: tuple[FileFingerprint, ...]

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold, for `from_json`."""
        return {"version": _VERSION, "files": msgspec.to_builtins(self.files)}

    @classmethod
    def from_json(cls, saved: Any) -> "InputFingerprint":
        """The fingerprint that `to_json` gave.

        Raises:
            InputError: It is of another version, or none.
        """
        version = saved.get("version") if isinstance(saved, dict) else None
        if version != _VERSION:
            raise InputError(f"the input fingerprint has version {version!r}; this batcher knows version {_VERSION}")
        try:
            return cls(msgspec.convert(saved["files"], tuple[FileFingerprint, ...]))
        except (msgspec.ValidationError, KeyError) as error:
            raise InputError(f"the input fingerprint is damaged: {error}") from None


def fingerprint(files: Sequence[InputFile], upto: BrokenInputError | None = None) -> InputFingerprint:
    """The fingerprint of `files`, or of what comes before the line where `upto` was raised."""
    parts: list[FileFingerprint] = []
    for file in files:
        if upto is not None and upto.line is not None and file.name == upto.name:
            lines = upto.line - 1
            return InputFingerprint((*parts, FileFingerprint(file.name, 0, _lines_hash(file, lines), lines)))
        parts.append(FileFingerprint(file.name, file.path.stat().st_size, _file_hash(file)))
    return InputFingerprint(tuple(parts))


def changed(files: Sequence[InputFile], earlier: InputFingerprint) -> str | None:
    """A sentence that names the first file that is not as it was, or None."""
    for index, before in enumerate(earlier.files):
        if index >= len(files) or files[index].name != before.path:
            return f"{before.path} is no longer part of the input at its place, number {index + 1} of the files"
        file = files[index]
        if before.lines is not None:
            is_same = _lines_hash(file, before.lines) == before.hash
            return None if is_same else f"{file.name} has changed within its first {before.lines} lines"
        size_bytes = file.path.stat().st_size
        if size_bytes != before.size_bytes:
            return f"{file.name} has changed: it had {before.size_bytes:,} bytes, now {size_bytes:,}"
        if _file_hash(file) != before.hash:
            return f"{file.name} has changed: its content is another, though its size is the same"
    if len(files) > len(earlier.files):
        return f"{files[len(earlier.files)].name} is new among the input files"
    return None


def _file_hash(file: InputFile) -> str:
    size_bytes = file.path.stat().st_size
    digest = xxhash.xxh3_128()
    try:
        with file.path.open("rb") as opened:
            if size_bytes <= _WHOLE_BYTES_MAX:
                _take_in(digest, opened, sys.maxsize)
                return digest.hexdigest()
            _take_in(digest, opened, _END_BYTES)
            for number in range(1, _SAMPLES + 1):
                opened.seek(size_bytes * number // (_SAMPLES + 1))
                _take_in(digest, opened, _SAMPLE_BYTES)
            opened.seek(-_END_BYTES, 2)
            _take_in(digest, opened, _END_BYTES)
    except OSError as error:
        raise InputError(f"{file.name}: cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def _take_in(digest: xxhash.xxh3_128, opened: BinaryIO, count: int) -> None:
    """So many bytes, or all there are; not at once, since this comes last in a run, when its memory is at its peak."""
    while count > 0 and (chunk := opened.read(min(count, _PIECE_BYTES))):
        digest.update(chunk)
        count -= len(chunk)


def _lines_hash(file: InputFile, lines: int) -> str:
    """The hash of the first lines; of fewer where there are fewer or they cannot be read, which no longer match."""
    digest = xxhash.xxh3_128()
    left = lines
    try:
        for block in line_blocks(file):
            taken = block.lines()[:left]
            for line in taken:
                digest.update(line if line.endswith(b"\n") else line + b"\n")
            left -= len(taken)
            if left == 0:
                break
    except BrokenInputError:
        digest.update(b"broken")
    return digest.hexdigest()

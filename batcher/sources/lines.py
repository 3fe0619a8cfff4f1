r"""Lines of text files, plain or compressed, a block at a time and in flat memory.

A line ends with "\n" (a "\r" before it is left to the format). A byte order mark is forgiven. A line of
more than 64 MiB, a truncated archive or UTF-16 is an error that names the file and the line.
"""

import contextlib
import io
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import pyarrow as pa

from batcher.errors import InputError
from batcher.sources.files import InputFile
from batcher.sources.table import Batch, BrokenInputError, Head

LINE_BYTES_MAX = 64 * 2**20
BLOCK_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_MARK_BYTES = 4


class LineBlock:
    r"""Whole lines with "\n" between them; `first_number` counts from 1."""

    __slots__ = ("_lines", "content", "first_number")

    def __init__(self, content: bytes, first_number: int) -> None:
        self.content, self.first_number = content, first_number
        self._lines: list[bytes] | None = None

    def __len__(self) -> int:
        return self.content.count(b"\n") + 1 if self._lines is None else len(self._lines)

    def lines(self) -> list[bytes]:
        r"""One by one, each but the last with its "\n"."""
        if self._lines is None:
            # `split` and `count` look at every byte, this jumps from line to line: a fifth of the time with 200 bytes
            # a line, a tenth with 100 kB.
            self._lines = io.BytesIO(self.content).readlines()
            if not self.content or self.content.endswith(b"\n"):
                self._lines.append(b"")
        return self._lines


@dataclass(slots=True)
class Meter:
    """How much has been read: of the text, and of the files on disk (less, where they are compressed)."""

    text_bytes: int = 0
    disk_bytes: int = 0


@contextlib.contextmanager
def open_stream(file: InputFile, meter: Meter | None = None) -> Iterator[Callable[[int], bytes]]:
    """A function that reads the next bytes of the uncompressed file.

    Arrow's decompression reads archives of several members and, unlike others, reports truncated ones.
    """
    with contextlib.ExitStack() as stack:
        try:
            raw = stack.enter_context(pa.OSFile(str(file.path), "rb"))
            stream = raw
            if file.compression is not None:
                stream = stack.enter_context(pa.CompressedInputStream(raw, file.compression))
        except OSError as error:
            raise InputError(f"{file.name}: cannot be read: {error.strerror or error}") from None
        disk_bytes = 0

        def read(count: int) -> bytes:
            nonlocal disk_bytes
            chunk: bytes = stream.read(count)
            if meter is not None:
                meter.text_bytes += len(chunk)
                meter.disk_bytes += raw.tell() - disk_bytes
                disk_bytes = raw.tell()
            return chunk

        yield read


def line_blocks(
    file: InputFile,
    meter: Meter | None = None,
    *,
    block_bytes: int = BLOCK_BYTES,
    line_bytes_max: int = LINE_BYTES_MAX,
) -> Generator[LineBlock, None, None]:
    """The lines of a file. A block is about `block_bytes`, or one longer line and a block.

    Raises:
        BrokenInputError: From the line on that cannot be read; the lines before it came before.
    """
    number, pending_bytes = 1, 0
    pending: list[bytes] = []
    with open_stream(file, meter) as read:
        while True:
            try:
                chunk = read(block_bytes)
            except (OSError, pa.ArrowException) as error:
                raise _unreadable(file, number, error) from None
            cut = chunk.rfind(b"\n")
            if cut >= 0:
                content = b"".join([*pending, chunk[:cut]])
                block = LineBlock(content if number > 1 else _without_bom(file, content), number)
                yield block
                number += len(block)
                pending, pending_bytes = [chunk[cut + 1 :]], len(chunk) - cut - 1
            elif chunk:
                pending.append(chunk)
                pending_bytes += len(chunk)
            else:
                _check_unchanged(file, number)
                break
            if pending_bytes > line_bytes_max:
                raise BrokenInputError(
                    f"{file.name}:{number}: the line is longer than {line_bytes_max // 2**20} MiB; "
                    "write one record a line",
                    name=file.name,
                    line=number,
                )
    if pending_bytes:
        content = b"".join(pending)
        yield LineBlock(content if number > 1 else _without_bom(file, content), number)


AnyBatch = TypeVar("AnyBatch", bound=Batch)


class TextHead:
    """Reads the first `look_bytes` of text of all files together, and at least the first batch of each."""

    def __init__(self, files: Sequence[InputFile], look_bytes: int) -> None:
        self._files, self._look_bytes = files, look_bytes
        self._rows, self._is_whole, self._meter = 0, True, Meter()
        self._rows_of_whole_blocks, self._whole_blocks = 0, Meter()

    def batches(self, read: Callable[[InputFile, Meter | None], Iterator[AnyBatch]]) -> Iterator[AnyBatch]:
        """The batches of the head; `read` gives those of one file and feeds the meter."""
        before = Meter()
        for file in self._files:
            is_over = self._meter.text_bytes >= self._look_bytes
            # Past the limit a file shows one batch, which tells its columns but would skew the estimate.
            for batch in read(file, Meter() if is_over else self._meter):
                if self._meter != before:
                    self._rows_of_whole_blocks, self._whole_blocks = self._rows, before
                    before = replace(self._meter)
                yield batch
                self._rows += 0 if is_over else len(batch)
                if is_over or self._meter.text_bytes >= self._look_bytes:
                    self._is_whole = False
                    break

    def result(self) -> Head:
        """What the batches told; complete when they have been read to their end."""
        if self._is_whole:
            return Head(self._rows, True, self._rows)
        # The last block was read whole but not looked at whole, so it counts only where it is the only one.
        rows, read = self._rows_of_whole_blocks, self._whole_blocks
        if rows == 0:
            rows, read = self._rows, self._meter
        size_bytes = sum(file.size_bytes for file in self._files)
        return Head(self._rows, False, max(self._rows, rows * size_bytes // max(1, read.disk_bytes)))


def _without_bom(file: InputFile, content: bytes) -> bytes:
    if content.startswith(_UTF16_BOMS):
        raise InputError(f"{file.name}:1: the text is UTF-16; save the file as UTF-8")
    if b"\0" in content[:_MARK_BYTES]:
        raise InputError(f"{file.name}:1: is no text, or in UTF-16 without a mark; save the file as UTF-8")
    return content.removeprefix(_BOM)


def _check_unchanged(file: InputFile, number: int) -> None:
    """Rows that come or go while they are asked would leave the run without knowing what all of them are."""
    try:
        size_bytes = file.path.stat().st_size
    except OSError:
        # It was moved or removed, and was read to its end all the same; the fingerprint will tell.
        return
    if size_bytes != file.size_bytes:
        raise BrokenInputError(
            f"{file.name}:{number}: the file has changed while it was read: it had {file.size_bytes:,} bytes, "
            f"now {size_bytes:,}; go on when nothing writes to it any more",
            name=file.name,
            line=number,
        )


def _unreadable(file: InputFile, number: int, error: Exception) -> BrokenInputError:
    if file.compression is None:
        fault = f"cannot be read: {error}"
    elif "Truncated" in str(error):
        fault = f"the {file.compression} archive ends too early; it was cut off, so make or fetch it again"
    else:
        fault = f"is no {file.compression} archive, or a damaged one ({error}); make or fetch it again"
    return BrokenInputError(f"{file.name}:{number}: {fault}", name=file.name, line=number)

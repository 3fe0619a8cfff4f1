"""Splits CSV text into records and cells, and knows the line where each record begins.

A line without a quote is one record, cut at its commas, which is the fast way; Python's csv module takes the others,
with the lines that their quoted cells go on over. Blank lines are no records.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from batcher.errors import InputError
from batcher.sources.files import InputFile
from batcher.sources.lines import LINE_BYTES_MAX, Meter, line_blocks
from batcher.sources.table import BATCH_ROWS_MAX, COLUMNS_MAX, BrokenInputError, many_columns, shown, twice

_LONGEST = f"{LINE_BYTES_MAX // 2**20} MiB"
_RECORD_LINES_MAX = 1_000_000
_CUTS_MAX = COLUMNS_MAX + 1
"""A line of 64 MiB of commas would be half a gigabyte of cells."""


@dataclass(frozen=True, slots=True)
class Records:
    """Consecutive records: their cells, and the numbers (from 1) of the lines where they begin."""

    cells: list[list[str]]
    numbers: list[int]


def read_header(file: InputFile) -> tuple[str, ...]:
    """The column names of a file.

    Raises:
        InputError: There are none, one twice, or they are not separated by commas.
    """
    try:
        header = next(_Reader(file, None).records()).cells[0]
    except StopIteration:
        raise InputError(
            f"{file.name}:1: is empty; the first line of a CSV file names its columns, each further one is a row"
        ) from None
    if len(header) > COLUMNS_MAX:
        raise InputError(many_columns(f"{file.name}:1"))
    if len(set(header)) < len(header):
        raise InputError(
            f"{file.name}:1: the header names column {shown(twice(header))!r} twice; give each its own name"
        )
    if len(header) == 1 and (other := next((mark for mark in ";\t|\r" if mark in header[0]), None)):
        raise InputError(f"{file.name}:1: the header is separated by {other!r}; batcher reads CSV with commas")
    return tuple(header)


def read_records(file: InputFile, meter: Meter | None) -> Iterator[Records]:
    """The records behind the header, up to 1,000 at a time and not many more bytes than a block of text has.

    Raises:
        BrokenInputError: From the record on that cannot be read; those before it came before.
    """
    batches = _Reader(file, meter).records()
    first = next(batches, None)
    if first is not None and len(first.cells) > 1:
        yield Records(first.cells[1:], first.numbers[1:])
    yield from batches


def broken_csv(file: InputFile, number: int, fault: str, *, rows_good: int = 0) -> BrokenInputError:
    """The error for the record that begins in line `number`."""
    return BrokenInputError(f"{file.name}:{number}: {fault}", name=file.name, line=number, rows_good=rows_good)


class _Reader:
    """One pass over one file."""

    def __init__(self, file: InputFile, meter: Meter | None) -> None:
        self._file = file
        self._meter = meter
        self._blocks = 0
        self._lines = chain.from_iterable(self._split())
        self._held: list[str] = []
        self._number = 1
        self._record_chars, self._record_lines, self._is_inside = 0, 0, False

    def records(self) -> Iterator[Records]:
        """All records, the header as the first. A fault comes after the records before it."""
        cells: list[list[str]] = []
        numbers: list[int] = []
        fault, blocks = None, 1
        try:
            for record in self._cells():
                cells.append(record)
                numbers.append(self._number)
                if len(cells) >= BATCH_ROWS_MAX or self._blocks != blocks:
                    yield Records(cells, numbers)
                    cells, numbers, blocks = [], [], self._blocks
        except BrokenInputError as error:
            fault = error
        if cells:
            yield Records(cells, numbers)
        if fault is not None:
            raise fault

    def _cells(self) -> Iterator[list[str]]:
        """The cells of each record; `_number` is then the line where it begins."""
        # The module's own limit of 128 KiB a cell is global; a cell is as long here as a line may be.
        csv.field_size_limit(LINE_BYTES_MAX)
        quoted = csv.reader(self._held_first(), strict=True)
        width = 0
        for number, line in self._lines:
            # A small archive can hold a great many empty lines, so they are first.
            if not line:
                continue
            self._number = number
            if '"' in line:
                cells = self._quoted_cells(quoted, line)
            else:
                text = line.rstrip("\r")
                if not text:
                    continue
                cells = text.split(",", _CUTS_MAX)
            if len(cells) != width:
                if width:
                    count = f"more than {COLUMNS_MAX:,}" if len(cells) > COLUMNS_MAX else len(cells)
                    fault = f"has {count} cells, but the header has {width}; put cells with commas in quotes"
                    raise broken_csv(self._file, self._number, fault)
                width = len(cells)
            yield cells

    def _quoted_cells(self, quoted: Iterator[list[str]], line: str) -> list[str]:
        self._held.append(line)
        self._record_chars, self._record_lines, self._is_inside = 0, 0, True
        try:
            return next(quoted)
        except csv.Error as error:
            raise broken_csv(self._file, self._number, _fault(error)) from None
        finally:
            self._is_inside = False

    def _held_first(self) -> Iterator[str]:
        """What the csv module reads: the line that is held for it, then those its record goes on over."""
        while True:
            line = self._held.pop() if self._held else next(self._lines, (0, None))[1]
            if line is None:
                return
            self._record_chars += len(line) + 1
            self._record_lines += 1
            if self._record_chars > LINE_BYTES_MAX or self._record_lines > _RECORD_LINES_MAX:
                size = f"{_LONGEST} or {_RECORD_LINES_MAX:,} lines"
                fault = f"a record is longer than {size}; a quote that is not closed may be the reason"
                raise broken_csv(self._file, self._number, fault)
            yield line + "\n"

    def _split(self) -> Iterator[Iterable[tuple[int, str]]]:
        """The lines of each block with their numbers."""
        for block in line_blocks(self._file, self._meter):
            self._blocks += 1
            if not (self._is_inside or block.content.strip(b"\r\n")):
                continue
            try:
                yield enumerate(block.content.decode().split("\n"), block.first_number)
            except UnicodeDecodeError as error:
                good, _, _ = block.content[: error.start].rpartition(b"\n")
                number = block.first_number + block.content.count(b"\n", 0, error.start)
                if number > block.first_number:
                    yield enumerate(good.decode().split("\n"), block.first_number)
                raise broken_csv(self._file, number, "the line is not UTF-8; save the file as UTF-8") from None


def _fault(error: csv.Error) -> str:
    message = str(error)
    if "unexpected end of data" in message:
        return "a quoted cell that begins here never ends; close the quote, and write quotes inside it twice"
    if "field larger" in message:
        return f"a cell is longer than {_LONGEST}; a quote that is not closed may be the reason"
    return f"is not valid CSV: {message}; put cells with quotes, commas or line ends in quotes"

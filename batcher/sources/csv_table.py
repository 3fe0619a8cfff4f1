"""CSV files (RFC 4180): a header line, then records whose values are the text as it is written.

"007" stays "007" and an empty cell is empty text, never null. Only `where` reads numbers: a column that it names
and that holds, as far as the head goes, nothing but numbers (or nothing) is compared as numbers, empty as null.
A number with leading zeros or a plus sign is a name, so a column that has one is text.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from batcher.errors import InputError
from batcher.sources.csv_records import broken_csv, read_header, read_records
from batcher.sources.files import InputFile
from batcher.sources.lines import Meter, TextHead
from batcher.sources.table import LOOK_BYTES, BrokenInputError, Head, shown

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class CsvTable:
    """CSV files with the same header names, end to end. See `Table`."""

    def __init__(self, files: Sequence[InputFile], *, look_bytes: int = LOOK_BYTES) -> None:
        self._files, self._look_bytes = files, look_bytes
        self._compare_types: dict[str, pa.DataType] = {}
        self.columns: tuple[str, ...] = read_header(files[0])
        for file in files[1:]:
            if faults := set(self.columns) ^ set(read_header(file)):
                column = min(faults)
                has, lacks = (files[0], file) if column in self.columns else (file, files[0])
                raise InputError(
                    f"{lacks.name}:1: has no column {shown(column)!r}, but {has.name} has; "
                    "files of one input have the same columns"
                )

    def head(self) -> Head:
        """See `Table`."""
        return self._head

    def batches(
        self,
        columns: Sequence[str],  # noqa: ARG002  # records come whole
        start: int = 0,
        *,
        head: bool = False,
    ) -> Iterator["CsvBatch"]:
        """See `Table`. Records before `start` are split into cells, for only that tells where they end."""
        all_batches = (batch for file in self._files for batch in self._file_batches(file))
        for batch in TextHead(self._files, self._look_bytes).batches(self._file_batches) if head else all_batches:
            if start < len(batch):
                yield batch.part(start)
            start = max(0, start - len(batch))

    def schema(self, columns: Sequence[str]) -> pa.Schema:
        """See `Table`. Everything is text."""
        return pa.schema([(column, pa.string()) for column in columns])

    def compare_schema(self, columns: Sequence[str]) -> pa.Schema:
        """See `Table`."""
        unknown = [column for column in columns if column not in self._compare_types]
        if unknown:
            self._compare_types.update(self._number_types(unknown))
        return pa.schema([(column, self._compare_types[column]) for column in columns])

    @cached_property
    def _head(self) -> Head:
        head = TextHead(self._files, self._look_bytes)
        for _ in head.batches(self._file_batches):
            pass
        return head.result()

    def _file_batches(self, file: InputFile, meter: Meter | None = None) -> Iterator["CsvBatch"]:
        columns_at = {column: index for index, column in enumerate(read_header(file))}
        for records in read_records(file, meter):
            yield CsvBatch(self, file, columns_at, records.cells, records.numbers)

    def _number_types(self, columns: Sequence[str]) -> dict[str, pa.DataType]:
        is_integer, is_number, is_seen = (dict.fromkeys(columns, start) for start in (True, True, False))
        for batch in self.batches(columns, head=True):
            for column in columns:
                at = batch.columns_at[column]
                values = [cell for record in batch.cells if (cell := record[at])] if is_number[column] else []
                is_seen[column] |= bool(values)
                is_integer[column] = is_integer[column] and all(map(_INTEGER.fullmatch, values))
                is_number[column] = is_integer[column] or (is_number[column] and all(map(_NUMBER.fullmatch, values)))
        return {
            column: pa.string()
            if not (is_number[column] and is_seen[column])
            else (pa.int64() if is_integer[column] else pa.float64())
            for column in columns
        }


@dataclass(frozen=True, slots=True)
class CsvBatch:
    """Records as cells, and the numbers of the lines where they begin. See `Batch`."""

    table: CsvTable
    file: InputFile
    columns_at: dict[str, int]
    cells: list[list[str]]
    numbers: list[int]

    def __len__(self) -> int:
        return len(self.cells)

    def part(self, start: int, stop: int | None = None) -> "CsvBatch":
        """See `Batch`."""
        return CsvBatch(self.table, self.file, self.columns_at, self.cells[start:stop], self.numbers[start:stop])

    def keep(self, mask: Sequence[bool]) -> "CsvBatch":
        """See `Batch`."""
        kept = [index for index, is_kept in enumerate(mask) if is_kept]
        cells, numbers = [self.cells[index] for index in kept], [self.numbers[index] for index in kept]
        return CsvBatch(self.table, self.file, self.columns_at, cells, numbers)

    def place(self, index: int) -> str:
        """See `Batch`."""
        return f"{self.file.name}:{self.numbers[index]}"

    def broken(self, index: int, fault: str) -> BrokenInputError:
        """See `Batch`."""
        return broken_csv(self.file, self.numbers[index], fault, rows_good=index)

    def dicts(
        self,
        columns: Sequence[str],
        strict: Collection[str] = (),  # noqa: ARG002  # text is always text
    ) -> list[dict[str, Any]]:
        """See `Batch`."""
        places = [(column, self.columns_at[column]) for column in columns]
        return [{column: record[at] for column, at in places} for record in self.cells]

    def arrow(self, columns: Sequence[str]) -> pa.RecordBatch:
        """See `Batch`."""
        arrays = [
            pa.array([record[self.columns_at[column]] for record in self.cells], pa.string()) for column in columns
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.table.schema(columns))

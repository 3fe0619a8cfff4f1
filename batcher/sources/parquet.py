"""Parquet files, read by column and batch.

Only the asked columns are read, through a buffered stream: with it a row group of a million rows costs as little
memory as a small one (measured on 300 MB in two row groups: 390 MB without the buffer, 90 MB with it). Records are
skipped by the footer's row counts. A compressed .parquet.gz is uncompressed to a temporary file first, because Parquet
is read from its end.
"""

import contextlib
import os
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batcher.errors import InputError
from batcher.sources.arrow_types import plain_type, python_values
from batcher.sources.files import InputFile
from batcher.sources.lines import open_stream
from batcher.sources.parquet_sizes import BUFFER_BYTES, BatchSizes, LongestEntries, spans
from batcher.sources.table import (
    BATCH_BYTES_MAX,
    COLUMNS_MAX,
    LOOK_BYTES,
    BrokenInputError,
    Head,
    many_columns,
    shown,
    twice,
)
from batcher.storage.durable import storage_error

_UNREADABLE = (ValueError, TypeError, OverflowError, pa.ArrowException)
"""What values raise that the file's types allow and Python's do not: bytes as text, the year 300,000."""


class ParquetTable:
    """Parquet files with the same columns and types, end to end. See `Table`."""

    def __init__(self, files: Sequence[InputFile], *, look_bytes: int = LOOK_BYTES) -> None:
        self._files, self._look_bytes = files, look_bytes
        self._paths: list[Path] = [self._plain_path(file) for file in files]
        self._row_counts: list[int] = []
        # One for each file.
        self._longest_entries: list[LongestEntries] = [{} for _ in files]
        for number, file in enumerate(files):
            with self._open(number) as parquet:
                self._row_counts.append(parquet.metadata.num_rows)
                schema = _plain_schema(file, parquet.schema_arrow)
            if number == 0:
                self._schema = schema
            else:
                _check_same(files[0], self._schema, file, schema)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column of the files."""
        return tuple(self._schema.names)

    def head(self) -> Head:
        """See `Table`. The footers tell all there is to know."""
        rows = sum(self._row_counts)
        return Head(rows, True, rows)

    def batches(self, columns: Sequence[str], start: int = 0, *, head: bool = False) -> Iterator["ParquetBatch"]:
        """See `Table`. Row groups before `start` are not read."""
        left_bytes = self._look_bytes
        for number, row_count in enumerate(self._row_counts):
            if start >= row_count:
                start -= row_count
                continue
            for batch in self._file_batches(number, columns, start):
                yield batch
                left_bytes -= batch.records.nbytes
                if head and left_bytes <= 0:
                    return
            start = 0

    def schema(self, columns: Sequence[str]) -> pa.Schema:
        """See `Table`."""
        return pa.schema([self._schema.field(column) for column in columns])

    def compare_schema(self, columns: Sequence[str]) -> pa.Schema:
        """See `Table`."""
        return self.schema(columns)

    def _file_batches(self, number: int, columns: Sequence[str], start: int) -> Iterator["ParquetBatch"]:
        file = self._files[number]
        # Arrow takes a name also as the prefix of nested ones and cannot read no column at all.
        wanted = list(columns) or [self._schema.names[0]]
        schema = self.schema(wanted)
        at = start
        with self._open(number) as parquet:
            self._check_unchanged(number, parquet.metadata)
            sizes = BatchSizes(self._paths[number], parquet.metadata, wanted, self._longest_entries[number])
            try:
                for span in spans(parquet.metadata, start):
                    at = span.first
                    for read in parquet.iter_batches(sizes.rows(span), span.row_groups, wanted, use_threads=False):
                        records = read.select(wanted).cast(schema)
                        skipped = max(0, min(start - at, len(records)))
                        yield from _bounded(ParquetBatch(file, records.slice(skipped), at + skipped))
                        at += len(records)
            except (pa.ArrowException, OSError) as error:
                raise BrokenInputError(
                    f"{file.name}: cannot be read from row number {at + 1} on ({_first_line(error)}); "
                    "the file is damaged, so make or fetch it again",
                    name=file.name,
                    line=None,
                ) from None

    def _check_unchanged(self, number: int, metadata: pq.FileMetaData) -> None:
        if metadata.num_rows != self._row_counts[number]:
            name, before = self._files[number].name, self._row_counts[number]
            raise BrokenInputError(
                f"{name}: has changed while it was read: it had {before:,} rows, now {metadata.num_rows:,}; "
                "go on when nothing writes to it any more",
                name=name,
                line=None,
            )

    @contextlib.contextmanager
    def _open(self, number: int) -> Iterator[pq.ParquetFile]:
        file = self._files[number]
        try:
            parquet = pq.ParquetFile(self._paths[number], buffer_size=BUFFER_BYTES, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise InputError(_not_parquet(file, self._paths[number], error)) from None
        with parquet:
            yield parquet

    def _plain_path(self, file: InputFile) -> Path:
        if file.compression is None:
            return file.path
        handle, name = tempfile.mkstemp(suffix=".parquet", prefix="batcher-")
        path = Path(name)
        weakref.finalize(self, path.unlink, missing_ok=True)
        with os.fdopen(handle, "wb") as target, open_stream(file) as read:
            while True:
                try:
                    chunk = read(BUFFER_BYTES)
                except (pa.ArrowException, OSError) as error:
                    raise InputError(
                        f"{file.name}: is no whole {file.compression} archive ({_first_line(error)})"
                    ) from None
                if not chunk:
                    return path
                try:
                    target.write(chunk)
                except OSError as error:
                    raise storage_error(error, path) from error


@dataclass(frozen=True, slots=True)
class ParquetBatch:
    """Records as Arrow, and the number of the first (from 0) in its file. See `Batch`."""

    file: InputFile
    records: pa.RecordBatch
    first: int
    kept: Sequence[int] | None = None

    def __len__(self) -> int:
        return int(self.records.num_rows)

    def part(self, start: int, stop: int | None = None) -> "ParquetBatch":
        """See `Batch`."""
        records = self.records.slice(start, None if stop is None else max(0, stop - start))
        if self.kept is not None:
            return ParquetBatch(self.file, records, self.first, self.kept[start:stop])
        return ParquetBatch(self.file, records, self.first + start)

    def keep(self, mask: Sequence[bool]) -> "ParquetBatch":
        """See `Batch`."""
        kept = [self._number(index) for index, is_kept in enumerate(mask) if is_kept]
        return ParquetBatch(self.file, self.records.filter(pa.array(mask, pa.bool_())), self.first, kept)

    def place(self, index: int) -> str:
        """See `Batch`."""
        return f"{self.file.name}, row number {self._number(index) + 1}"

    def broken(self, index: int, fault: str) -> BrokenInputError:
        """See `Batch`."""
        return BrokenInputError(f"{self.place(index)}: {fault}", name=self.file.name, line=None, rows_good=index)

    def dicts(
        self,
        columns: Sequence[str],
        strict: Collection[str] = (),  # noqa: ARG002  # the file's own types are strict
    ) -> list[dict[str, Any]]:
        """See `Batch`."""
        if not columns:
            return [{} for _ in range(len(self))]
        try:
            values = [python_values(self.records.column(column)) for column in columns]
        except _UNREADABLE:
            raise self._unreadable(columns, python_values) from None
        return [dict(zip(columns, record, strict=True)) for record in zip(*values, strict=True)]

    def arrow(self, columns: Sequence[str]) -> pa.RecordBatch:
        """See `Batch`."""
        records = self.records.select(list(columns))
        try:
            # Arrow takes the file's word that text is UTF-8; polars and the results need it to be true.
            records.validate(full=True)
        except pa.ArrowInvalid:
            raise self._unreadable(columns, lambda array: array.validate(full=True)) from None
        return records

    def _unreadable(self, columns: Sequence[str], read: Callable[[pa.Array], object]) -> BrokenInputError:
        """The error for the first record that `read` refuses in one of these columns."""
        for index in range(len(self)):
            for column in columns:
                array = self.records.column(column).slice(index, 1)
                # A slice of nested values still holds all of them; taking makes a copy of this one.
                array = array.take(pa.array([0]))
                try:
                    read(array)
                except _UNREADABLE as error:
                    is_text = isinstance(error, UnicodeDecodeError) or "UTF8" in str(error)
                    fault = (
                        "text that is not UTF-8"
                        if is_text
                        else f"a value of type {shown(array.type)} that Python cannot hold"
                    )
                    return self.broken(index, f"column {shown(column)!r} holds {fault}")
        raise AssertionError("a value was unreadable a moment ago")

    def _number(self, index: int) -> int:
        return self.first + index if self.kept is None else self.kept[index]


def _bounded(batch: ParquetBatch) -> Iterator[ParquetBatch]:
    """The batch in pieces of about 4 MB; none where it is empty."""
    if not len(batch):
        return
    rows = max(1, len(batch) * BATCH_BYTES_MAX // max(BATCH_BYTES_MAX, batch.records.nbytes))
    for start in range(0, len(batch), rows):
        yield batch.part(start, start + rows)


def _plain_schema(file: InputFile, schema: pa.Schema) -> pa.Schema:
    names = schema.names
    if len(set(names)) < len(names):
        raise InputError(f"{file.name}: has two columns {shown(twice(names))!r}; give each its own name")
    if not names:
        raise InputError(f"{file.name}: has no columns")
    if len(names) > COLUMNS_MAX:
        raise InputError(many_columns(file.name))
    return pa.schema([(field.name, plain_type(field.type)) for field in schema])


def _check_same(first: InputFile, expected: pa.Schema, file: InputFile, schema: pa.Schema) -> None:
    types, others = ({field.name: field.type for field in one} for one in (expected, schema))
    for name in (*types, *others):
        if types.get(name) != others.get(name):
            here, there = (f"of type {one[name]}" if name in one else "missing" for one in (others, types))
            raise InputError(
                f"{file.name}: column {name!r} is {here}, but {there} in {first.name}; "
                "files of one input have the same columns"
            )


def _not_parquet(file: InputFile, path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as opened:
            is_parquet = opened.read(4) == b"PAR1"
    except OSError:
        is_parquet = True
    if is_parquet:
        return f"{file.name}: the Parquet file is cut off or damaged ({_first_line(error)}); make or fetch it again"
    return f"{file.name}: is not a Parquet file, whatever its name says; rename it to what it is (.csv, .jsonl)"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")

"""Tables as Parquet, JSONL or CSV: written in one pass, in bounded memory, by temporary name and rename.

Parquet keeps every type. JSONL has one object a line in UTF-8: times as ISO 8601, bytes as base64,
decimals as text, NaN as null, nested values nested. CSV follows RFC 4180: null and empty text are both an
empty cell, nested values are JSON text, and text that a spreadsheet would run as a formula is defused
with a leading `'`; numbers stay numbers. Text is defused where its first character is `=`, `+`, `-`, `@` (also
wide or small), a tab or a line break, be there spaces or `'` before it; so a `'` before such text is always one
to take away, and `readable` takes it.
"""

import csv
import gzip
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

from batcher.errors import JobError
from batcher.storage.durable import Disk, storage_error

TableKind = Literal["parquet", "jsonl", "csv"]
Compression = Literal["gz", "zst"]

GROUP_ROWS_MAX = 16_384
GROUP_BYTES_MAX = 16 * 1024 * 1024
_PAGE_BYTES = 256 * 1024
_REPEATED_MIN = 8
_TEXT_ROWS = 1_000

_FORMULA_STARTS = frozenset("=+-@\t\r\n＝＋－＠﹦﹢﹣﹫−")
# What a spreadsheet, or the program that hands the cell to one, may trim away; the last cannot be seen.
_TRIMMED = "' \x00\x0b\x0c\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200C))) + "\u202f\u205f\u3000\ufeff"
_KINDS: dict[str, TableKind] = {".parquet": "parquet", ".jsonl": "jsonl", ".csv": "csv"}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst"}

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class TableFormat:
    """How a table file is written. Parquet compresses inside: `compression` is for the text formats."""

    kind: TableKind
    compression: Compression | None = None


def table_format(path: Path) -> TableFormat:
    """The format that a file's name asks for: `.parquet`, `.jsonl`, `.csv`, the last two also `.gz` or `.zst`.

    Raises:
        JobError: The name asks for none of them.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    compression = _COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    kind = _KINDS.get(suffixes[-2 if compression and len(suffixes) > 1 else -1]) if suffixes else None
    if kind is None or (compression is not None and kind == "parquet"):
        raise JobError(
            f"{path} has no format that batcher writes; end it in .parquet, .jsonl, .csv, .jsonl.gz or .csv.gz"
        )
    return TableFormat(kind, compression)


def write_table(
    target: Path, form: TableFormat, schema: pa.Schema, batches: Iterable[pa.RecordBatch], disk: Disk
) -> int:
    """Make `target` hold the batches; the number of rows. Directories on the way are made.

    Raises:
        StorageError: The disk refused; `target` is as it was.
    """
    rows = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for batch in batches:
            rows += batch.num_rows
            yield batch

    def write(file: BinaryIO) -> None:
        _WRITERS[form.kind](file, form, schema, counted())

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, target.parent) from error
    disk.durable_write(target, write)
    return rows


def _write_parquet(file: BinaryIO, form: TableFormat, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    del form
    groups = _groups(batches, schema)
    table = next(groups, schema.empty_table())
    with pq.ParquetWriter(
        file, schema, compression="zstd", use_dictionary=_repetitive(table), data_page_size=_PAGE_BYTES
    ) as writer:
        while table is not None:
            writer.write_table(table, row_group_size=GROUP_ROWS_MAX)
            table = None  # before the next one is made: one of them is enough in memory
            table = next(groups, None)


def _repetitive(table: pa.Table) -> list[str]:
    """The columns in which few values come again and again, as far as the first row group tells.

    Only these get a dictionary: one of nearly all values takes three times the time, and more room than none.
    """
    fields = zip(table.schema, table.columns, strict=True)
    return [field.name for field, column in fields if not pa.types.is_nested(field.type) and _repeats(column)]


def _repeats(column: pa.ChunkedArray) -> bool:
    try:
        distinct: int = pc.count_distinct(column).as_py()
    except pa.ArrowNotImplementedError:  # few types have no such count, and one of them is a dictionary already
        return True
    return distinct * _REPEATED_MIN <= len(column)


def _groups(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Batches together as one row group: small groups read slowly, large ones fill the memory."""
    group: list[pa.RecordBatch] = []
    rows = size_bytes = 0
    for whole in batches:
        at = 0
        while at < whole.num_rows:
            batch = whole.slice(at, GROUP_ROWS_MAX - rows)
            group.append(batch)
            at, rows, size_bytes = at + batch.num_rows, rows + batch.num_rows, size_bytes + batch.nbytes
            if rows == GROUP_ROWS_MAX or size_bytes >= GROUP_BYTES_MAX:
                table = pa.Table.from_batches(group, schema)
                group, rows, size_bytes = [], 0, 0
                yield table
                del table
    if group:
        yield pa.Table.from_batches(group, schema)


def _write_jsonl(file: BinaryIO, form: TableFormat, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    names = schema.names
    with _compressed(file, form.compression) as out:
        for chunk in _chunks(batches):
            columns = [_values(column) for column in chunk.columns]
            lines = [_encode(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]
            out.write(b"\n".join((*lines, b"")))


def _write_csv(file: BinaryIO, form: TableFormat, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    to_cells = [_cell_maker(field.type) for field in schema]
    with _compressed(file, form.compression) as out:
        out.write(_csv_lines([[_defused(name) for name in schema.names]]))
        for chunk in _chunks(batches):
            columns = [
                [None if value is None else to_cell(value) for value in _values(column)]
                for to_cell, column in zip(to_cells, chunk.columns, strict=True)
            ]
            out.write(_csv_lines(zip(*columns, strict=True)))


_WRITERS: dict[TableKind, Callable[[BinaryIO, TableFormat, pa.Schema, Iterator[pa.RecordBatch]], None]] = {
    "parquet": _write_parquet,
    "jsonl": _write_jsonl,
    "csv": _write_csv,
}


def _chunks(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, _TEXT_ROWS):
            yield batch.slice(start, _TEXT_ROWS)


def _values(column: pa.Array) -> list[Any]:
    """The column as Python values that can be written as text."""
    if column.null_count == len(column):
        return [None] * len(column)
    if column.type == pa.float32():
        # 0.1 in 32 bits is 0.10000000149 in 64; through its shortest text it is 0.1 again.
        column = column.cast(pa.string()).cast(pa.float64())
    elif (coarser := _without_nanoseconds(column.type)) != column.type:
        column = column.cast(coarser, safe=False)
    values: list[Any] = column.to_pylist(maps_as_pydicts="lossy")
    return values


def _without_nanoseconds(type_: pa.DataType) -> pa.DataType:
    """The type in microseconds, which is as fine as Python's times are."""
    if pa.types.is_timestamp(type_) and type_.unit == "ns":
        return pa.timestamp("us", tz=type_.tz)
    if pa.types.is_time64(type_):
        return pa.time64("us")
    if pa.types.is_duration(type_):
        return pa.duration("us")
    if pa.types.is_list(type_):
        return pa.list_(_without_nanoseconds(type_.value_type))
    if pa.types.is_large_list(type_):
        return pa.large_list(_without_nanoseconds(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_without_nanoseconds(field.type)) for field in type_])
    return type_


def _cell_maker(type_: pa.DataType) -> Callable[[Any], object]:
    """What makes the cell of a value that is not null."""
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return _itself
    if pa.types.is_decimal(type_):
        return str
    if pa.types.is_nested(type_) or pa.types.is_boolean(type_):
        return _json_text
    return _text_cell


def _itself(value: Any) -> object:
    return value


def _json_text(value: Any) -> str:
    return _encode(value).decode()


def _text_cell(value: Any) -> str:
    return _defused(value if isinstance(value, str) else str(msgspec.to_builtins(value)))


def readable(cell: str) -> str:
    """The text that a CSV cell stands for: without the `'` that defuses it."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell


def _defused(text: str) -> str:
    return f"'{text}" if _is_formula(text) else text


def _is_formula(text: str) -> bool:
    first = text[:1]
    if first in _TRIMMED:
        first = text.lstrip(_TRIMMED)[:1]
    return first in _FORMULA_STARTS


def _csv_lines(rows: Iterable[Iterable[object]]) -> bytes:
    lines = io.StringIO(newline="")
    csv.writer(lines, lineterminator="\r\n").writerows(rows)
    return lines.getvalue().encode()


@contextmanager
def _compressed(file: BinaryIO, compression: Compression | None) -> Iterator[Any]:
    match compression:
        case None:
            yield file
        case "gz":
            # No name and no time inside: the same rows give the same bytes.
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as out:
                yield out
        case "zst":
            with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as out:
                yield out

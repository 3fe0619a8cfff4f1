"""Sealed segments: immutable Arrow files named `<sequence>-<16 hex digits of the SHA-256 of the bytes>.arrow`.

A segment holds the outcomes of one log sorted by row, those of one row in the order they were put, in
batches of some thousand, compressed with zstd. Arrow has no checksum of its own (84 % of single flipped
bytes were read back without an error), so every read checks the name first.

The columns are the `Outcome`'s fields, exact: the cost is decimal text, since no fixed decimal type holds
every Decimal. `empty` is added (an `ok` row whose answer is empty), so that counting reads no answers.
"""

import contextlib
import hashlib
import json
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from batcher.errors import JournalError
from batcher.journal.frames import Payloads, field_tuples, row_numbers
from batcher.storage.durable import Disk

SEGMENT_VERSION = 1
SEGMENT_NAME = re.compile(r"(\d{6,})-([0-9a-f]{16})\.arrow")

OUTCOME_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        ("answer", pa.string()),
        ("label", pa.string()),
        ("reasoning", pa.string()),
        ("error_kind", pa.string()),
        ("error", pa.string()),
        ("finish_reason", pa.string()),
        ("model", pa.string()),
        ("system_fingerprint", pa.string()),
        ("provider", pa.string()),
        ("cache", pa.string()),
        pa.field("attempts", pa.int64(), nullable=False),
        ("input_tokens", pa.int64()),
        ("cached_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("reasoning_tokens", pa.int64()),
        ("cost_usd", pa.string()),
        ("latency_ms", pa.float64()),
        pa.field("finished_ms", pa.int64(), nullable=False),
        ("asked_model", pa.string()),
    ]
)
"""One record of the journal: the fields of `core.records.Outcome` in their order; `cost_usd` is decimal text."""

SEGMENT_SCHEMA = OUTCOME_SCHEMA.append(pa.field("empty", pa.bool_(), nullable=False))

_META = b"batcher.segment"
_BATCH_ROWS_MAX = 4096
_BATCH_BYTES_MAX = 1 << 20
_DECODED_ROWS_MAX = 256
_ROW, _STATUS, _ANSWER = 0, 1, 2


class DamagedSegmentError(JournalError):
    """A segment's bytes are not those that its name states."""

    def __init__(self, paths: Sequence[Path]) -> None:
        numbers = ", ".join(path.name.partition("-")[0] for path in paths)
        if len(paths) == 1:
            what = f"segment {numbers} does not match its name; move it away"
        else:
            what = f"segments {numbers} do not match their names; move them away"
        super().__init__(
            f"{what} and run `batcher resume` to ask {'its' if len(paths) == 1 else 'their'} rows again",
            hint=f"damaged: {' '.join(str(path) for path in paths)}",
        )


@dataclass(frozen=True, slots=True)
class Segment:
    """A sealed segment whose name was checked when this was made; each read checks it again."""

    path: Path
    sequence: int
    rows_count: int
    row_min: int
    row_max: int

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Those columns of all its outcomes, sorted by row.

        Raises:
            JournalError: The file is no longer what was sealed.
        """
        fields = [SEGMENT_SCHEMA.get_field_index(name) for name in columns]
        with _checked_reader(self.path, fields) as reader:
            return reader.read_all().select(list(columns))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All its outcomes by batches of some thousand, sorted by row, without the derived columns.

        Raises:
            JournalError: The file is no longer what was sealed.
        """
        fields = list(range(len(OUTCOME_SCHEMA)))
        with _checked_reader(self.path, fields) as reader:
            for index in range(reader.num_record_batches):
                yield _plain(reader.get_batch(index))


def open_segment(path: Path, *, fingerprint: str) -> Segment:
    """Check a segment's bytes against its name, its version and its job.

    Raises:
        DamagedSegmentError: The bytes are not those that its name states.
        JournalError: It is renamed, of another job or of another format version.
    """
    with _checked_reader(path, [_ROW]) as reader:
        meta = _meta(reader.schema, path)
    if meta["version"] != SEGMENT_VERSION:
        raise JournalError(
            f"{path} has format version {meta['version']}, but this batcher reads version {SEGMENT_VERSION}; "
            "use the batcher that wrote it"
        )
    if meta["fingerprint"] != fingerprint:
        raise JournalError(
            f"{path} belongs to a job with the fingerprint {meta['fingerprint']}, not {fingerprint}; "
            "move it away, or use the job that wrote it"
        )
    if meta["sequence"] != segment_sequence(path):
        raise JournalError(f"{path} was written as segment {meta['sequence']:06d} and renamed; give it its name back")
    return Segment(path, meta["sequence"], meta["rows_count"], meta["row_min"], meta["row_max"])


def segment_sequence(path: Path) -> int:
    """The number in a segment's name."""
    name = SEGMENT_NAME.fullmatch(path.name)
    if name is None:
        raise ValueError(f"{path.name} is no name of a segment")
    return int(name[1])


def seal(payloads: Payloads, log_path: Path, *, sequence: int, fingerprint: str, disk: Disk) -> Segment:
    """Make the segment of a log's payloads (at least one); it survives a power cut when this returns.

    The bytes are made in memory, since the name needs their hash: about the log's size, compressed.

    Raises:
        StorageError: The disk refused it.
        JournalError: A record in the log is no outcome.
    """
    rows = row_numbers(payloads)
    order = _by_row(rows)
    row_min, row_max = rows[order[0]], rows[order[-1]]
    meta = {
        "version": SEGMENT_VERSION,
        "fingerprint": fingerprint,
        "sequence": sequence,
        "rows_count": len(rows),
        "row_min": row_min,
        "row_max": row_max,
    }
    schema = SEGMENT_SCHEMA.with_metadata({_META: json.dumps(meta).encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)) as writer:
        for batch in _batches(payloads, order, schema, log_path):
            writer.write_batch(batch)
    content = sink.getvalue()
    target = log_path.with_name(f"{sequence:06d}-{hashlib.sha256(content).hexdigest()[:16]}.arrow")

    def write(file: BinaryIO) -> None:
        file.write(content)

    disk.durable_write(target, write)
    return Segment(target, sequence, len(rows), row_min, row_max)


def unsealed_batches(payloads: Payloads, log_path: Path) -> Iterator[pa.RecordBatch]:
    """A log's outcomes as `Segment.batches` would give them, had it been sealed."""
    for batch in _batches(payloads, _by_row(row_numbers(payloads)), SEGMENT_SCHEMA, log_path):
        yield _plain(batch)


def _by_row(rows: Sequence[int]) -> Sequence[int]:
    """The order that sorts by row. It is stable: the latest outcome of a row stays last."""
    return array("q", sorted(range(len(rows)), key=rows.__getitem__))


def _batches(payloads: Payloads, order: Sequence[int], schema: pa.Schema, log_path: Path) -> Iterator[pa.RecordBatch]:
    """The payloads in that order, cut where a batch is full by rows or by bytes.

    Decoded some hundred at a time: as Python's objects they take ten times the room, and the run goes on beside it.
    """
    parts: list[pa.RecordBatch] = []
    group: list[memoryview] = []
    rows = size_bytes = 0
    for index in order:
        group.append(payloads[index])
        rows, size_bytes = rows + 1, size_bytes + len(payloads[index])
        is_full = rows == _BATCH_ROWS_MAX or size_bytes >= _BATCH_BYTES_MAX
        if is_full or len(group) == _DECODED_ROWS_MAX:
            parts.append(_batch(group, schema, log_path))
            group = []
        if is_full:
            yield pa.concat_batches(parts)
            parts, rows, size_bytes = [], 0, 0
    if group:
        parts.append(_batch(group, schema, log_path))
    if parts:
        yield pa.concat_batches(parts)


def _batch(payloads: Sequence[memoryview], schema: pa.Schema, log_path: Path) -> pa.RecordBatch:
    columns: list[Sequence[Any]] = list(zip(*field_tuples(payloads), strict=True))
    columns.append(
        [status == "ok" and not answer for status, answer in zip(columns[_STATUS], columns[_ANSWER], strict=True)]
    )
    try:
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise JournalError(f"{log_path} holds a record that is no outcome ({error})") from error
    return pa.record_batch(arrays, schema=schema)


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.record_batch(batch.columns[: len(OUTCOME_SCHEMA)], schema=OUTCOME_SCHEMA)


@contextlib.contextmanager
def _checked_reader(path: Path, fields: Sequence[int]) -> Iterator[pa.ipc.RecordBatchFileReader]:
    """A reader of those columns (by index), of a file whose bytes have just been checked."""
    name = SEGMENT_NAME.fullmatch(path.name)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise JournalError(f"segment {path} cannot be read: {error.strerror}") from error
    if name is None or not digest.startswith(name[2]):
        raise DamagedSegmentError([path])
    # Read, not mapped: mapped pages count as the process's memory, and a merge goes through all of them.
    with pa.OSFile(str(path)) as source:
        options = pa.ipc.IpcReadOptions(included_fields=list(fields), use_threads=False)
        try:
            reader = pa.ipc.open_file(source, options=options)
        except (pa.ArrowInvalid, OSError) as error:
            raise JournalError(f"{path} is no Arrow file ({error}); move it away") from error
        yield reader


def _meta(schema: pa.Schema, path: Path) -> dict[str, Any]:
    found = (schema.metadata or {}).get(_META)
    if found is None:
        raise JournalError(f"{path} is an Arrow file, but no segment of batcher; move it away")
    meta: dict[str, Any] = json.loads(found)
    return meta

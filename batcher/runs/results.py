"""The results: one row for every input row, in input order.

Outcomes come from the journal and the input's own columns from the source, in batches that begin and
end at different rows; they are laid side by side here, and every row is counted.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batcher.errors import InputError, JournalError
from batcher.runs.columns import result_batch
from batcher.runs.tables import TableFormat, write_table
from batcher.storage.durable import Disk

_BESIDE_BYTES_MAX = 4 << 20


def write_results(
    outcomes: Iterator[pa.RecordBatch],
    target: Path,
    *,
    form: TableFormat,
    schema: pa.Schema,
    disk: Disk,
    beside: Iterator[pa.RecordBatch] | None = None,
    rows_expected: int | None = None,
) -> int:
    """Write the results to `target`; the number of rows.

    Args:
        outcomes: The fields of `core.records.Outcome` by name, in row order from 0, each row once.
        target: Any path; its directories are made, an old file is replaced when the new one is whole.
        form: How to write it.
        schema: As `columns.result_schema` gave it.
        disk: Where to.
        beside: `key` (where the schema has it) and the carried columns of the same rows; batch
            boundaries are free. None where the schema has neither.
        rows_expected: How many rows there must be, where that is known.

    Raises:
        JournalError: A row is missing, twice, or out of order.
        InputError: The input has not as many rows as there are outcomes.
        StorageError: The disk refused; `target` is as it was.
    """

    def batches() -> Iterator[pa.RecordBatch]:
        rows = 0
        for outcome_batch, beside_batch in _aligned(_in_order(outcomes), beside):
            rows += outcome_batch.num_rows
            yield result_batch(outcome_batch, beside_batch, schema)
        if rows_expected is not None and rows != rows_expected:
            raise JournalError(f"the journal holds {rows:,} rows in order, but the input has {rows_expected:,}")

    return write_table(target, form, schema, batches(), disk)


def read_results(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a run's `results.parquet` in batches that fit in memory, however long the answers are.

    A batch is an eighth of its row group, which `write_table` kept small: counted in rows alone, thousands of answers
    of 100 kB would be read at once.

    Args:
        path: Of the results.
        columns: Those that are wanted and there; None for all.

    Raises:
        JournalError: The file is no whole Parquet file.
    """
    with readable(path):
        file = pq.ParquetFile(path)
    with file:
        for group in range(file.num_row_groups):
            batch_rows = max(file.metadata.row_group(group).num_rows // 8, 1)
            batches = file.iter_batches(batch_rows, row_groups=[group], columns=columns, use_threads=False)
            while True:
                # Damage is told apart from a full disk here, where nothing but the reading can fail.
                with readable(path):
                    batch = next(batches, None)
                if batch is None:
                    break
                yield batch


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever fails inside says that the results at `path` are damaged.

    Raises:
        JournalError: So it is.
    """
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise JournalError(
            f"{path} is no whole Parquet file",
            hint=f"move it away; `batcher resume {path.parent}` writes it again from the journal",
        ) from error


def _in_order(outcomes: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches, proven to hold rows 0, 1, 2, … without a gap or a repetition."""
    expected = 0
    for batch in outcomes:
        if batch.num_rows == 0:
            continue
        rows = batch.column("row")
        wanted = pa.array(range(expected, expected + batch.num_rows), pa.int64())
        if not pc.all(pc.equal(rows, wanted), skip_nulls=False).as_py():
            wrong = pc.index(pc.equal(rows, wanted), False).as_py()
            raise JournalError(
                f"the journal has no outcome for row {expected + wrong} in its place; nothing was written"
            )
        expected += batch.num_rows
        yield batch


def _aligned(
    outcomes: Iterator[pa.RecordBatch], beside: Iterator[pa.RecordBatch] | None
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch | None]]:
    """Pairs of equal length: whole batches of outcomes where what stands beside them is not too large for that."""
    if beside is None:
        yield from ((batch, None) for batch in outcomes)
        return
    reader = _Beside(beside)
    for batch in outcomes:
        at = 0
        while at < batch.num_rows:
            taken = reader.take(batch.num_rows - at)
            yield batch.slice(at, taken.num_rows), taken
            at += taken.num_rows
    if reader.has_more():
        raise InputError(
            f"the input has more than the {reader.rows:,} rows that were asked; it has changed since the run began"
        )


class _Beside:
    """The input's own columns, as many rows at a time as are asked for. `rows` are those taken so far."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._left: pa.RecordBatch | None = None
        self.rows = 0

    def take(self, count: int) -> pa.RecordBatch:
        """The next rows: at least one, at most `count`, and no more than about 4 MiB where they are large.

        Raises:
            InputError: There are no more.
        """
        parts: list[pa.RecordBatch] = []
        rows = size_bytes = 0
        while rows < count and size_bytes < _BESIDE_BYTES_MAX and self.has_more():
            assert self._left is not None
            part = self._left.slice(0, count - rows)
            self._left = self._left.slice(part.num_rows)
            parts.append(part)
            rows, size_bytes = rows + part.num_rows, size_bytes + part.nbytes
        if not parts:
            raise InputError(
                f"the input ends after {self.rows:,} rows, but more were asked; it has changed since the run began"
            )
        self.rows += rows
        return parts[0] if len(parts) == 1 else pa.concat_batches(parts)

    def has_more(self) -> bool:
        """Whether there is a row that was not taken yet."""
        while self._left is None or not self._left.num_rows:
            self._left = next(self._batches, None)
            if self._left is None:
                return False
        return True

"""The results: one row for every input row, in input order.

Outcomes come from the journal and the input's own columns from the source, in batches that begin and
end at different rows; they are laid side by side here, and every row is counted.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from batcher.errors import InputError, JournalError
from batcher.runs.columns import result_batch
from batcher.runs.tables import TableFormat, write_table
from batcher.storage.durable import Disk


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
    """Pairs of slices of equal length."""
    if beside is None:
        yield from ((batch, None) for batch in outcomes)
        return
    rows = 0
    left: pa.RecordBatch | None = None
    for batch in outcomes:
        outcome_batch = batch
        while outcome_batch.num_rows:
            left = left if left is not None and left.num_rows else next(beside, None)
            if left is None:
                raise InputError(
                    f"the input ends after {rows:,} rows, but more were asked; it has changed since the run began"
                )
            count = min(outcome_batch.num_rows, left.num_rows)
            if count:
                yield outcome_batch.slice(0, count), left.slice(0, count)
            outcome_batch, left = outcome_batch.slice(count), left.slice(count)
            rows += count
    if (left is not None and left.num_rows) or any(batch.num_rows for batch in beside):
        raise InputError(
            f"the input has more than the {rows:,} rows that were asked; it has changed since the run began"
        )

"""One record a row, in row order, out of many sorted segments, in bounded memory.

Each segment gives its batches in turn; what is below the first row that a batch not yet read could hold is
complete and goes out. Where a row has several outcomes (it was asked again by `batcher retry`), the latest
stands, with the attempts, tokens and costs of all of them added up.
"""

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batcher.errors import JournalError
from batcher.journal.segment import OUTCOME_SCHEMA
from batcher.journal.tally import EXACT

_OUT_BYTES_MAX = 8 << 20
_COUNTED = ("attempts", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")
_SPEND = (*_COUNTED, "cost_usd")


@dataclass(frozen=True, slots=True)
class Run:
    """A sorted stretch of outcomes, opened when the merge reaches its first row."""

    row_min: int
    row_max: int
    batches: Callable[[], Iterator[pa.RecordBatch]]


def merged_batches(runs: Sequence[Run], rows: int, *, batch_rows_max: int) -> Iterator[pa.RecordBatch]:
    """The rows from 0 up to `rows`, one record each, in batches of up to about `batch_rows_max` rows or 8 MiB.

    `runs` are in the order they were written: a later one's outcome of a row takes the earlier one's place.

    Raises:
        JournalError: A row has no outcome, the journal holds rows beyond `rows`, or a segment is damaged.
    """
    beyond = max((run.row_max for run in runs), default=-1)
    if beyond >= rows:
        raise JournalError(
            f"the journal holds an outcome of row {beyond}, but the input has only {rows} rows; "
            "restore the input, or start anew with `batcher run --fresh`"
        )
    waiting: list[pa.Table] = []
    for piece in _pieces(runs, rows):
        waiting.append(piece)
        if sum(map(len, waiting)) >= batch_rows_max or sum(table.nbytes for table in waiting) >= _OUT_BYTES_MAX:
            yield _one_batch(waiting)
            waiting = []
    if waiting:
        yield _one_batch(waiting)


class _Cursor:
    """Reads one run; holds one batch of it at a time."""

    def __init__(self, order: int, run: Run) -> None:
        self.order = order
        self._batches = run.batches()
        self._batch: pa.RecordBatch | None = None
        self._next_batch()

    @property
    def is_done(self) -> bool:
        return self._batch is None

    @property
    def last_row(self) -> int:
        """The last row of the batch at hand; the next batch may begin with the same row."""
        assert self._batch is not None
        last: int = self._batch.column(0)[len(self._batch) - 1].as_py()
        return last

    def take(self, stop: int) -> list[pa.RecordBatch]:
        """The outcomes of rows below `stop`."""
        taken: list[pa.RecordBatch] = []
        while self._batch is not None:
            cut = bisect.bisect_left(self._batch.column(0), stop, key=lambda scalar: scalar.as_py())
            taken.append(self._batch.slice(0, cut))
            if cut < len(self._batch):
                self._batch = self._batch.slice(cut)
                break
            self._next_batch()
        return taken

    def _next_batch(self) -> None:
        self._batch = next(self._batches, None)


def _pieces(runs: Sequence[Run], rows: int) -> Iterator[pa.Table]:
    """Tables of one record a row, together the rows from 0 up to `rows` without a gap."""
    closed = sorted(enumerate(runs), key=lambda pair: pair[1].row_min, reverse=True)
    cursors: list[_Cursor] = []
    row = 0
    while row < rows:
        while closed and closed[-1][1].row_min <= row:
            cursors.append(_Cursor(*closed.pop()))
        cursors = sorted((cursor for cursor in cursors if not cursor.is_done), key=lambda cursor: cursor.order)
        stop = min((cursor.last_row + 1 for cursor in cursors), default=row + 1)
        if closed:
            stop = min(stop, closed[-1][1].row_min)
        taken = [batch for cursor in cursors for batch in cursor.take(stop)]
        table = _sorted_by_row(pa.Table.from_batches(taken, OUTCOME_SCHEMA))
        if not _has_each_once(table, row, stop):
            table = _latest(table)
            if not _has_each_once(table, row, stop):
                present = set(table["row"].to_pylist())
                first_missing = next(number for number in range(row, stop) if number not in present)
                raise JournalError(f"row {first_missing} has no outcome in the journal; run `batcher resume` to ask it")
        yield table
        row = stop


def _sorted_by_row(table: pa.Table) -> pa.Table:
    """Sorted by row, one chunk a column; outcomes of one row stay in their order."""
    is_sorted = table["row"].num_chunks <= 1
    table = table.combine_chunks()
    # Arrow's sort is documented as stable.
    return table if is_sorted else table.take(pc.sort_indices(table, sort_keys=[("row", "ascending")]))


def _has_each_once(table: pa.Table, start: int, stop: int) -> bool:
    if len(table) != stop - start:
        return False
    rows = table["row"].chunk(0)
    steps = pc.subtract(rows[1:], rows[:-1])
    return rows[0].as_py() == start and pc.all(pc.equal(steps, 1), min_count=0).as_py() is True


def _latest(table: pa.Table) -> pa.Table:
    """The last outcome of each row, with the spend of all of that row's; `table` is sorted by row."""
    if len(table) == 0:
        return table
    rows = table["row"].chunk(0)
    goes_on = pc.equal(rows[:-1], rows[1:])  # the next outcome is of the same row
    no = pa.array([False])
    is_last = pc.invert(pa.concat_arrays([goes_on, no]))
    is_repeated = pc.or_(pa.concat_arrays([goes_on, no]), pa.concat_arrays([no, goes_on]))
    sums = _spend_sums(table.filter(is_repeated).select(["row", *_SPEND]).to_pylist())
    latest = table.filter(is_last).combine_chunks()
    has_sum = pc.is_in(latest["row"].chunk(0), value_set=pa.array(sums, pa.int64()))
    for name in _SPEND:
        index = latest.schema.get_field_index(name)
        field = latest.schema.field(index)
        values = pa.array([spend[name] for spend in sums.values()], field.type)
        latest = latest.set_column(index, field, pc.replace_with_mask(latest[name].chunk(0), has_sum, values))
    return latest


def _spend_sums(spends: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Each row's spends added up, in the order of the rows.

    As `core.records.Spend` adds: tokens that were not reported add nothing, a cost that is not known makes the
    sum unknown.
    """
    sums: dict[int, dict[str, Any]] = {}
    for spend in spends:
        total = sums.get(spend["row"])
        if total is None:
            sums[spend["row"]] = dict(spend)
            continue
        for name in _COUNTED:
            counts = [count for count in (total[name], spend[name]) if count is not None]
            total[name] = sum(counts) if counts else None
        is_unknown = total["cost_usd"] is None or spend["cost_usd"] is None
        total["cost_usd"] = (
            None if is_unknown else str(EXACT.add(Decimal(total["cost_usd"]), Decimal(spend["cost_usd"])))
        )
    return sums


def _one_batch(tables: Sequence[pa.Table]) -> pa.RecordBatch:
    return pa.concat_tables(tables).combine_chunks().to_batches()[0]

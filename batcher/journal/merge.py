"""One record a row, in row order, out of many sorted segments, in bounded memory.

Each segment gives its batches in turn; what is below the first row that a batch not yet read could hold is
complete and goes out. Rows are answered nearly in their order, so that few segments overlap; where more than
16 do, they are first joined into larger ones on the disk. Where a row has several outcomes (it was asked again by
`batcher retry`), the latest stands, with the attempts, tokens and costs of all of them added up.
"""

import bisect
import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from batcher.errors import JournalError
from batcher.journal.segment import OUTCOME_SCHEMA
from batcher.journal.tally import EXACT
from batcher.storage.durable import storage_error

_OUT_BYTES_MAX = 4 << 20
_OVERLAPPING_MAX = 16
_TABLE_ROWS = 16_384
_SPILLED_ROWS, _SPILLED_BYTES = 4_096, 1 << 20
_COUNTED = ("attempts", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")
_SPEND = (*_COUNTED, "cost_usd")


@dataclass(frozen=True, slots=True)
class Run:
    """A sorted stretch of outcomes, opened when the merge reaches its first row."""

    row_min: int
    row_max: int
    batches: Callable[[], Iterator[pa.RecordBatch]]


def merged_batches(
    runs: Sequence[Run], rows: int, *, batch_rows_max: int, scratch: Path | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows from 0 up to `rows`, one record each, in batches of up to about `batch_rows_max` rows or 4 MiB.

    `runs` are in the order they were written: a later one's outcome of a row takes the earlier one's place.
    `scratch` is a directory on a disk with room for what is merged, where very many runs overlap;
    without it, that of temporary files.

    Raises:
        JournalError: A row has no outcome, the journal holds rows beyond `rows`, or a segment is damaged.
        StorageError: There is no room in `scratch`.
    """
    beyond = max((run.row_max for run in runs), default=-1)
    if beyond >= rows:
        raise JournalError(
            f"the journal holds an outcome of row {beyond}, but the input has only {rows} rows; "
            "restore the input, or start anew with `batcher run --fresh`"
        )
    with contextlib.ExitStack() as files:
        few = narrowed(runs, partial(spilled, scratch=scratch, files=files))
        yield from _joined(_one_each(few, rows), batch_rows_max)


def narrowed(runs: Sequence[Run], spill: Callable[[Sequence[Run]], Run]) -> Sequence[Run]:
    """The same outcomes in runs of which no more than 16 hold any one row; mostly these very runs.

    A run that is being merged has a batch in memory. Neighbours in the order of writing are joined, so that the
    order of a row's outcomes stays.
    """
    while _overlapping_max(runs) > _OVERLAPPING_MAX:
        runs = [spill(runs[start : start + _OVERLAPPING_MAX]) for start in range(0, len(runs), _OVERLAPPING_MAX)]
    return runs


def spilled(runs: Sequence[Run], *, scratch: Path | None, files: contextlib.ExitStack) -> Run:
    """One run that holds the outcomes of these, in a file without a name: it is gone with the process, or with `files`.

    Raises:
        StorageError: There is no room.
    """
    try:
        file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115  # closed by the stack, with the merge
        files.enter_context(file)
        options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        with pa.ipc.new_stream(pa.PythonFile(file, mode="w"), OUTCOME_SCHEMA, options=options) as writer:
            for batch in _joined(_sorted_tables(runs), _SPILLED_ROWS, _SPILLED_BYTES):
                writer.write_batch(batch)
        file.seek(0)
    except OSError as error:
        raise storage_error(error, scratch or Path(tempfile.gettempdir())) from error
    return Run(min(run.row_min for run in runs), max(run.row_max for run in runs), partial(_read_back, file))


def _read_back(file: IO[bytes]) -> Iterator[pa.RecordBatch]:
    with pa.ipc.open_stream(pa.PythonFile(file, mode="r"), options=pa.ipc.IpcReadOptions(use_threads=False)) as reader:
        yield from reader


def _overlapping_max(runs: Sequence[Run]) -> int:
    """How many runs at most may hold one and the same row."""
    changes = sorted([(run.row_min, 1) for run in runs] + [(run.row_max + 1, -1) for run in runs])
    return max(accumulate(change for _, change in changes), default=0)


def _joined(tables: Iterator[pa.Table], rows_max: int, bytes_max: int = _OUT_BYTES_MAX) -> Iterator[pa.RecordBatch]:
    """The tables as larger batches: each as soon as it has about so many rows or bytes."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= rows_max or sum(one.nbytes for one in waiting) >= bytes_max:
            batch = _one_batch(waiting)
            waiting = []  # before it goes out: whoever takes it works while this waits
            yield batch
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

    def row_at(self, index: int) -> int:
        """The row at that place of the batch at hand, or its last; the next batch may begin with the same row."""
        assert self._batch is not None
        row: int = self._batch.column(0)[min(index, len(self._batch) - 1)].as_py()
        return row

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


def _one_each(runs: Sequence[Run], rows: int) -> Iterator[pa.Table]:
    """Tables of one record a row, together the rows from 0 up to `rows` without a gap."""
    row = 0
    for outcomes in _sorted_tables(runs):
        table = outcomes
        stop = table["row"][-1].as_py() + 1
        if not _has_each_once(table, row, stop):
            table = _latest(table)
            if not _has_each_once(table, row, stop):
                present = set(table["row"].to_pylist())
                raise _missing(next(number for number in range(row, stop) if number not in present))
        yield table
        row = stop
    if row < rows:
        raise _missing(row)


def _missing(row: int) -> JournalError:
    return JournalError(f"row {row} has no outcome in the journal; run `batcher resume` to ask it")


def _sorted_tables(runs: Sequence[Run]) -> Iterator[pa.Table]:
    """All outcomes of the runs sorted by row, those of one row in the order they were written and in one table."""
    closed = sorted(enumerate(runs), key=lambda pair: pair[1].row_min, reverse=True)
    cursors: list[_Cursor] = []
    row = 0
    while closed or cursors:
        if not cursors:
            row = closed[-1][1].row_min
        while closed and closed[-1][1].row_min <= row:
            cursors.append(_Cursor(*closed.pop()))
        cursors = sorted((cursor for cursor in cursors if not cursor.is_done), key=lambda cursor: cursor.order)
        if not cursors:
            continue
        share = _TABLE_ROWS // len(cursors)
        stop = min(cursor.row_at(share) for cursor in cursors) + 1
        if closed:
            stop = min(stop, closed[-1][1].row_min)
        taken = [batch for cursor in cursors for batch in cursor.take(stop) if len(batch)]
        cursors = [cursor for cursor in cursors if not cursor.is_done]
        row = stop
        if taken:
            yield _sorted_by_row(pa.Table.from_batches(taken, OUTCOME_SCHEMA))


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

"""What the journal knows of its rows: folds over its outcomes, in bits and a few sums.

`Tally` knows where each row stands now (its latest outcome); `Spending` sums what all outcomes used, a
row's earlier ones included: money once spent stays spent.
"""

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Context, Decimal

import pyarrow as pa
import pyarrow.compute as pc

from batcher.core.records import Outcome, Status
from batcher.errors import FailureKind
from batcher.journal.rowset import RowSet

TALLY_COLUMNS = ("row", "status", "error_kind", "empty")
SPENDING_COLUMNS = (
    "provider",
    "asked_model",
    "cost_usd",
    "attempts",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "reasoning_tokens",
)

EXACT = Context(prec=200)
"""For sums of costs: the usual 28 digits would round them, and no sum of costs needs as many as these."""

# With fewer rows than this in a stretch of neighbours, to take in each row alone is quicker.
_APART = 4


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rows stand where. `empty` are the `ok` rows without a text; `failures` the others by error kind."""

    ok: int
    invalid: int
    failed: int
    empty: int
    failures: Counter[str]

    @property
    def done(self) -> int:
        """Rows that have an outcome."""
        return self.ok + self.invalid + self.failed


class Tally:
    """Where every row stands."""

    def __init__(self) -> None:
        self.done = RowSet()
        self._empty = RowSet()
        self._wrong: dict[tuple[Status, FailureKind | None], RowSet] = {}

    def add(self, outcome: Outcome) -> None:
        """Take in an outcome; it takes the place of the row's earlier one."""
        is_empty = outcome.status == "ok" and not outcome.answer
        self._add(outcome.row, outcome.status, outcome.error_kind, is_empty)

    def add_new(self, outcome: Outcome) -> bool:
        """Take in a row's only outcome; False, and nothing is taken in, where it has one already."""
        if not self.done.add(outcome.row):
            return False
        is_ok = outcome.status == "ok"
        if not is_ok or not outcome.answer:
            self._sort_in(outcome.row, outcome.status, outcome.error_kind, is_ok)
        return True

    def add_table(self, table: pa.Table) -> None:
        """Take in the outcomes of one segment: its `TALLY_COLUMNS`, sorted by row, a row's latest last.

        Rows that come for the first time, nearly always all, cost a few operations a run of neighbours.
        """
        rows = table["row"].combine_chunks()
        if not self._add_new(rows):
            for values in _tuples(table):
                self._add(*values)
            return
        for values in _tuples(table.filter(pc.or_(pc.not_equal(table["status"], "ok"), table["empty"]))):
            self._sort_in(*values)

    def remove(self, row: int) -> None:
        """Forget the row's outcome."""
        self.done.discard(row)
        self._empty.discard(row)
        for rows in self._wrong.values():
            rows.discard(row)

    def remove_wrong(self) -> int:
        """Forget the outcome of every row that failed or is invalid; how many they are."""
        removed = sum(self.done.discard(row) for rows in self._wrong.values() for row in rows)
        self._wrong.clear()
        return removed

    def wrong_rows(self) -> Iterator[int]:
        """The rows whose latest outcome is failed or invalid, ascending."""
        return heapq.merge(*self._wrong.values())

    def counts(self) -> Counts:
        """How many rows stand where, now."""
        failures: Counter[str] = Counter()
        by_status: Counter[Status] = Counter()
        for (status, kind), rows in self._wrong.items():
            failures[kind or "unknown"] += len(rows)
            by_status[status] += len(rows)
        return Counts(
            ok=len(self.done) - by_status.total(),
            invalid=by_status["invalid"],
            failed=by_status["failed"],
            empty=len(self._empty),
            failures=+failures,
        )

    def _add(self, row: int, status: Status, kind: FailureKind | None, is_empty: bool) -> None:
        if not self.done.add(row):
            self.remove(row)
            self.done.add(row)
        if is_empty or status != "ok":
            self._sort_in(row, status, kind, is_empty)

    def _sort_in(self, row: int, status: Status, kind: FailureKind | None, is_empty: bool) -> None:
        if is_empty:
            self._empty.add(row)
        else:
            self._wrong.setdefault((status, kind), RowSet()).add(row)

    def _add_new(self, rows: pa.Int64Array) -> bool:
        """Take rows in as done, if none comes twice and none has an outcome yet; else False, and none is taken in."""
        if pc.any(pc.equal(rows[1:], rows[:-1])).as_py():
            return False
        stretches = _stretches(rows)
        if len(stretches) * _APART > len(rows):
            singly = rows.to_pylist()
            if self.done.has_any(singly):
                return False
            self.done.add_new(singly)
            return True
        if any(self.done.overlaps(start, stop) for start, stop in stretches):
            return False
        for start, stop in stretches:
            self.done.add_range(start, stop)
        return True


@dataclass(slots=True)
class Spent:
    """What outcomes used. Tokens that were not reported add nothing; costs that are not known are counted."""

    outcomes: int = 0
    attempts: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    cost_unknown: int = 0

    def add_cost(self, cost_usd: Decimal | None, outcomes: int = 1) -> None:
        """Add outcomes that cost so much each, exactly."""
        self.outcomes += outcomes
        if cost_usd is None:
            self.cost_unknown += outcomes
        else:
            self.cost_usd = EXACT.fma(cost_usd, outcomes, self.cost_usd)


class Spending(dict[tuple[str | None, str | None], Spent]):
    """What all outcomes used, by provider and asked model."""

    def __missing__(self, key: tuple[str | None, str | None]) -> Spent:
        spent = self[key] = Spent()
        return spent

    def add(self, outcome: Outcome) -> None:
        """Add what one outcome used."""
        spent = self[outcome.provider, outcome.asked_model]
        spent.add_cost(outcome.cost_usd)
        spent.attempts += outcome.attempts
        spent.input_tokens += outcome.input_tokens or 0
        spent.cached_tokens += outcome.cached_tokens or 0
        spent.output_tokens += outcome.output_tokens or 0
        spent.reasoning_tokens += outcome.reasoning_tokens or 0

    def add_table(self, table: pa.Table) -> None:
        """Add what the outcomes of one segment used: its `SPENDING_COLUMNS`.

        Costs are text and cannot be summed by Arrow; there are few different ones, so each is counted.
        """
        by_cost = table.group_by(list(SPENDING_COLUMNS[:3]), use_threads=False).aggregate(
            [([], "count_all"), *((name, "sum") for name in SPENDING_COLUMNS[3:])]
        )
        for group in by_cost.to_pylist():
            spent = self[group["provider"], group["asked_model"]]
            cost_text = group["cost_usd"]
            spent.add_cost(None if cost_text is None else Decimal(cost_text), group["count_all"])
            spent.attempts += group["attempts_sum"] or 0
            spent.input_tokens += group["input_tokens_sum"] or 0
            spent.cached_tokens += group["cached_tokens_sum"] or 0
            spent.output_tokens += group["output_tokens_sum"] or 0
            spent.reasoning_tokens += group["reasoning_tokens_sum"] or 0


def _tuples(table: pa.Table) -> Iterator[tuple[int, Status, FailureKind | None, bool]]:
    return zip(*(table[name].to_pylist() for name in TALLY_COLUMNS), strict=True)


def _stretches(rows: pa.Int64Array) -> list[tuple[int, int]]:
    """The ranges of neighbouring rows, up to but without the second, in a sorted array without duplicates."""
    if len(rows) == 0:
        return []
    is_end = pc.not_equal(pc.subtract(rows[1:], rows[:-1]), 1)
    ends = pa.concat_arrays([pc.indices_nonzero(is_end).cast(pa.int64()), pa.array([len(rows) - 1], pa.int64())])
    starts = pa.concat_arrays([pa.array([0], pa.int64()), pc.add(ends[:-1], 1)])
    stops = pc.add(rows.take(ends), 1)
    return list(zip(rows.take(starts).to_pylist(), stops.to_pylist(), strict=True))

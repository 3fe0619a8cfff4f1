"""Gold rows: rows whose right answer is known, and how many of them the run got right."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from batcher.answers.finder import key_of

WRONG_SHOWN_MAX = 5
_Z_95 = 1.959963984540054
_TEXT_SHOWN_MAX = 40


@dataclass(frozen=True, slots=True)
class GoldRule:
    """Which input column holds the truth, and the least share (0 to 1) of its rows that must be right."""

    column: str
    min_accuracy: Decimal = Decimal("0.9")


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of shares, from 0 to 1."""

    low: float
    high: float


@dataclass(slots=True)
class GoldTally:
    """Counts of the gold rows. `wrong` are the first few wrong ones, `strange` truths that are none of the labels."""

    labels: Sequence[str] | None = None
    rows: int = 0
    right: int = 0
    wrong: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    _label_keys: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self._label_keys = frozenset(key_of(label) for label in self.labels or ())

    def add(self, results: pa.RecordBatch, truths: pa.Array) -> None:
        """Count some rows.

        Args:
            results: Columns `row`, `status`, `said` (the label or the answer) and, where rows have names, `key`.
            truths: For the same rows as text; null or blank where the truth is not known.
        """
        is_gold = known(truths)
        gold, truths = results.filter(is_gold), truths.filter(is_gold)
        is_ok = pc.equal(gold.column("status"), "ok")
        is_exact = pc.fill_null(pc.and_(is_ok, pc.equal(gold.column("said"), truths)), False)
        self.rows += len(truths)
        self.right += is_exact.true_count
        # What is not the same letter for letter may still be the same answer; only these are looked at one by one.
        others = pc.invert(is_exact)
        for result, truth in zip(gold.filter(others).to_pylist(), truths.filter(others).to_pylist(), strict=True):
            if result["status"] == "ok" and key_of(result["said"] or "") == key_of(truth):
                self.right += 1
            else:
                self._add_wrong(result, truth)

    @property
    def accuracy(self) -> float:
        """The share of gold rows that are right; there must be one."""
        return self.right / self.rows

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the accuracy; there must be a gold row."""
        return wilson(self.right, self.rows)

    def _add_wrong(self, result: dict[str, object], truth: str) -> None:
        key = result.get("key")
        name = f"row {result['row']}" if key is None else f"row {result['row']} (key {str(key)[:_TEXT_SHOWN_MAX]})"
        if len(self.wrong) < WRONG_SHOWN_MAX:
            self.wrong.append(name)
        if self.labels and len(self.strange) < WRONG_SHOWN_MAX and key_of(truth) not in self._label_keys:
            self.strange.append(f'"{truth[:_TEXT_SHOWN_MAX]}" in {name}')


def known(truths: pa.Array) -> pa.Array:
    """Where the truth is known: a mask without nulls, true where a text is neither null nor blank."""
    return pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(truths), ""), False)


def strange_truth(truths: pa.Array, labels: Sequence[str]) -> int | None:
    """The place of the first known truth that is none of the labels, or None."""
    keys = {key_of(label) for label in labels}
    distinct = pc.unique(truths.filter(known(truths))).to_pylist()
    strange = [truth for truth in distinct if key_of(truth) not in keys]
    return None if not strange else int(pc.index(truths, strange[0]).as_py())


def judge_gold(tally: GoldTally, rule: GoldRule) -> list[str]:
    """A sentence where too few gold rows are right, or there is none at all; else none."""
    if tally.rows == 0:
        return [
            f"no row has a known truth: the column {rule.column} is empty in every row that was read, "
            "so success.gold could not be measured"
        ]
    if tally.right >= rule.min_accuracy * tally.rows:
        return []
    interval = tally.interval
    more = tally.rows - tally.right - len(tally.wrong)
    named = ", ".join(tally.wrong) + (f" and {more:,} more" if more else "")
    strange = f"; none of the labels are the truths {', '.join(tally.strange)}" if tally.strange else ""
    return [
        f"{tally.right:,} of {tally.rows:,} gold rows are right ({_percent(tally.accuracy)}, 95 % interval "
        f"{_percent(interval.low)} to {_percent(interval.high)}); success.gold.min_accuracy asks "
        f"{format((rule.min_accuracy * 100).normalize(), 'f')} %; wrong: {named}{strange}"
    ]


def wilson(right: int, rows: int) -> Interval:
    """The 95 % score interval of a share: Wilson 1927. Holds for few rows and for shares near 0 and 1 too.

    Args:
        right: From 0 to `rows`.
        rows: 1 or more.
    """
    share, z2 = right / rows, _Z_95**2
    middle = share + z2 / (2 * rows)
    half = _Z_95 * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    # At the very ends the two halves are equal, and rounding may leave a trace beyond 0 or 1.
    return Interval(max(0.0, (middle - half) / (1 + z2 / rows)), min(1.0, (middle + half) / (1 + z2 / rows)))


def _percent(share: float) -> str:
    """Rounded down to a tenth, so that 89.96 % does not read as the 90 % that it misses."""
    return f"{format(Decimal(math.floor(share * 1000 + 1e-9)) / 10, 'f').removesuffix('.0')} %"

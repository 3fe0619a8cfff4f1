"""The job's success rule: whether a finished run is good enough for exit code 0.

The shares of failed, invalid and empty rows are judged here; what concerns the answers themselves in
`sameness`, `drift` and `gold`.
"""

from dataclasses import dataclass, field
from decimal import Decimal

from batcher.answers.gold import GoldRule
from batcher.answers.sameness import SameLimit

_LEAST_DIGITS = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class SuccessRule:
    """The largest shares (0 to 1) of all rows that may be failed, invalid or empty, and what else must hold.

    `same` holds the largest shares of the `ok` rows that one answer may take; `label_drift` is the largest distance
    of the labels' shares from those of the last good run. None asks nothing.
    """

    failed: Decimal = Decimal("0.01")
    invalid: Decimal = Decimal("0.05")
    empty: Decimal = Decimal("0.05")
    same: SameLimit = field(default_factory=SameLimit)
    label_drift: Decimal | None = None
    gold: GoldRule | None = None


@dataclass(frozen=True, slots=True)
class RowCounts:
    """How the rows of a run ended. `empty` are the `ok` rows whose answer is empty text.

    `failed_by` and `invalid_by` say in words of what kinds they are: `31 rate limit, 6 refused`.
    """

    rows: int
    failed: int
    invalid: int
    empty: int
    failed_by: str = ""
    invalid_by: str = ""


def judge_success(counts: RowCounts, rule: SuccessRule) -> list[str]:
    """A sentence for each share that is too large; none when the rule holds.

    A share that is reached exactly holds: 1 failed row of 100 keeps `failed: 1%`. A run without rows
    holds (an input without rows is refused before it starts).
    """
    parts = (
        ("failed", "failed", counts.failed, rule.failed, counts.failed_by),
        ("invalid", "are invalid", counts.invalid, rule.invalid, counts.invalid_by),
        ("empty", "are empty", counts.empty, rule.empty, ""),
    )
    return [
        f"{count:,} of {counts.rows:,} rows {verb} "
        f"({_percent(count, counts.rows, share)}{': ' if by else ''}{by}); "
        f"success.{name} allows {_plain(share * 100)} %"
        for name, verb, count, share, by in parts
        if count > share * counts.rows
    ]


def _percent(count: int, rows: int, share: Decimal) -> str:
    """The share as a percentage, with as many digits as it takes to see that it is above the rule's."""
    percent = Decimal(count) * 100 / rows
    digits = _LEAST_DIGITS
    while percent.quantize(digits) <= share * 100 and digits > Decimal("1e-12"):
        digits /= 10
    return f"{_plain(percent.quantize(digits))} %"


def _plain(number: Decimal) -> str:
    return format(number.normalize(), "f")

"""How far the labels of one run are from those of an earlier one, and whether chance explains it.

The distance is the total variation, half the sum of the differences of the shares: 0.2 means that a fifth of
the rows would have to change their label. Small runs differ by chance; so a distance counts only where a
chi-squared test of homogeneity finds it beyond chance (Pearson 1900).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

P_CHANCE_MAX = 0.001
"""Shares that would differ so much less often than once in 1,000 pairs of like runs are beyond chance."""

LABELS_SHOWN_MAX = 3
_EXPECTED_MIN = 5.0


@dataclass(frozen=True, slots=True)
class Drift:
    """Two runs' label counts, their `distance` from 0 to 1, and the probability `p_chance` of so much by chance."""

    before: Mapping[str, int]
    now: Mapping[str, int]
    distance: float
    p_chance: float

    @property
    def is_beyond_chance(self) -> bool:
        """Whether the two runs' labels differ by more than chance would make them."""
        return self.p_chance < P_CHANCE_MAX


def label_drift(before: Mapping[str, int], now: Mapping[str, int]) -> Drift | None:
    """The drift from one run's label counts to another's; None where one of them has no rows."""
    rows_before, rows_now = sum(before.values()), sum(now.values())
    if not rows_before or not rows_now:
        return None
    labels = before.keys() | now.keys()
    # Fixed order: a sum of floats must not depend on how a set was filled.
    differences = [abs(before.get(x, 0) / rows_before - now.get(x, 0) / rows_now) for x in sorted(labels)]
    cells = [(before.get(label, 0), now.get(label, 0)) for label in sorted(labels)]
    return Drift(before, now, math.fsum(differences) / 2, homogeneity_p(cells))


def judge_drift(drift: Drift, allowed: Decimal, *, run: str) -> list[str]:
    """A sentence where the labels drifted by more than `allowed` and beyond chance, else none.

    Args:
        drift: From the last good run to this one.
        allowed: `success.label_drift`.
        run: The name and the day of the earlier run.
    """
    if drift.distance <= allowed or not drift.is_beyond_chance:
        return []
    return [
        f"labels drifted by {_above(drift.distance, allowed)} from run {run}: {_changes(drift)}; "
        f"success.label_drift allows {format(allowed.normalize(), 'f')} "
        f"({sum(drift.before.values()):,} rows then, {sum(drift.now.values()):,} now)"
    ]


def homogeneity_p(cells: list[tuple[int, int]]) -> float:
    """The probability that two samples of one distribution differ so much: chi-squared test of homogeneity.

    Categories of which fewer than 5 are expected in either sample are taken together (Cochran 1954); with
    one category left there is nothing to tell apart, and the answer is 1.

    Args:
        cells: For each category, how often it stands in the first sample and in the second; both not empty.
    """
    first, second = (sum(side) for side in zip(*cells, strict=True))
    smaller = min(first, second) / (first + second)
    common = [cell for cell in cells if sum(cell) * smaller >= _EXPECTED_MIN]
    rare = [cell for cell in cells if sum(cell) * smaller < _EXPECTED_MIN]
    rest = (sum(cell[0] for cell in rare), sum(cell[1] for cell in rare))
    if sum(rest):
        common.append(rest)
    if len(common) < 2:
        return 1.0
    statistic = 0.0
    for cell in common:
        for count, sample in zip(cell, (first, second), strict=True):
            expected = sum(cell) * sample / (first + second)
            statistic += (count - expected) ** 2 / expected
    return chi_squared_tail(statistic, len(common) - 1)


def chi_squared_tail(statistic: float, degrees: int) -> float:
    """The probability of a chi-squared value above `statistic`: Abramowitz and Stegun 1964, 26.4.4 and 26.4.5.

    The terms are added as exponents of their logarithms, so that neither large values nor many degrees overflow.
    """
    if statistic <= 0:
        return 1.0
    half = statistic / 2
    if degrees % 2:
        tail = math.erfc(math.sqrt(half))
        powers = [step + 0.5 for step in range(degrees // 2)]
    else:
        tail = 0.0
        powers = [float(step) for step in range(degrees // 2)]
    terms = [math.exp(power * math.log(half) - half - math.lgamma(power + 1)) for power in powers]
    return min(1.0, tail + math.fsum(terms))


def _changes(drift: Drift) -> str:
    """The labels whose shares changed most."""
    rows_before, rows_now = sum(drift.before.values()), sum(drift.now.values())
    shares = {
        label: (drift.before.get(label, 0) / rows_before, drift.now.get(label, 0) / rows_now)
        for label in drift.before.keys() | drift.now.keys()
    }
    largest = sorted(shares, key=lambda label: (-abs(shares[label][0] - shares[label][1]), label))
    changed = [label for label in largest if shares[label][0] != shares[label][1]]
    told = [
        f"{label} {_percent(shares[label][0])} -> {_percent(shares[label][1])}" for label in changed[:LABELS_SHOWN_MAX]
    ]
    more = [f"{len(changed) - LABELS_SHOWN_MAX} more"] if len(changed) > LABELS_SHOWN_MAX else []
    return ", ".join(told + more)


def _percent(share: float) -> str:
    """Rounded down, as the labels' shares are elsewhere: 99.6 % is not everything."""
    return f"{int(share * 100 + 1e-9)} %" if share == 0 or share >= 0.01 else f"{share * 100:.2g} %"


def _above(distance: float, allowed: Decimal) -> str:
    """The distance with as many digits as it takes to see that it is above what is allowed."""
    digits = 2
    while Decimal(f"{distance:.{digits}f}") <= allowed and digits < 12:
        digits += 1
    return f"{distance:.{digits}f}"

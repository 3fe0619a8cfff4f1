"""Everything that one run of the benchmarks measured, and the arithmetic on it: medians, ratios within a round."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import msgspec
from contenders import Measurement
from profiling import Profile

Figure = Callable[[Measurement], float]

Rounds = dict[str, list[Measurement]]
"""By contender; the n-th measurement of each belongs to the same round."""


class Results(msgspec.Struct):
    """One run of the benchmarks; kept as JSON, so that tables and plots can be made again.

    Attributes:
        facts: Sentences on the machine, the versions and what was asked for.
        alone: A job of one row: what starting costs.
        rounds: By workload.
        memory: By program, one measurement for each number of rows, in rising order.
        profile: Of a row, where it was asked for.
        skipped: Sentences on what this machine could not do.
    """

    facts: list[str]
    alone: Rounds = {}
    rounds: dict[str, Rounds] = {}
    memory: Rounds = {}
    profile: Profile | None = None
    skipped: list[str] = []


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds with their range."""

    middle: float
    low: float
    high: float

    def written(self, form: str) -> str:
        """`33% (31% to 36%)`; without a range where all rounds agree or there was one."""
        middle, low, high = (form.format(value) for value in (self.middle, self.low, self.high))
        return middle if low == high else f"{middle} ({low} to {high})"


def middle(measurements: Sequence[Measurement], figure: Figure) -> float:
    """The median of a figure."""
    return median(map(figure, measurements))


def ratio(
    ours: Sequence[Measurement], theirs: Sequence[Measurement], figure: Figure, other: Figure | None = None
) -> Spread:
    """Our figure over theirs (over their `other`, where that is given), round by round.

    Raises:
        ValueError: They were not measured in the same rounds.
    """
    other = figure if other is None else other
    ratios = [figure(one) / other(beside) for one, beside in zip(ours, theirs, strict=True)]
    return Spread(median(ratios), min(ratios), max(ratios))


def row_cpu_us(measurements: Sequence[Measurement], alone: Sequence[Measurement]) -> float | None:
    """CPU microseconds of a row beyond the price of starting; None where starting is most of it."""
    cpu_s, alone_s = middle(measurements, lambda one: one.cpu_s), middle(alone, lambda one: one.cpu_s)
    return None if cpu_s < 2 * alone_s else (cpu_s - alone_s) / measurements[0].rows * 1e6


def growth(measurements: Sequence[Measurement]) -> float:
    """How much more memory the largest number of rows took than the smallest, as a share."""
    return measurements[-1].memory_mb / measurements[0].memory_mb - 1.0


def best_first(rounds: Mapping[str, Sequence[Measurement]]) -> list[str]:
    """The contenders by their rate, the fastest first."""
    return sorted(rounds, key=lambda name: -middle(rounds[name], lambda one: one.rows_per_s))

"""Label drift: what counts is the distance, and only beyond chance."""

import math
import random
from collections import Counter
from decimal import Decimal

import pytest

from batcher.answers.drift import chi_squared_tail, homogeneity_p, judge_drift, label_drift

ALLOWED = Decimal("0.2")
RUN = "2026-11-20T02-00-00Z-7f3a (2026-11-20)"


def sentences(before: dict[str, int], now: dict[str, int], allowed: Decimal = ALLOWED) -> list[str]:
    drift = label_drift(before, now)
    assert drift is not None
    return judge_drift(drift, allowed, run=RUN)


def test_a_label_that_suddenly_takes_90_percent_is_named() -> None:
    """The night that this rule is for."""
    before = {"ชำระเงิน": 1_550, "kỹ thuật": 2_250, "其他": 1_200}
    now = {"ชำระเงิน": 4_320, "kỹ thuật": 288, "其他": 192}

    assert [
        f"labels drifted by 0.59 from run {RUN}: ชำระเงิน 31 % -> 90 %, kỹ thuật 45 % -> 6 %, 其他 24 % -> 4 %; "
        "success.label_drift allows 0.2 (5,000 rows then, 4,800 now)"
    ] == sentences(before, now)


def test_the_same_shares_hold_whatever_the_size() -> None:
    assert [] == sentences({"a": 10, "b": 30}, {"a": 1_000, "b": 3_000})


def test_a_distance_that_is_reached_exactly_holds() -> None:
    assert [] == sentences({"a": 5_000, "b": 5_000}, {"a": 7_000, "b": 3_000})
    assert "0.2001" in sentences({"a": 5_000, "b": 5_000}, {"a": 7_001, "b": 2_999})[0]


def test_small_runs_that_differ_by_chance_hold() -> None:
    """Of 12 rows a third may change their label any night."""
    drift = label_drift({"a": 8, "b": 4}, {"a": 4, "b": 8})

    assert drift is not None
    assert drift.distance == pytest.approx(1 / 3)
    assert not drift.is_beyond_chance
    assert [] == judge_drift(drift, ALLOWED, run=RUN)


@pytest.mark.parametrize(("rows", "is_drift"), [(4, False), (12, True), (1_000, True)])
def test_everything_changed_counts_once_there_are_rows_enough(rows: int, is_drift: bool) -> None:
    assert is_drift == bool(sentences({"a": rows, "b": 0}, {"a": 0, "b": rows}))


def test_many_labels_and_few_rows_give_no_false_alarm() -> None:
    """With 50 labels and 100 rows the distance of like runs is about 0.4; chance explains it, 998 times of 1,000."""
    chance = random.Random(7)
    alarms = 0
    for _ in range(1_000):
        before, now = (Counter(str(chance.randrange(50)) for _ in range(100)) for _ in range(2))
        drift = label_drift(before, now)
        assert drift is not None
        alarms += bool(judge_drift(drift, ALLOWED, run=RUN))

    assert alarms <= 5


@pytest.mark.parametrize(
    ("statistic", "degrees", "p"),
    [
        # Tables of the chi-squared distribution: NIST/SEMATECH e-Handbook, 1.3.6.7.4.
        (3.841, 1, 0.05),
        (10.828, 1, 0.001),
        (5.991, 2, 0.05),
        (13.816, 2, 0.001),
        (16.266, 3, 0.001),
        (18.307, 10, 0.05),
        (29.588, 10, 0.001),
        (124.342, 100, 0.05),
        (149.449, 100, 0.001),
        (148.230, 99, 0.001),
    ],
)
def test_the_tail_is_that_of_the_tables(statistic: float, degrees: int, p: float) -> None:
    assert chi_squared_tail(statistic, degrees) == pytest.approx(p, rel=2e-3)


@pytest.mark.parametrize("degrees", [1, 2, 7, 200, 10_001])
def test_the_tail_stays_a_probability(degrees: int) -> None:
    """Neither an enormous difference nor very many labels overflow."""
    tails = [chi_squared_tail(statistic, degrees) for statistic in (0.0, 1e-9, 1.0, 1e3, 1e6, 1e12)]

    assert all(0 <= tail <= 1 and math.isfinite(tail) for tail in tails)
    assert tails == sorted(tails, reverse=True)


def test_one_category_tells_nothing_apart() -> None:
    assert 1.0 == homogeneity_p([(10, 1_000)])
    assert 1.0 == homogeneity_p([(2, 1), (1, 2)])


def test_no_rows_are_no_distribution() -> None:
    assert None is label_drift({"a": 0}, {"a": 5})
    assert None is label_drift({"a": 5}, {})


def test_labels_beyond_the_first_three_are_counted() -> None:
    before = dict.fromkeys("abcdef", 1_000)
    now = dict(zip("abcdef", (5_000, 200, 200, 200, 200, 200), strict=True))

    assert ", 3 more; " in sentences(before, now)[0]

"""Rates, time left and the spacing of lines, on given times."""

from collections import Counter

import pytest

from batcher.observe.pace import Pace, Rate, Recent


def test_rate_speaks_of_the_window_and_of_the_whole() -> None:
    """Ten seconds of 100 rows/s after a minute of 10 rows/s."""
    rate = Rate(1000.0, 0)
    for second in range(1, 61):
        rate.add(1000.0 + second, second * 10)
    for second in range(1, 11):
        rate.add(1060.0 + second, 600 + second * 100)

    assert pytest.approx(100.0) == rate.per_s(10.0)
    assert pytest.approx(1600 / 70) == rate.overall()


def test_rows_of_earlier_processes_count_for_no_rate() -> None:
    """A resumed run that has 900,000 rows behind it is as fast as what it does now."""
    rate = Rate(0.0, 900_000)
    rate.add(10.0, 900_050)

    assert 5.0 == rate.per_s()
    assert 5.0 == rate.overall()


def test_nothing_is_said_before_it_means_something() -> None:
    """The first answers come in a burst; a time left made of them would be off by any factor."""
    rate = Rate(0.0, 0)
    rate.add(0.5, 500)
    assert rate.per_s() is None
    assert rate.left_s(1000) is None

    rate.add(4.9, 500)
    assert rate.left_s(1000) is None
    rate.add(5.0, 500)
    assert 10.0 == rate.left_s(1000)


def test_time_left_needs_ten_rows() -> None:
    """Nine rows of a slow model tell too little."""
    rate = Rate(0.0, 0)
    rate.add(90.0, 9)
    assert rate.left_s(100) is None
    rate.add(100.0, 10)
    assert 900.0 == rate.left_s(90)


def test_a_burst_does_not_swing_the_time_left() -> None:
    """A thousand answers in one second after two even minutes change the estimate by less than half."""
    rate = Rate(0.0, 0)
    for second in range(1, 121):
        rate.add(float(second), second * 20)
    before_s = rate.left_s(10_000)
    rate.add(121.0, 3400)
    after_s = rate.left_s(10_000)

    assert pytest.approx(500.0) == before_s
    assert after_s is not None
    assert 250.0 < after_s < 500.0


def test_a_standstill_has_no_time_left() -> None:
    """When nothing came in for two minutes, nobody knows."""
    rate = Rate(0.0, 0)
    rate.add(10.0, 1000)
    for second in range(11, 135):
        rate.add(float(second), 1000)

    assert rate.left_s(10) is None
    assert 0.0 == rate.left_s(0)


def test_samples_are_bounded() -> None:
    """A week at four looks a second keeps a few hundred samples."""
    rate = Rate(0.0, 0)
    for look in range(20_000):
        rate.add(look * 0.25, look)

    assert len(rate._samples) < 400
    assert pytest.approx(4.0) == rate.per_s()


def test_recent_forgets_after_a_minute() -> None:
    """What failed an hour ago is no news."""
    recent = Recent(0.0, Counter())
    assert Counter(server=5) == recent.add(1.0, Counter(server=5))
    for second in range(2, 60):
        last = recent.add(float(second), Counter(server=5, timeout=second // 30))
    assert Counter(server=5, timeout=1) == last
    assert Counter(timeout=1) == recent.add(64.0, Counter(server=5, timeout=1))
    assert Counter() == recent.add(95.0, Counter(server=5, timeout=1))


def test_pace_slows_down() -> None:
    """Soon, then rarely: 2, 10, 30, 60 seconds, then each minute."""
    pace = Pace(500.0)

    due = [second for second in range(301) if pace.is_due(500.0 + second)]

    assert [2, 10, 30, 60, 120, 180, 240, 300] == due


def test_pace_does_not_make_up_for_missed_lines() -> None:
    """After an hour of sleep one line is due, not sixty."""
    pace = Pace(0.0)
    assert pace.is_due(3700.0)
    assert not pace.is_due(3701.0)
    assert pace.is_due(3720.0)

"""The limiters are state machines over a given time: no test sleeps."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.simulator.limits import (
    FixedWindow,
    KeyLimits,
    Limits,
    SlidingWindow,
    TokenBucket,
    go_duration,
)

STEPS = st.lists(st.tuples(st.floats(0, 20), st.integers(1, 40)), min_size=1, max_size=200)


def granted(meter, steps):
    """(time, amount) of all that `meter` let in, asked at these steps."""
    now_s, taken = 0.0, []
    for pause_s, amount in steps:
        now_s += pause_s
        if meter.wait_s(amount, now_s) == 0.0:
            meter.take(amount, now_s)
            taken.append((now_s, amount))
    return taken


def most_in_window(taken, window_s=60.0):
    """The most that any half-open window of 60 s holds; it is enough to begin windows at grants."""
    return max((sum(a for t, a in taken if start <= t < start + window_s) for start, _ in taken), default=0)


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_a_sliding_window_never_grants_more_than_its_limit_in_any_minute(steps):
    assert most_in_window(granted(SlidingWindow(100), steps)) <= 100


@given(STEPS, st.sampled_from([1.0, 10.0, 60.0]))
@settings(max_examples=150, deadline=None)
def test_a_bucket_never_grants_more_than_its_rate_and_its_burst(steps, burst_s):
    """Over any span: the burst, and the rate times the span."""
    taken = granted(TokenBucket(100, burst_s=burst_s), steps)
    burst = max(1.0, 100 / 60 * burst_s)
    for index, (start, _) in enumerate(taken):
        used = 0
        for now_s, amount in taken[index:]:
            used += amount
            assert used <= burst + (now_s - start) * 100 / 60 + 1e-6


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_a_fixed_window_never_grants_more_than_its_limit_between_its_edges(steps):
    taken = granted(FixedWindow(100), steps)
    start = steps[0][0]
    windows = {}
    for now_s, amount in taken:
        windows[int((now_s - start) // 60)] = windows.get(int((now_s - start) // 60), 0) + amount
    assert max(windows.values(), default=0) <= 100


@given(STEPS, st.sampled_from([TokenBucket, SlidingWindow, FixedWindow]))
@settings(max_examples=200, deadline=None)
def test_whoever_waits_as_told_is_let_in(steps, kind):
    """A Retry-After that is too short would teach clients to distrust it."""
    meter, now_s = kind(60), 0.0
    for pause_s, amount in steps:
        now_s += pause_s
        wait_s = meter.wait_s(amount, now_s)
        if wait_s > 0:
            now_s += wait_s + 1e-9
            assert meter.wait_s(amount, now_s) <= 1e-6
            now_s += 1e-6
        meter.take(amount, now_s)


@pytest.mark.parametrize("kind", [TokenBucket, SlidingWindow, FixedWindow])
def test_an_amount_past_the_limit_is_never_let_in(kind):
    assert kind(10).wait_s(11, 0.0) == math.inf


def test_a_fixed_window_allows_twice_the_limit_around_its_edge():
    """That is what distinguishes it from a sliding one, and what clients have to survive."""
    meter = FixedWindow(10)
    meter.take(1, 0.0)
    for _ in range(9):
        meter.take(1, 59.9)
    assert 0.0 == meter.wait_s(10, 60.0)
    sliding = SlidingWindow(10)
    sliding.take(10, 59.9)
    assert pytest.approx(59.9) == sliding.wait_s(1, 60.0)


def test_a_refused_request_takes_from_neither_limit():
    limits = KeyLimits(Limits(requests_per_minute=10, tokens_per_minute=100))
    assert limits.admit(90, 0.0).refused_by is None
    assert "tokens" == limits.admit(20, 0.0).refused_by
    assert (10, 1) == limits.used("requests", 0.0)
    assert (100, 90) == limits.used("tokens", 0.0)


def test_a_request_larger_than_the_limit_is_refused_without_a_time_to_come_back():
    admission = KeyLimits(Limits(tokens_per_minute=100)).admit(101, 0.0)
    assert "size" == admission.refused_by
    assert 0.0 == admission.wait_s


def test_headers_say_what_is_left_in_openais_form():
    limits = KeyLimits(Limits(requests_per_minute=60, tokens_per_minute=6000))
    headers = dict(limits.admit(100, 0.0).headers)
    assert {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5900",
        "x-ratelimit-reset-tokens": "1s",
    } == headers


def test_no_limits_send_no_headers():
    assert () == KeyLimits(Limits()).admit(10**9, 0.0).headers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-1, "0s"),
        (0.017, "17ms"),
        (0.0001, "1ms"),
        (1, "1s"),
        (8.64, "8.64s"),
        (86.4, "1m26.4s"),
        (360, "6m0s"),
        (86_400, "24h0m0s"),
        (3_725.5, "1h2m5.5s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds, text):
    assert text == go_duration(seconds)


@pytest.mark.parametrize("window", ["bucket", "sliding", "fixed"])
def test_a_client_that_asks_steadily_at_twice_the_rate_is_refused_half_the_time(window):
    """600 a minute, asked 20 a second for ten minutes: what passes is the allowance and at most one burst."""
    limits, passed = KeyLimits(Limits(requests_per_minute=600, window=window, burst_s=1)), 0
    for index in range(12_000):
        passed += limits.admit(1, index / 20).refused_by is None
    assert 6000 <= passed <= 6010


def test_a_day_is_counted_beside_the_minute_and_is_shown_where_it_is_tighter():
    """OpenAI's headers speak of one limit on requests; 10,000 a day are fewer than 500 a minute."""
    limits = KeyLimits(Limits(requests_per_minute=500, requests_per_day=10_000))
    headers = dict(limits.admit(0, 0.0).headers)
    assert "10000" == headers["x-ratelimit-limit-requests"]
    assert "9999" == headers["x-ratelimit-remaining-requests"]
    assert "8.64s" == headers["x-ratelimit-reset-requests"]
    assert (10_000, 1) == limits.used("day", 0.0)
    assert (500, 1) == limits.used("requests", 0.0)


def test_a_minute_that_is_tighter_than_its_day_is_shown():
    headers = dict(KeyLimits(Limits(requests_per_minute=5, requests_per_day=100_000)).admit(0, 0.0).headers)
    assert "5" == headers["x-ratelimit-limit-requests"]


@pytest.mark.parametrize(("window", "back"), [("bucket", 1), ("sliding", 1), ("fixed", 3)])
def test_a_used_up_day_refuses_until_it_is_over(window, back):
    """A day of 30 s: a bucket gives one back after a third of it, a fixed one all of them at its end."""
    limits = KeyLimits(Limits(requests_per_day=3, day_s=30, window=window))
    assert [None] * 3 == [limits.admit(0, second).refused_by for second in (0.0, 1.0, 2.0)]
    refusal = limits.admit(0, 3.0)
    assert "day" == refusal.refused_by
    assert "0" == dict(refusal.headers)["x-ratelimit-remaining-requests"]
    later_s = 3.0 + refusal.wait_s + 1e-6
    assert 0 < refusal.wait_s <= 27
    assert back == sum(limits.admit(0, later_s).refused_by is None for _ in range(3))


def test_what_a_day_refuses_takes_nothing_from_the_minute():
    limits = KeyLimits(Limits(requests_per_minute=10, requests_per_day=1))
    assert limits.admit(0, 0.0).refused_by is None
    assert "day" == limits.admit(0, 0.0).refused_by
    assert (10, 1) == limits.used("requests", 0.0)

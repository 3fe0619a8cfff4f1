"""The token bucket: the arithmetic, the queue, the settling, the cancelling."""

import asyncio

import pytest

from batcher.limits.tokens import Reservation, TokenBucket, TokenMeter
from batcher.testing.clock import ManualClock

PER_MINUTE = 60_000  # 980 a second, a bucket of 588


def meter() -> TokenMeter:
    return TokenMeter(PER_MINUTE, 0.0)


def test_it_starts_with_little_and_refills_at_98_percent() -> None:
    """A bucket of a minute would let the first minute through at once."""
    tokens = meter()
    assert 588.0 == pytest.approx(tokens.burst)
    assert tokens.take(500, 0.0) is not None
    assert tokens.take(100, 0.0) is None
    assert 12 / 980 == pytest.approx(tokens.wait_s(100, 0.0))
    assert tokens.take(100, 12 / 980) is not None
    assert 588.0 / 980 == pytest.approx(tokens.wait_s(588, 12 / 980))


def test_a_request_larger_than_the_bucket_passes_alone_and_leaves_a_debt() -> None:
    """Waiting for a bucket that can never be full enough is waiting for ever."""
    tokens = meter()
    assert tokens.take(5_488, 0.0) is not None
    assert -4_900.0 == pytest.approx(tokens.level)
    assert tokens.take(1, 4.999) is None
    assert tokens.take(1, 5.01) is not None


def test_a_request_larger_than_the_minute_waits_for_an_empty_window_and_goes() -> None:
    """The estimate may be wrong, and if it is not, the provider says so: either ends the wait."""
    tokens = meter()
    assert tokens.take(10, 0.0) is not None
    assert 60.5 == pytest.approx(tokens.wait_s(1_000_000, 0.0))
    assert tokens.take(1_000_000, 60.4) is None
    assert tokens.take(1_000_000, 60.6) is not None


def test_no_minute_holds_more_than_the_allowance_even_of_large_requests() -> None:
    """The bucket alone lets a ninth request of 7,000 into a minute."""
    tokens, now, granted = meter(), 0.0, []
    while now < 300:
        now += tokens.wait_s(7_000, now) + 1e-6
        if tokens.take(7_000, now) is not None:
            granted.append(now)
    for start in granted:
        assert 8 >= sum(start <= at < start + 60 for at in granted)
    assert len(granted) >= 300 / 60.5 * 8 - 1


async def test_idle_costs_no_wait_and_leaves_nothing_behind() -> None:
    """No timer, no future, no task while nobody waits."""
    clock = ManualClock()
    bucket = TokenBucket(PER_MINUTE, clock)
    for _ in range(5):
        (await bucket.reserve(100)).settle(100)
    assert 0 == clock.sleepers
    assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_waiters_go_in_the_order_they_came_and_small_ones_do_not_pass() -> None:
    """A large request at the head is not starved by small ones behind it."""
    clock = ManualClock()
    bucket = TokenBucket(PER_MINUTE, clock)
    await bucket.reserve(588)
    order: list[int] = []

    async def ask(tokens: int) -> None:
        await bucket.reserve(tokens)
        order.append(tokens)

    tasks = [asyncio.ensure_future(ask(tokens)) for tokens in (500, 1, 2)]
    await clock.advance(0.3)
    assert [] == order
    assert bucket.try_reserve(1) is None
    await clock.advance(0.3)
    assert [500, 1, 2] == order
    assert all(task.done() for task in tasks)
    assert 0 == clock.sleepers


async def test_what_is_given_back_wakes_the_first_waiter_at_once() -> None:
    """An estimate that was too high must not cost the allowance."""
    clock = ManualClock()
    bucket = TokenBucket(PER_MINUTE, clock)
    first = await bucket.reserve(5_000)
    second = asyncio.ensure_future(bucket.reserve(500))
    await clock.advance(0.01)
    assert not second.done()
    first.settle(50)
    await clock.advance(0)
    assert second.done()


async def test_what_was_used_beyond_the_estimate_is_waited_off() -> None:
    """The debt is paid by those who come after."""
    clock = ManualClock()
    bucket = TokenBucket(PER_MINUTE, clock)
    (await bucket.reserve(100)).settle(1_568)
    second = asyncio.ensure_future(bucket.reserve(490))
    await clock.advance(1.49)
    assert not second.done()
    await clock.advance(0.02)
    assert second.done()


async def test_a_reservation_is_settled_once() -> None:
    """`cancel` in a `finally` after `settle` must change nothing."""
    bucket = TokenBucket(PER_MINUTE, ManualClock())
    reservation = await bucket.reserve(100)
    reservation.settle(40)
    level = bucket.meter.level
    reservation.settle(0)
    reservation.cancel()
    reservation.keep()
    assert level == bucket.meter.level
    assert 548.0 == pytest.approx(level)


async def test_an_unknown_usage_keeps_the_estimate() -> None:
    """A timeout may well have been counted by the provider."""
    bucket = TokenBucket(PER_MINUTE, ManualClock())
    reservation = await bucket.reserve(100)
    reservation.keep()
    reservation.cancel()
    assert 488.0 == pytest.approx(bucket.meter.level)


async def test_a_cancelled_head_lets_the_next_one_go_and_takes_nothing() -> None:
    """The one behind may need less, and must not wait for the timer of the one that left."""
    clock = ManualClock()
    bucket = TokenBucket(PER_MINUTE, clock)
    await bucket.reserve(388)
    head = asyncio.ensure_future(bucket.reserve(588))
    small = asyncio.ensure_future(bucket.reserve(150))
    await clock.advance(0)
    head.cancel()
    await clock.advance(0)
    assert small.done()
    assert 50.0 == pytest.approx(bucket.meter.level)
    assert 0 == clock.sleepers


async def test_a_grant_and_a_cancellation_in_the_same_turn_lose_no_token() -> None:
    """The future has its result, the task gets CancelledError all the same."""
    clock = ManualClock()
    bucket = TokenBucket(PER_MINUTE, clock)
    first = await bucket.reserve(588)
    waiter = asyncio.ensure_future(bucket.reserve(300))
    await clock.advance(0)
    first.cancel()  # grants the waiter
    waiter.cancel()  # before it has run
    await clock.advance(0)
    assert waiter.cancelled()
    assert 588.0 == pytest.approx(bucket.meter.level)
    assert isinstance(bucket.try_reserve(588), Reservation)


async def test_all_waiters_cancelled_leave_no_timer() -> None:
    """The one task of the bucket ends before the last waiter leaves."""
    clock = ManualClock()
    bucket = TokenBucket(PER_MINUTE, clock)
    await bucket.reserve(588)
    waiters = [asyncio.ensure_future(bucket.reserve(100)) for _ in range(10)]
    await clock.advance(0)
    assert 10 == bucket.waiting
    for waiter in waiters[::-1]:
        waiter.cancel()
    await clock.advance(0)
    assert (0, 0) == (bucket.waiting, clock.sleepers)
    assert {asyncio.current_task()} == asyncio.all_tasks()


@pytest.mark.parametrize("per_minute", [0, -1, float("nan")])
def test_an_allowance_of_nothing_is_refused(per_minute: float) -> None:
    """It would wait for ever."""
    with pytest.raises(ValueError, match="above 0"):
        TokenMeter(per_minute, 0.0)

"""Requests per minute: the burst, the order, the cancelling. The servers are in test_limits_simulated."""

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

import pytest
from aiolimiter import AsyncLimiter

from batcher.limits.rate import RequestRate
from batcher.testing.clock import SimulatedLoop


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(main)


def test_rate_and_burst_stay_within_every_allowance() -> None:
    """The fence post: 61 posts make 60 gaps."""
    for per_minute in (*range(1, 500), 600, 6_000, 60_000, 1_000_000):
        rate = RequestRate(per_minute)
        assert per_minute >= math.floor(rate.per_second * 60 + rate.burst + 1e-9)


@pytest.mark.parametrize(("per_minute", "burst"), [(60, 1.098), (600, 1.98), (60_000, 117.0)])
def test_the_first_instant_lets_the_stated_burst_through(per_minute: int, burst: float) -> None:
    """aiolimiter alone would let the whole minute through."""

    async def main() -> None:
        rate, passed = RequestRate(per_minute), 0

        async def ask() -> None:
            nonlocal passed
            await rate.acquire()
            passed += 1

        tasks = [asyncio.ensure_future(ask()) for _ in range(200)]
        await asyncio.sleep(0)
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert burst == pytest.approx(rate.burst)
        # The thousand turns of the loop are a simulated millisecond, in which one more may come.
        assert 1 <= passed <= burst + 1
        for task in tasks:
            task.cancel()

    run(main())


def test_waiters_go_in_the_order_they_came_and_newcomers_do_not_pass() -> None:
    """aiolimiter alone lets whoever comes at the right moment pass, and sends the loser to the end."""

    async def main() -> None:
        rate, order = RequestRate(6_000), []

        async def ask(number: int) -> None:
            await rate.acquire()
            order.append(number)

        async with asyncio.TaskGroup() as tasks:
            for number in range(300):
                tasks.create_task(ask(number))
                await asyncio.sleep(0.003)
        assert list(range(300)) == order

    run(main())


def test_a_cancelled_waiter_takes_no_permit_and_holds_up_nobody() -> None:
    """Cancelled first in line, in the middle and last."""

    async def main() -> None:
        rate = RequestRate(60)
        await rate.acquire()
        waiters = [asyncio.ensure_future(rate.acquire()) for _ in range(5)]
        await asyncio.sleep(0.1)
        for index in (0, 2, 4):
            waiters[index].cancel()
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*waiters, return_exceptions=True)
        assert 0 == rate.waiting
        assert asyncio.get_running_loop().time() - began <= 2.05

    run(main())


@pytest.mark.parametrize(("per_minute", "burst"), [(60, 1), (600, 1), (6_000, 10), (60_000, 95)])
def test_try_acquire_takes_what_can_be_had_now_and_no_more_than_the_burst(per_minute: int, burst: int) -> None:
    """A second copy of a slow call and a canary never wait: at 60 a minute, too, they have to find what is there."""

    async def main() -> None:
        rate = RequestRate(per_minute)
        assert burst == sum(rate.try_acquire() for _ in range(1_000))
        await asyncio.sleep(1.1)
        assert rate.try_acquire()

    run(main())


def test_try_acquire_notices_an_aiolimiter_that_waits_although_it_has_room(monkeypatch) -> None:
    """It takes without a loop's turn in between; a version that needs one must not pass unseen."""

    async def wait(self, amount) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(AsyncLimiter, "acquire", wait)

    async def take() -> None:
        with pytest.raises(RuntimeError, match="waits although"):
            RequestRate(600).try_acquire()

    run(take())


def test_try_acquire_never_passes_one_who_waits() -> None:
    async def main() -> None:
        rate = RequestRate(600)
        assert rate.try_acquire()
        waiter = asyncio.ensure_future(rate.acquire())
        await asyncio.sleep(0)
        assert not rate.try_acquire()
        await waiter
        assert not rate.try_acquire()

    run(main())


def test_try_acquire_and_acquire_share_one_allowance() -> None:
    """Ten seconds of both at once: not one more than the rate and the burst."""

    async def main() -> None:
        rate, passed = RequestRate(6_000), 0

        async def wait_for_one() -> None:
            nonlocal passed
            while True:
                await rate.acquire()
                passed += 1

        waiters = [asyncio.ensure_future(wait_for_one()) for _ in range(3)]
        began_s = asyncio.get_running_loop().time()
        for _ in range(10_000):
            passed += rate.try_acquire()
            await asyncio.sleep(0.001)
        for waiter in waiters:
            waiter.cancel()
        granted = (asyncio.get_running_loop().time() - began_s) * rate.per_second
        assert 0.97 * granted <= passed <= granted + rate.burst

    run(main())


@pytest.mark.parametrize("per_minute", [0, -5, float("nan")])
def test_an_allowance_of_nothing_is_refused(per_minute: float) -> None:
    """It would wait for ever."""
    with pytest.raises(ValueError, match="above 0"):
        RequestRate(per_minute)


def test_permits_taken_together_are_paced_like_others() -> None:
    """Whatever is given back: no minute has more than the allowance, and a queue is never passed."""

    async def main() -> None:
        rate, loop, passed = RequestRate(60_000), asyncio.get_running_loop(), list[float]()
        while loop.time() < 130:
            if rate.try_allot(30):
                rate.give_back(7)
                passed += [loop.time()] * 23
            while rate.try_acquire():
                passed.append(loop.time())
            await asyncio.sleep(0.013)
        starts = [passed.index(at) for at in sorted(set(passed))]
        worst = max(sum(passed[start] <= at < passed[start] + 60 for at in passed[start:]) for start in starts[:200:9])
        assert 0.95 * 60_000 <= worst <= 60_000
        waiting = asyncio.ensure_future(rate.acquire())
        await asyncio.sleep(0)
        assert waiting.done() or not rate.try_allot(1)
        await waiting

    run(main())


def test_half_of_what_may_pass_at_once_is_not_taken_together() -> None:
    """It is left to calls that come one by one, perhaps by another key."""

    async def main() -> None:
        rate = RequestRate(60_000)
        assert not rate.try_allot(int(rate.burst))
        assert rate.try_allot(40)
        assert not rate.try_allot(40)
        assert rate.try_acquire()

    run(main())

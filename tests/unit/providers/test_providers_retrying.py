"""Retries: what costs a try, how long is waited, and what is summed."""

import asyncio
import random
from decimal import Decimal

import pytest

from batcher.core.contracts import CallError
from batcher.core.progress import Progress
from batcher.core.records import Spend, Usage
from batcher.errors import RefusedError, StoppedError
from batcher.providers.retrying import RetryingCaller, RetryPolicy
from batcher.testing.clock import ManualClock
from batcher.testing.fakes import FakeCaller, failure, reply, request


class Chance(random.Random):
    """Always the same chance."""

    def __init__(self, value: float) -> None:
        super().__init__(0)
        self._value = value

    def random(self) -> float:
        return self._value


class Bench:
    def __init__(self, script, *, jitter=0.0, **policy) -> None:
        self.clock, self.progress, self.inner = ManualClock(), Progress(), FakeCaller(script)
        self.caller = RetryingCaller(
            self.inner, RetryPolicy(**policy), clock=self.clock, chance=Chance(jitter), progress=self.progress
        )

    def start(self) -> "asyncio.Task":
        return asyncio.ensure_future(self.caller.call(request()))

    async def finish(self):
        task = self.start()
        for _ in range(200):
            await self.clock.advance(60)
            if task.done():
                break
        return await task

    @property
    def calls(self) -> int:
        return len(self.inner.requests)


@pytest.mark.parametrize("kind", ["server", "connection", "timeout", "bad_response"])
@pytest.mark.parametrize("tries_max", [1, 2, 5])
async def test_it_tries_so_often_and_no_more(kind, tries_max: int) -> None:
    bench = Bench([failure(kind)], tries_max=tries_max)

    with pytest.raises(CallError) as caught:
        await bench.finish()

    assert tries_max == bench.calls == caught.value.spend.attempts
    assert {kind: tries_max} == bench.progress.attempt_failures


@pytest.mark.parametrize("kind", ["refused", "too_long", "bad_request", "auth", "quota", "truncated", "invalid_answer"])
async def test_what_cannot_succeed_is_not_tried_again(kind) -> None:
    bench = Bench([failure(kind)])

    with pytest.raises(CallError):
        await bench.finish()

    assert 1 == bench.calls


async def test_a_rate_limit_costs_no_try_and_no_wait_here() -> None:
    """The gate pauses the key; a second wait would leave the allowance unused."""
    bench = Bench([*[failure("rate_limited")] * 100, reply("a")], tries_max=1)

    task = bench.start()
    await bench.clock.advance(0)

    assert "a" == task.result().text
    assert 101 == task.result().spend.attempts


async def test_what_fails_during_an_outage_costs_no_try_but_a_wait() -> None:
    outage = failure("connection", reached=False)

    class Outage(FakeCaller):
        async def call(self, request):
            try:
                return await super().call(request)
            except CallError as error:
                error.costs_try = False
                raise

    bench = Bench([], tries_max=2)
    bench.caller._inner = bench.inner = Outage([*[outage] * 50, reply("a")])

    assert "a" == (await bench.finish()).text
    assert 51 == bench.calls


@pytest.mark.parametrize(("jitter", "waits_s"), [(0.0, [1, 2, 4, 8, 10, 10]), (0.999999, [0.5, 1, 2, 4, 5, 5])])
async def test_the_backoff_doubles_within_its_bounds(jitter: float, waits_s: list[float]) -> None:
    bench = Bench([failure("server")], tries_max=99, wait_min_s=1.0, wait_max_s=10.0, jitter=jitter)
    bench.start()
    await bench.clock.advance(0)

    for number, wait_s in enumerate(waits_s, start=1):
        await bench.clock.advance(wait_s - 0.01)
        assert number == bench.calls
        await bench.clock.advance(0.0101)
        assert number + 1 == bench.calls


@pytest.mark.parametrize(("asked_s", "waited_s"), [(7.0, 7.0), (0.2, 1.0), (3600.0, 60.0)])
async def test_a_server_error_that_names_a_wait_gets_it_within_the_longest(asked_s: float, waited_s: float) -> None:
    bench = Bench([failure("server", retry_after_s=asked_s), reply("a")])
    task = bench.start()

    await bench.clock.advance(waited_s - 0.01)
    assert not task.done()
    await bench.clock.advance(0.02)
    assert task.done()


async def test_another_shape_is_asked_at_once_and_costs_no_try() -> None:
    reshaped = CallError("no format", kind="bad_request", spend=Spend(1), is_reshaped=True)
    bench = Bench([reshaped, failure("server"), reshaped, reply("a")], tries_max=2)

    task = bench.start()
    await bench.clock.advance(0)
    assert 2 == bench.calls
    await bench.clock.advance(1)

    assert 4 == task.result().spend.attempts


async def test_the_spend_of_every_try_is_in_the_reply() -> None:
    paid = CallError("null content", kind="bad_response", spend=Spend(1, Usage(10, 0, 1), Decimal("0.1")))
    bench = Bench([paid, failure("rate_limited"), paid, reply("a", spend=Spend(1, Usage(10, 0, 2), Decimal("0.2")))])

    assert Spend(4, Usage(30, 0, 4), Decimal("0.4")) == (await bench.finish()).spend


async def test_the_spend_of_every_try_is_in_the_error() -> None:
    paid = CallError("null content", kind="bad_response", spend=Spend(1, Usage(10, 0, 1), None))
    bench = Bench([paid, failure("server"), failure("too_long")])

    with pytest.raises(CallError) as caught:
        await bench.finish()

    assert Spend(3, Usage(10, 0, 1), None) == caught.value.spend
    assert "too_long" == caught.value.kind


async def test_a_reply_at_once_is_given_as_it_is() -> None:
    given = reply("a")
    assert await Bench([given]).finish() is given


@pytest.mark.parametrize("error", [RefusedError("no key left"), StoppedError("down"), ZeroDivisionError()])
async def test_what_is_no_call_error_passes_through(error: Exception) -> None:
    bench = Bench([error])

    with pytest.raises(type(error)):
        await bench.finish()

    assert 1 == bench.calls


async def test_backoff_is_counted_while_it_lasts_and_a_cancelled_one_too() -> None:
    bench = Bench([failure("server")])
    task = bench.start()
    await bench.clock.advance(0)
    assert 1 == bench.progress.waits["backoff"].rows

    task.cancel()
    await bench.clock.advance(0)

    assert task.cancelled()
    assert 0 == bench.progress.waits["backoff"].rows
    assert 0 == bench.clock.sleepers

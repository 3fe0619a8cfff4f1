"""The gate: what it waits for, what it tells, and that nothing is lost wherever it is cancelled."""

import asyncio
import itertools
from decimal import Decimal

import pytest
from gate_bench import Provider

from batcher.core.contracts import CallError
from batcher.core.records import Spend, Usage
from batcher.errors import StoppedError
from batcher.testing.clock import settle
from batcher.testing.fakes import FakeCaller, failure, reply, request


async def test_a_permit_is_held_during_the_exchange_and_given_back() -> None:
    wire = asyncio.Event()
    gate = Provider().gate(FakeCaller([wire, reply("a"), reply("b")]), permits=1)

    first, second = gate.start(1), gate.start(2)
    await settle()
    assert (1, 1, {"concurrency": 1}) == (gate.permits.in_use, gate.inner.in_flight, gate.provider.waiting)
    wire.set()

    assert ["a", "b"] == [one.text for one in await gate.finish(first, second)]
    gate.assert_balanced()


async def test_the_place_of_an_answered_call_stays_taken_until_its_answer_is_kept() -> None:
    """Or a process that dies would lose more answers than may be in flight."""
    gate, is_kept = Provider().gate(permits=1), asyncio.Event()

    async def row() -> None:
        await gate.caller.call(request(1))
        await is_kept.wait()
        gate.provider.flight.leave()

    first, second = asyncio.ensure_future(row()), gate.start(2)
    await settle()
    assert (1, 0, [1]) == (gate.permits.in_use, gate.inner.in_flight, [one.row for one in gate.inner.requests])
    is_kept.set()
    await gate.finish(first, second)

    assert [1, 2] == [one.row for one in gate.inner.requests]
    gate.assert_balanced()


@pytest.mark.parametrize(
    "kind", ["rate_limited", "server", "connection", "timeout", "bad_response", "bad_request", "auth"]
)
async def test_every_failure_gives_back_what_it_held(kind) -> None:
    gate = Provider(threshold=99).gate(FakeCaller([failure(kind)]), permits=1, shared=1, tokens=60_000)

    (error,) = await gate.finish(gate.start())

    assert kind == error.kind
    gate.assert_balanced()


async def test_a_bug_below_gives_back_what_it_held() -> None:
    gate = Provider().gate(FakeCaller([ZeroDivisionError()]), permits=1, shared=1, tokens=60_000)

    (error,) = await gate.finish(gate.start())

    assert isinstance(error, ZeroDivisionError)
    gate.assert_balanced()


async def test_a_429_pauses_the_key_for_all_its_rows_at_once() -> None:
    """Also for those that wait for a permit already, and for no row of another key."""
    provider = Provider()
    gate = provider.gate(FakeCaller(rows={1: [failure("rate_limited", retry_after_s=30)]}), permits=1)
    other = provider.gate(permits=1)

    first, waiting = gate.start(1), gate.start(2)
    await settle()
    late, elsewhere = gate.start(3), other.start(4)
    await settle()

    assert "rate_limited" == first.exception().kind
    assert elsewhere.done()
    assert [1] == [one.row for one in gate.inner.requests]
    assert {"retry_after": 2} == provider.waiting
    await provider.clock.advance(29.9)
    assert not waiting.done()
    await provider.clock.advance(0.2)
    assert (await waiting).text == (await late).text == "yes"
    gate.assert_balanced()


async def test_a_longer_pause_that_comes_while_one_rests_is_rested_too() -> None:
    gate = Provider().gate()
    gate.pause.pause_until(gate.provider.now + 10)
    task = gate.start()
    await gate.provider.clock.advance(5)
    gate.pause.pause_until(gate.provider.now + 60)

    await gate.provider.clock.advance(59)
    assert not task.done()
    await gate.provider.clock.advance(2)
    assert task.done()


async def test_a_key_that_refuses_everything_is_asked_by_one_row_at_a_time() -> None:
    """A day that is used up, told in words only: fifty rows would be refused again each time that a pause ends."""
    provider = Provider()
    refusals = [failure("rate_limited", retry_after_s=20) for _ in range(50)]
    gate = provider.gate(FakeCaller([*refusals, refusals[0], refusals[0], reply("a")]), permits=50, learns=True)

    async def until_answered(row: int) -> str:
        while True:
            try:
                return (await gate.caller.call(request(row, b"x"))).text
            except CallError:
                continue
            finally:
                provider.flight.leave()

    rows = [asyncio.ensure_future(until_answered(row)) for row in range(50)]
    await settle()
    asked = [len(gate.inner.requests)]
    for _ in range(3):
        await provider.clock.advance(21)
        asked.append(len(gate.inner.requests))

    assert [50, 51, 52, 52 + 50] == asked
    assert 50 * ["a"] == [one.result() for one in rows]
    assert 50 == gate.permits.permits_max
    gate.assert_balanced()


async def test_a_key_that_serves_some_calls_while_it_refuses_others_is_not_asked_one_by_one() -> None:
    """That is a limit on concurrency: the permits, or `concurrency: auto`, are there for it."""
    wire = asyncio.Event()
    gate = Provider().gate(
        FakeCaller(rows={1: [wire, reply()], 2: [failure("rate_limited", retry_after_s=1)]}), permits=2, learns=True
    )
    served, refused = gate.start(1), gate.start(2)
    await settle()
    assert refused.done()
    wire.set()
    await gate.finish(served, refused)

    assert 2 == gate.permits.permits_max


async def test_a_long_rest_is_told_once_with_its_end_and_the_provider_s_words() -> None:
    """Somebody who looks at three in the morning has to see that nothing hangs."""
    provider = Provider()
    words = "HTTP 429: 请求次数已达每日上限 (RPD)"
    refusal = CallError(words, kind="rate_limited", retry_after_s=8 * 3600, spend=Spend(1))
    gate = provider.gate(FakeCaller(rows={1: [refusal]}))
    await gate.finish(gate.start(1))
    rows = [gate.start(row) for row in (2, 3, 4)]
    await settle()

    (sentence,) = provider.told
    assert sentence.startswith("provider p rests for 8 h, until 20")
    assert sentence.endswith(f" UTC, by its limits: {words}")
    for row in rows:
        row.cancel()
    await settle()


async def test_a_short_rest_is_not_told() -> None:
    """Each minute that is used up would be a line."""
    provider = Provider()
    gate = provider.gate(FakeCaller(rows={1: [failure("rate_limited", retry_after_s=30)]}))
    await gate.finish(gate.start(1), gate.start(2))

    assert [] == provider.told


async def test_a_key_that_rests_is_heavier_than_one_that_is_full() -> None:
    """Or rows would wait out an hour at one key while another answers."""
    provider = Provider()
    wire = asyncio.Event()
    full, resting = provider.gate(FakeCaller([wire, reply()]), permits=1), provider.gate(permits=1)
    tasks = [full.start(row) for row in range(20)]
    resting.pause.pause_until(provider.now + 3600)
    await settle()

    assert full.caller.load < resting.caller.load

    wire.set()
    await asyncio.gather(*tasks)
    assert 0 == full.caller.load


async def test_a_closed_flight_sends_nothing_and_waits_for_nothing() -> None:
    """The run stops: whoever comes, and whoever is woken, ends."""
    provider = Provider()
    gate = provider.gate(permits=1, tokens=60_000)
    gate.pause.pause_until(provider.now + 5)
    resting = gate.start(1)
    await settle()

    provider.flight.close()
    newcomer = gate.start(2)
    await settle()
    assert isinstance(newcomer.exception(), StoppedError)
    await provider.clock.advance(6)

    assert isinstance(resting.exception(), StoppedError)
    assert not gate.inner.requests
    gate.assert_balanced()


@pytest.mark.parametrize(("kind", "expected"), [("server", StoppedError), ("bad_request", CallError)])
async def test_what_fails_while_the_run_stops_is_not_waited_for(kind, expected) -> None:
    """A backoff of a minute would hold up the stop for a call that may not be sent. What is final is kept."""
    wire = asyncio.Event()
    provider = Provider()
    gate = provider.gate(FakeCaller([wire, failure(kind)]), permits=1)
    task = gate.start()
    await settle()

    provider.flight.close()
    wire.set()
    await settle()

    assert isinstance(task.exception(), expected)
    gate.assert_balanced()


async def test_the_job_s_limits_are_passed_before_the_key_s() -> None:
    """A row that waits for the job holds no place at a key."""
    wire = asyncio.Event()
    gate = Provider().gate(FakeCaller([wire, reply()]), permits=5, shared=1)
    tasks = [gate.start(row) for row in range(3)]
    await settle()

    assert (1, 2, 1, 0) == (gate.shared.in_use, gate.shared.waiting, gate.permits.in_use, gate.permits.waiting)

    wire.set()
    await gate.finish(*tasks)
    gate.assert_balanced()


async def test_usage_settles_the_estimate_and_what_was_refused_is_given_back() -> None:
    provider = Provider(threshold=99)
    paid = reply(spend=Spend(1, Usage(input=100, output=50), Decimal(0)))
    gate = provider.gate(
        FakeCaller([failure("rate_limited", retry_after_s=1), failure("bad_request"), paid]), tokens=60_000
    )

    await gate.finish(gate.start(1), gate.start(2))
    assert 0 == gate.tokens.meter._window_tokens
    await gate.finish(gate.start(3))
    assert 150 == gate.tokens.meter._window_tokens


@pytest.mark.parametrize("kind", ["server", "timeout", "bad_response"])
async def test_what_may_have_been_served_stays_booked(kind) -> None:
    gate = Provider(threshold=99).gate(FakeCaller([failure(kind)]), tokens=60_000)

    await gate.finish(gate.start())

    assert gate.tokens.meter._window_tokens > 0
    gate.assert_balanced()


async def test_a_call_cancelled_on_the_wire_stays_booked() -> None:
    gate = Provider().gate(FakeCaller([asyncio.Event(), reply()]), permits=1, tokens=60_000)
    task = gate.start()
    await settle()
    task.cancel()
    await settle()

    assert gate.tokens.meter._window_tokens > 0
    gate.assert_balanced()


async def test_an_outage_costs_no_try_and_is_told() -> None:
    provider = Provider(threshold=2)
    gate = provider.gate(FakeCaller([failure("server")]))

    errors = await gate.finish(*(gate.start(row) for row in range(3)))

    assert provider.breaker.is_open
    assert [True, False, False] == [error.costs_try for error in errors]
    assert 1 == len(provider.told)


async def test_a_crash_on_the_format_says_nothing_to_the_breaker() -> None:
    """It must not close a breaker that is half-open: it was a 500."""
    provider = Provider(threshold=2)
    reshaped = CallError("boom", kind="server", spend=Spend(1), is_reshaped=True)
    gate = provider.gate(FakeCaller([reshaped]))
    provider.open()
    await provider.clock.advance(61)

    await gate.finish(gate.start())

    assert provider.breaker.is_open
    gate.assert_balanced()


SITUATIONS = list(
    itertools.product(["shut", "open"], ["awake", "rests"], ["room", "full"], ["plenty", "dry"], ["wire", "gone"])
)


@pytest.mark.parametrize(("breaker", "pause", "permits", "tokens", "wire"), SITUATIONS)
async def test_wherever_it_is_cancelled_nothing_is_lost(breaker, pause, permits, tokens, wire) -> None:
    """Cancelled after each number of turns of the loop and of the clock, until it is done before: all is balanced,
    and the next row passes."""
    for moment in range(60):
        provider = Provider()
        release = asyncio.Event()
        gate = provider.gate(
            FakeCaller(rows={7: [reply() if wire == "wire" else failure("server")], 1: [release, reply()]}),
            permits=2, shared=1 if permits == "full" else 2, tokens=6_000, requests=600_000,
        )  # fmt: skip
        others = [gate.start(1)] if permits == "full" else []
        await settle()
        if tokens == "dry":
            while (reservation := gate.tokens.try_reserve(50)) is not None:
                reservation.keep()
        if breaker == "open":
            provider.open()
        if pause == "rests":
            gate.pause.pause_until(provider.now + 3)
        victim = gate.start(7)
        for turn in range(moment):
            await asyncio.sleep(0)
            if turn % 4 == 3:
                await _nudge(provider, 20.0)
                release.set()
        was_done = victim.done()
        victim.cancel()
        release.set()
        await gate.finish(victim, *others)
        (last,) = await gate.finish(gate.start(9))

        assert "yes" == last.text, moment
        gate.assert_balanced()
        assert (0 if provider.turnstile._timer is None else 1) >= provider.clock.sleepers
        if was_done:
            break
    else:
        pytest.fail("the row never came through")


async def _nudge(provider: Provider, seconds: float) -> None:
    """Move the clock without letting tasks come to rest: only those that are due, one turn."""
    provider.clock._monotonic_s += seconds
    for due_s, _, future in provider.clock._sleepers:
        if due_s <= provider.clock.monotonic() and not future.done():
            future.set_result(None)


async def test_a_row_cancelled_while_it_waits_for_its_key_holds_no_place_of_the_job() -> None:
    wire = asyncio.Event()
    gate = Provider().gate(FakeCaller([wire, reply()]), permits=1, shared=5)
    first, second = gate.start(1), gate.start(2)
    await settle()
    assert 2 == gate.shared.in_use
    second.cancel()
    await settle()
    assert 1 == gate.shared.in_use

    wire.set()
    await gate.finish(first)
    gate.assert_balanced()


async def test_a_canary_waits_for_its_part_of_the_minute() -> None:
    """Where none is left at that moment, a poisoned row would be an outage, and a forbidden one a refused key."""
    gate = Provider().gate(tokens=6_000)
    while (reservation := gate.tokens.try_reserve(50)) is not None:
        reservation.keep()

    canary = asyncio.ensure_future(gate.caller.canary())
    await settle()
    assert not gate.inner.requests
    await gate.provider.clock.advance(20)

    assert "yes" == (await canary).text
    assert [-1] == [one.row for one in gate.inner.requests]
    gate.assert_balanced()


async def test_a_canary_that_is_cancelled_while_it_waits_takes_nothing() -> None:
    gate = Provider().gate(tokens=6_000)
    while (reservation := gate.tokens.try_reserve(50)) is not None:
        reservation.keep()

    canary = asyncio.ensure_future(gate.caller.canary())
    await settle()
    canary.cancel()
    await settle()

    gate.assert_balanced()

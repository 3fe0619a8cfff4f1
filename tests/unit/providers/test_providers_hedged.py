"""The hedge: the slowest calls get a copy, copies are bounded, and nothing is booked twice or forgotten."""

import asyncio
from decimal import Decimal

import pytest

from batcher.core.contracts import CallError
from batcher.providers.hedged import Hedge
from batcher.testing.clock import SimulatedLoop
from batcher.testing.fakes import failure, reply

USUAL_S, SLOW_S = 0.1, 30.0


def send(text: str, after_s: float, *, error: CallError | None = None):
    async def one():
        await asyncio.sleep(after_s)
        if error is not None:
            raise error
        return reply(text)

    return one


def warm(*, max_extra: float = 0.5, is_free: bool = False) -> Hedge:
    """A hedge that has seen a hundred calls of 0.1 s."""
    hedge = Hedge(after=0.95, max_extra=max_extra, is_free=is_free)
    for _ in range(128):
        hedge.took(USUAL_S)
    return hedge


def run(work) -> object:
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(work)


def test_a_stuck_call_is_answered_by_its_copy() -> None:
    async def work():
        started_s = asyncio.get_running_loop().time()
        won = await warm().race(send("first", SLOW_S), lambda: send("copy", USUAL_S))
        return won, asyncio.get_running_loop().time() - started_s

    won, took_s = run(work())

    assert "copy" == won.text
    assert took_s == pytest.approx(0.2, abs=0.01)
    assert 2 == won.spend.attempts
    assert won.spend.cost_usd is None, "nobody knows what the copy that was given up has cost"


def test_where_tokens_are_free_the_cost_stays_known() -> None:
    won = run(warm(is_free=True).race(send("first", SLOW_S), lambda: send("copy", USUAL_S)))

    assert Decimal("0.001") == won.spend.cost_usd


def test_a_quick_call_has_no_copy() -> None:
    asked = []
    won = run(warm().race(send("first", 0.05), lambda: asked.append(1)))

    assert ("first", 1, []) == (won.text, won.spend.attempts, asked)


def test_without_room_for_a_copy_the_call_goes_on_alone() -> None:
    won = run(warm().race(send("first", SLOW_S), lambda: None))

    assert ("first", 1) == (won.text, won.spend.attempts)


def test_no_copy_before_there_is_something_to_compare_with() -> None:
    hedge = Hedge(after=0.95, max_extra=1.0, is_free=False)
    won = run(hedge.race(send("first", SLOW_S), lambda: send("copy", USUAL_S)))

    assert "first" == won.text


def test_copies_are_a_bounded_share_of_all_calls() -> None:
    """A provider that is slow for everyone must not be asked everything twice."""
    copies = []

    def second():
        copies.append(1)
        return send("copy", SLOW_S)

    async def work():
        hedge = warm(max_extra=0.02)
        for _ in range(500):
            await hedge.race(send("first", 1.0), second)

    run(work())

    assert 10 == len(copies)


def test_the_first_failure_waits_for_the_copy() -> None:
    broken = failure("server")
    won = run(warm().race(send("", 1.0, error=broken), lambda: send("copy", 5.0)))

    assert "copy" == won.text
    assert 2 == won.spend.attempts
    assert Decimal("0.001") == won.spend.cost_usd, "the failure was not billed, so all is known"


def test_where_both_fail_the_spend_of_both_is_told() -> None:
    with pytest.raises(CallError) as caught:
        run(warm().race(send("", 1.0, error=failure("server")), lambda: send("", 0.5, error=failure("timeout"))))

    assert 2 == caught.value.spend.attempts


def test_cancelling_the_race_ends_both() -> None:
    ended = []

    async def stuck():
        try:
            await asyncio.sleep(SLOW_S)
        finally:
            ended.append(1)

    async def work():
        task = asyncio.create_task(warm().race(stuck, lambda: stuck))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work())

    assert [1, 1] == ended

"""How a run ends before its end: what is waited for, what is dropped, what is never sent."""

import asyncio

import pytest
from engine_bench import Bench

from batcher.core.flight import Flight
from batcher.errors import StoppedError
from batcher.testing.clock import settle
from batcher.testing.fakes import FakeCaller, FakeSource, MemorySink, failure, reply


def flying(bench: Bench) -> Bench:
    """Calls board the run's flight, as they do behind a gate."""
    bench.caller._flight = bench.flight
    return bench


async def in_hand(bench: Bench, count: int) -> None:
    """Until so many calls were made (the first batch comes from a thread)."""
    while len(bench.caller.requests) < count:
        await asyncio.sleep(0)
    await settle()


async def test_answers_on_the_wire_are_waited_for_and_nothing_new_is_sent() -> None:
    wire = asyncio.Event()
    bench = flying(Bench(FakeSource(100), FakeCaller(rows={row: [wire, reply()] for row in range(4)})))
    running = asyncio.create_task(bench.engine.run())
    await in_hand(bench, 4)

    bench.engine.stop(StoppedError("by a signal"))
    await settle()
    assert not running.done()
    wire.set()
    with pytest.raises(StoppedError, match="by a signal"):
        await running

    assert [0, 1, 2, 3] == sorted(bench.outcomes)
    assert 4 == len(bench.caller.requests)
    assert 0 == len(bench.flight)


async def test_stop_without_an_error_ends_quietly() -> None:
    wire = asyncio.Event()
    bench = flying(Bench(FakeSource(100), FakeCaller(rows={row: [wire, reply()] for row in range(4)})))
    running = asyncio.create_task(bench.engine.run())
    await in_hand(bench, 4)
    bench.engine.stop()
    wire.set()

    await running

    assert 4 == len(bench.outcomes)


async def test_stop_before_the_run_sends_nothing() -> None:
    bench = Bench()
    bench.engine.stop(StoppedError("early"))

    with pytest.raises(StoppedError, match="early"):
        await bench.engine.run()

    assert not bench.caller.requests


async def test_rows_that_wait_before_the_wire_are_dropped_at_once() -> None:
    """Behind a pause of an hour, Ctrl-C must not take the whole grace."""
    gate = asyncio.Event()
    bench = Bench(FakeSource(100), FakeCaller(rows={row: [gate] for row in range(100)}), grace_s=3600)
    running = asyncio.create_task(bench.engine.run())
    await in_hand(bench, 4)

    bench.engine.stop(StoppedError("now"))
    with pytest.raises(StoppedError):
        await asyncio.wait_for(running, 5)

    assert not bench.outcomes


async def test_a_row_that_is_asked_again_has_nothing_to_lose() -> None:
    """Its answer was invalid, and the next question waits in a gate: the grace is not for it."""

    class GateAtTheSecond(FakeCaller):
        async def call(self, request):
            if request.ask_number > 1:
                await asyncio.Event().wait()
            return await super().call(request)

    bench = flying(Bench(FakeSource(1), GateAtTheSecond([reply("bad")]), grace_s=3600))
    running = asyncio.create_task(bench.engine.run())
    await in_hand(bench, 1)

    bench.engine.stop(StoppedError("now"))
    with pytest.raises(StoppedError):
        await asyncio.wait_for(running, 5)


async def test_the_wait_for_the_wire_is_bounded() -> None:
    bench = flying(Bench(FakeSource(9), FakeCaller([asyncio.Event(), reply()]), grace_s=0.01))
    bench.caller._rows = {row: [asyncio.Event()] for row in range(9)}
    running = asyncio.create_task(bench.engine.run())
    await in_hand(bench, 4)

    bench.engine.stop(StoppedError("now"))
    with pytest.raises(StoppedError):
        await asyncio.wait_for(running, 5)

    assert not bench.outcomes


async def test_hurry_does_not_wait_for_the_wire() -> None:
    bench = flying(Bench(FakeSource(9), grace_s=3600))
    bench.caller._rows = {row: [asyncio.Event()] for row in range(9)}
    running = asyncio.create_task(bench.engine.run())
    await in_hand(bench, 4)

    bench.engine.stop(StoppedError("now"))
    await settle()
    assert not running.done()
    bench.engine.hurry()
    with pytest.raises(StoppedError):
        await asyncio.wait_for(running, 5)


async def test_an_answer_in_hand_is_put_though_the_run_stops() -> None:
    """It is paid: the disk gets its time."""
    disk = asyncio.Event()
    bench = flying(Bench(FakeSource(100), sink=MemorySink(slow=disk), grace_s=3600))
    running = asyncio.create_task(bench.engine.run())
    await in_hand(bench, 4)

    bench.engine.stop(StoppedError("now"))
    await settle()
    disk.set()
    with pytest.raises(StoppedError):
        await asyncio.wait_for(running, 5)

    assert 4 == len(bench.outcomes)


async def test_the_first_error_is_the_runs_and_a_stop_is_no_news() -> None:
    """Workers that find the flight closed say "stopping"; nobody wants to read that."""
    bench = Bench(
        FakeSource(50), FakeCaller([failure("server"), StoppedError("down for 30 min"), StoppedError("later")])
    )

    with pytest.raises(StoppedError, match="down for 30 min"):
        await asyncio.wait_for(bench.engine.run(), 5)


async def test_cancelling_the_run_ends_every_task() -> None:
    bench = flying(Bench(FakeSource(9)))
    bench.caller._rows = {row: [asyncio.Event()] for row in range(9)}
    running = asyncio.create_task(bench.engine.run())
    await in_hand(bench, 4)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert {asyncio.current_task()} == asyncio.all_tasks()
    assert 0 == len(bench.flight)


def test_a_closed_flight_takes_nobody() -> None:
    flight = Flight()
    flight.close()

    with pytest.raises(StoppedError):
        flight.board()
    assert 0 == len(flight)


async def test_a_worker_that_finds_the_run_stopping_is_no_news() -> None:
    """A quiet stop stays quiet."""
    wire = asyncio.Event()
    bench = flying(Bench(FakeSource(9), FakeCaller(rows={row: [wire, StoppedError("x")] for row in range(9)})))
    running = asyncio.create_task(bench.engine.run())
    await in_hand(bench, 4)
    bench.engine.stop()
    wire.set()

    await asyncio.wait_for(running, 5)

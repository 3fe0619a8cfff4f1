"""ManualClock and SimulatedLoop: time that a test moves."""

import asyncio
import time

import pytest

from batcher.testing.clock import LoopClock, ManualClock, SimulatedLoop, settle


async def test_sleepers_wake_in_the_order_of_their_moments() -> None:
    """One long advance is the same as many short ones: nobody sees a later time than the own moment."""
    clock = ManualClock(monotonic_s=0)
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, wait_s: float) -> None:
        await clock.sleep(wait_s)
        woken.append((name, clock.monotonic()))

    async with asyncio.TaskGroup() as tasks:
        for name, wait_s in (("c", 3), ("a", 1), ("b", 2), ("a2", 1)):
            tasks.create_task(sleeper(name, wait_s))
        await clock.advance(10)

    assert [("a", 1.0), ("a2", 1.0), ("b", 2.0), ("c", 3.0)] == woken
    assert 10.0 == clock.monotonic()


async def test_a_sleeper_that_sleeps_again_wakes_within_the_same_advance() -> None:
    """Chains of waits are why tasks run between two wakings."""
    clock = ManualClock(monotonic_s=0)
    seen: list[float] = []

    async def ticker() -> None:
        for _ in range(3):
            await clock.sleep(1)
            seen.append(clock.monotonic())

    task = asyncio.ensure_future(ticker())
    await clock.advance(2.5)
    assert [1.0, 2.0] == seen
    await clock.advance(1)
    assert task.done()


async def test_advance_zero_lets_ready_tasks_settle_and_wakes_nobody_early() -> None:
    """It is the way to look at a state of rest."""
    clock = ManualClock()
    steps: list[int] = []

    async def worker() -> None:
        for step in range(50):
            await asyncio.sleep(0)
            steps.append(step)
        await clock.sleep(0.001)
        steps.append(-1)

    task = asyncio.ensure_future(worker())
    await clock.advance(0)
    assert list(range(50)) == steps
    assert 1 == clock.sleepers
    await clock.advance(0.001)
    assert task.done()


async def test_a_cancelled_sleeper_is_passed_over() -> None:
    """Cancellation is everywhere; a dead sleeper must not stop the clock."""
    clock = ManualClock()
    dead, alive = asyncio.ensure_future(clock.sleep(1)), asyncio.ensure_future(clock.sleep(2))
    await clock.advance(0)
    dead.cancel()
    await clock.advance(2)
    assert dead.cancelled()
    assert alive.done()
    assert 0 == clock.sleepers


async def test_the_wall_may_jump_and_monotonic_time_does_not() -> None:
    """NTP corrects the wall only."""
    clock = ManualClock(now_s=5_000, monotonic_s=7)
    clock.set_now(1_000)
    await clock.advance(2)
    assert (1_002.0, 9.0) == (clock.now(), clock.monotonic())
    with pytest.raises(ValueError, match="backwards"):
        await clock.advance(-1)


async def test_a_spinning_task_is_an_error_and_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that never ends says less than one that fails."""
    monkeypatch.setattr("batcher.testing.clock.TURNS_MAX", 100)

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    task = asyncio.ensure_future(spin())
    with pytest.raises(RuntimeError, match="spinning"):
        await settle()
    task.cancel()


def test_an_hour_of_simulated_sleep_takes_no_time() -> None:
    """And the loop's own timers agree with the clock."""
    began = time.perf_counter()

    async def main() -> float:
        async with asyncio.timeout(4_000):
            await LoopClock().sleep(3_600)
        return LoopClock().monotonic()

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        assert 3_600.0 == pytest.approx(runner.run(main()))
    assert time.perf_counter() - began < 2


def test_a_deadlock_in_simulated_time_is_an_error() -> None:
    """With nothing to wait for, real loops hang for ever."""

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="deadlock"), asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(main())

"""What goes on beside the engine ends with it, and its failures are told."""

import ast
import asyncio
import os
import signal
from pathlib import Path

import pytest

import batcher
from batcher.assemble.watch import run_loop, run_watched, stop_on_signals, stop_on_trouble
from batcher.core.progress import Progress
from batcher.errors import BatcherError, StorageError


async def quiet(over: asyncio.Event) -> None:
    await over.wait()


async def test_watches_end_when_the_work_does() -> None:
    ended = []

    async def watch(over: asyncio.Event) -> None:
        await over.wait()
        ended.append(True)

    async def work() -> None:
        await asyncio.sleep(0)

    await run_watched(work(), [watch, watch])

    assert [True, True] == ended


async def test_the_works_error_is_raised_as_itself_after_the_watches_ended() -> None:
    async def work() -> None:
        raise StorageError("full")

    with pytest.raises(StorageError, match="full") as caught:
        await run_watched(work(), [quiet])
    assert type(caught.value) is StorageError


async def test_a_watch_that_fails_ends_the_work() -> None:
    cancelled = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    async def broken(over: asyncio.Event) -> None:
        raise BatcherError("the display broke")

    with pytest.raises(BatcherError, match="display"):
        await run_watched(work(), [quiet, broken])
    assert cancelled


async def test_a_bug_is_no_batcher_error() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        await run_watched(work(), [quiet])
    assert caught.value.subgroup(ZeroDivisionError)


async def test_a_nested_group_of_errors_is_one_error() -> None:
    """The engine's own task group may wrap what a put raised."""

    async def work() -> None:
        raise ExceptionGroup("x", [ExceptionGroup("y", [StorageError("full")])])

    with pytest.raises(StorageError, match="full"):
        await run_watched(work(), [quiet])


class Engine:
    def __init__(self) -> None:
        self.stops: list = []
        self.hurries = 0

    def stop(self, error=None) -> None:
        self.stops.append(error)

    def hurry(self) -> None:
        self.hurries += 1


class Troubled:
    def __init__(self, trouble=None) -> None:
        self.troubled = asyncio.Event()
        self.trouble = trouble


async def test_a_troubled_journal_stops_the_engine_before_the_disk_is_full() -> None:
    engine, journal = Engine(), Troubled(StorageError("nearly full"))
    watching = asyncio.create_task(stop_on_trouble(engine, journal, asyncio.Event()))
    await asyncio.sleep(0)
    assert not engine.stops
    journal.troubled.set()
    await watching

    assert [journal.trouble] == engine.stops


async def test_a_fault_of_the_journal_surfaces() -> None:
    journal = Troubled(ZeroDivisionError())
    journal.troubled.set()

    with pytest.raises(ZeroDivisionError):
        await stop_on_trouble(Engine(), journal, asyncio.Event())


async def test_without_trouble_nothing_is_stopped() -> None:
    engine, over = Engine(), asyncio.Event()
    over.set()

    await stop_on_trouble(engine, Troubled(), over)

    assert not engine.stops
    assert {asyncio.current_task()} == {task for task in asyncio.all_tasks() if not task.cancelling()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_stops_and_the_second_hurries(number: signal.Signals) -> None:
    engine, progress = Engine(), Progress()
    stop_on_signals(engine, progress)
    try:
        os.kill(os.getpid(), number)
        while not engine.stops:
            await asyncio.sleep(0)
        assert 0 == engine.hurries
        assert number.name in progress.note
        os.kill(os.getpid(), number)
        while not engine.hurries:
            await asyncio.sleep(0)
    finally:
        for one in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(one)

    assert 1 == len(engine.stops)
    assert 4 == engine.stops[0].exit_code


def test_the_loop_gives_the_works_value_and_its_error() -> None:
    async def good() -> int:
        return 5

    async def bad() -> None:
        raise StorageError("full")

    assert 5 == run_loop(good())
    with pytest.raises(StorageError):
        run_loop(bad())


def test_no_block_of_the_program_begins_with_a_starred_except() -> None:
    """Up to Python 3.11.3 an error raised in one comes out in a group: the end of a run looked like a fault."""
    modules = Path(batcher.__file__).parent.rglob("*.py")

    assert [] == [path for path in modules if any(isinstance(node, ast.TryStar) for node in ast.walk(_tree(path)))]


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))

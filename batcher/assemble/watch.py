"""What goes on beside the engine: the display, `run.json`, signals, and an eye on the disk."""

import asyncio
import contextlib
import ctypes
import gc
import importlib
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import pyarrow as pa

from batcher.core.progress import Progress
from batcher.engine.engine import Engine
from batcher.errors import BatcherError, StoppedError
from batcher.journal.journal import Journal
from batcher.storage.descriptors import raise_open_files_limit

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_MMAP_BYTES = 256 * 1024

T = TypeVar("T")

ENDS_LOADED_AFTER_S = 1.0

Watch = Callable[[asyncio.Event], Awaitable[None]]
"""Runs beside the work until the event says that it is over."""


async def run_watched(work: Coroutine[Any, Any, None], watches: Sequence[Watch]) -> None:
    """Do the work with the watches beside it; a watch that fails ends the work.

    Raises:
        BatcherError: What the work, or else a watch, raised.
    """
    # A full collection walks everything that was imported: 110 ms in which answers wait to be journalled,
    # and would be asked again after a kill. Frozen, it takes 2 ms.
    gc.freeze()
    over = asyncio.Event()

    async def watched() -> None:
        try:
            await work
        finally:
            over.set()

    async def watch_over(watch: Watch) -> None:
        await watch(over)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(watched())
            for watch in (*watches, load_what_ends_need):
                group.create_task(watch_over(watch))
    except BaseExceptionGroup as errors:
        # Not `except*`: up to Python 3.11.3 what is raised in its block comes out inside of another group.
        ours, others = errors.split(BatcherError)
        if ours is None or others is not None:
            raise
        raise _first(ours) from None


async def load_what_ends_need(over: asyncio.Event) -> None:
    """Load what only the end of a run needs once its rows are on their way.

    Not at the end: a night later the program may have been replaced by a newer one, or the process out of files.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ENDS_LOADED_AFTER_S):
            await over.wait()
    await asyncio.to_thread(importlib.import_module, "batcher.assemble.verdict")


async def stop_on_trouble(engine: Engine, journal: Journal, over: asyncio.Event) -> None:
    """Stop taking rows before the disk is full, while there is room for what is in flight."""
    waits = [asyncio.ensure_future(event.wait()) for event in (journal.troubled, over)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    trouble = journal.trouble
    if isinstance(trouble, BatcherError):
        engine.stop(trouble)
    elif trouble is not None:
        raise trouble


def stop_on_signals(engine: Engine, progress: Progress) -> None:
    """SIGINT, SIGTERM and SIGHUP stop the run, resumable; only the first one waits for the answers on the wire."""
    seen: list[str] = []

    def stop(name: str) -> None:
        seen.append(name)
        if len(seen) > 1:
            engine.hurry()
            return
        progress.note = f"stopping: {name}, waiting for the answers on the wire (again: stop at once)"
        engine.stop(StoppedError(f"stopped by {name}"))

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number.name)


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine, on uvloop where there is one, with as many connections as the system allows."""
    raise_open_files_limit()
    _give_memory_back()
    try:
        import uvloop  # noqa: PLC0415  # not there on Windows
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def _give_memory_back() -> None:
    """Let Arrow hand back what it no longer uses, where it can.

    Its default pool keeps what sealing and results once took: 60 MB more at the peak of 200,000 rows.
    """
    with contextlib.suppress(NotImplementedError):
        pa.set_memory_pool(pa.jemalloc_memory_pool())
        pa.jemalloc_set_decay_ms(0)
    # glibc raises this bound with each large block that is freed. From then on the 4 MiB of a log that is sealed come
    # from the heap, which never shrinks again: 3 MB more with each of the first segments.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)


def _first(errors: BaseExceptionGroup[BatcherError]) -> BatcherError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, BatcherError)  # the split chose it
    return error

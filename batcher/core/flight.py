"""Which rows have a call on the wire or an answer in hand.

When a run stops, these are the rows worth waiting for: their answers are, or will be, paid. All other
rows can be dropped at once and asked next time. The gate boards a task when it sends, and lets it off
when the call failed; the engine lets it off when the outcome is in the journal. The place of an answered call
stays taken until then: however the process dies, no more answers are lost than calls may be in flight.
"""

import asyncio
from collections.abc import Callable

from batcher.errors import StoppedError


class Flight:
    """The tasks that must not be cancelled lightly. One per run, used on the event loop only."""

    __slots__ = ("_loop", "_tasks", "is_closed")

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[object] | None, Callable[[], None] | None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, task: asyncio.Task[object]) -> bool:
        return task in self._tasks

    def close(self) -> None:
        """Nothing boards from now on: the run is stopping."""
        self.is_closed = True

    def board(self) -> "asyncio.Task[object] | None":
        """The current task is about to send; it is returned, for `hold`.

        Raises:
            StoppedError: The run is stopping; nothing more is sent.
        """
        if self.is_closed:
            raise StoppedError("the run is stopping")
        if self._loop is None:  # looked up once: to ask for the running loop is a system call each time
            self._loop = asyncio.get_running_loop()
        task = asyncio.current_task(self._loop)
        self._tasks[task] = None
        return task

    def hold(self, task: "asyncio.Task[object] | None", release: Callable[[], None]) -> None:
        """The task's call was answered; `release` gives its place back when the task leaves."""
        self._tasks[task] = release

    def leave(self, task: "asyncio.Task[object] | None" = None) -> None:
        """The current task, which may be given, has nothing to lose any more."""
        release = self._tasks.pop(task or asyncio.current_task(self._loop), None)
        if release is not None:
            release()

"""Which rows have a call on the wire or an answer in hand.

When a run stops, these are the rows worth waiting for: their answers are, or will be, paid. All other
rows can be dropped at once and asked next time. The gate boards a task when it sends, and lets it off
when the call failed; the engine lets it off when the outcome is in the journal.
"""

import asyncio

from batcher.errors import StoppedError


class Flight:
    """The tasks that must not be cancelled lightly. One per run, used on the event loop only."""

    __slots__ = ("_tasks", "is_closed")

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, task: asyncio.Task[object]) -> bool:
        return task in self._tasks

    def close(self) -> None:
        """Nothing boards from now on: the run is stopping."""
        self.is_closed = True

    def board(self) -> None:
        """The current task is about to send.

        Raises:
            StoppedError: The run is stopping; nothing more is sent.
        """
        if self.is_closed:
            raise StoppedError("the run is stopping")
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)

    def leave(self) -> None:
        """The current task has nothing to lose any more."""
        self._tasks.discard(asyncio.current_task())

"""Time as an argument, so that tests can move it."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for records, monotonic time for waiting."""

    def now(self) -> float:
        """Seconds since the epoch, UTC. May jump; never used to measure or to wait."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow."""
        ...

    async def sleep(self, wait_s: float) -> None:
        """Wait that long on the monotonic clock."""
        ...


class SystemClock:
    """The machine's own clock."""

    # Read a dozen times a row: the bare functions take a third of what methods around them would.
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, wait_s: float) -> None:
        """`asyncio.sleep`, never negative."""
        await asyncio.sleep(max(0.0, wait_s))

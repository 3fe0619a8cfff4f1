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

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return time.monotonic()

    async def sleep(self, wait_s: float) -> None:
        """`asyncio.sleep`, never negative."""
        await asyncio.sleep(max(0.0, wait_s))

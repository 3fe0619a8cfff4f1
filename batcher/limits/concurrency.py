"""How many calls may be in flight at once.

asyncio.Semaphore cannot change its size, and costs 3 µs where this costs a comparison: with a permit
free and nobody waiting, `try_acquire` is all there is.

`Places` are the permits of several keys together, for whoever decides how many rows to take in hand; those of
one key stand for themselves.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence


class Permits:
    """A number of permits, handed out first in first out; the number may change while they are out.

    Args:
        permits_max: How many may be out at once; at least 1.
    """

    def __init__(self, permits_max: int) -> None:
        self._in_use = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._waiting = 0
        self._permits_max = 0
        self._told: Callable[[], None] | None = None
        self.resize(permits_max)

    @property
    def permits_max(self) -> int:
        """How many may be out at once."""
        return self._permits_max

    @property
    def in_use(self) -> int:
        """How many are out; above `permits_max` for a while after it shrank."""
        return self._in_use

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return self._waiting

    def free(self) -> int:
        """How many could be had now; 0 while somebody waits."""
        free = self._permits_max - self._in_use
        return 0 if self._waiters or free < 0 else free

    def when_free(self, told: Callable[[], None]) -> None:
        """Call `told` each time that a permit is given back, or added, and nobody waits for it."""
        self._told = told

    def try_acquire(self) -> bool:
        """Take a permit if one is free and nobody waits; never waits itself."""
        if self._in_use < self._permits_max and not self._waiters:
            self._in_use += 1
            return True
        return False

    async def acquire(self) -> None:
        """Wait for a permit. A caller cancelled while it waits holds none."""
        if self._in_use < self._permits_max and not self._waiters:
            self._in_use += 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._waiting += 1
        try:
            await waiter
        except asyncio.CancelledError:
            # The permit may have been handed over in the same turn of the loop as the cancellation.
            if waiter.done() and not waiter.cancelled():
                self.release()
            else:
                self._drop_cancelled()
            raise
        finally:
            self._waiting -= 1

    def release(self) -> None:
        """Give one permit back; the first who waits gets it."""
        if self._in_use == 0:
            raise RuntimeError("a permit was released that nobody holds")
        self._in_use -= 1
        if self._waiters:
            self._hand_out()
        if self._told is not None and self._in_use < self._permits_max and not self._waiters:
            self._told()

    def resize(self, permits_max: int) -> None:
        """Change how many may be out. More: those who wait go at once. Fewer: the next releases are kept."""
        if permits_max < 1:
            raise ValueError(f"at least one permit is needed, not {permits_max}")
        self._permits_max = permits_max
        self._hand_out()
        if self._told is not None and self._in_use < self._permits_max and not self._waiters:
            self._told()

    def _hand_out(self) -> None:
        waiters = self._waiters
        while waiters and self._in_use < self._permits_max:
            waiter = waiters.popleft()
            if not waiter.done():
                # Counted on the waiter's behalf, before it runs: nobody can slip in between.
                self._in_use += 1
                waiter.set_result(None)

    def _drop_cancelled(self) -> None:
        while self._waiters and self._waiters[0].done():
            self._waiters.popleft()


class Places:
    """How many calls could begin now, over all keys.

    Args:
        shared: The job's own permits, which each call needs beside its key's, or None.
        keys: The permits of each key.
    """

    def __init__(self, shared: Permits | None, keys: Sequence[Permits]) -> None:
        self._shared = shared
        self._keys = tuple(keys)

    def free(self) -> int:
        """Calls that would not have to wait for a permit; a key that rests counts as one that does not."""
        shared, keys = self._shared, self._keys
        of_keys = sum([permits.free() for permits in keys])
        return of_keys if shared is None else min(shared.free(), of_keys)

    def when_free(self, told: Callable[[], None]) -> None:
        """Call `told` when a place may have become free that nobody waits for; often, so it has to cost little."""
        for permits in self._keys if self._shared is None else (self._shared, *self._keys):
            permits.when_free(told)

"""Requests per minute, by aiolimiter.

aiolimiter's bucket starts empty and lets `max_rate` requests through at once, so a bucket of one
minute bursts the whole minute in its first instant and 59 seconds later does so again. This one holds
a tenth of a second's worth and runs at 98 % of the allowance: a server that counts by a sliding
minute, a fixed one or a bucket of its own finds nothing to refuse, whatever instant it starts from.

Two habits of aiolimiter 1.3 are kept away from the callers. Whoever comes while there is room passes
those who wait, and a waiter that loses the race starts again at the end: so waiters queue here, first
in first out, and one at a time asks aiolimiter. And it sets one timer a request, which at 1,000 a
second is most of a core under uvloop (a loop of millisecond timers): so permits are fetched in
packs of 20 ms.
"""

import asyncio

from aiolimiter import AsyncLimiter

SHARE = 0.98
"""Part of the allowance that is used; the rest is for the jitter of the network."""

BURST_S = 0.1
"""How long the loop may be busy elsewhere before a permit is lost."""

PACK_S = 0.02
"""Permits of this long are fetched at once."""


class RequestRate:
    """At most `per_minute` requests in any minute, paced, first in first out.

    In any span of t seconds at most `per_second * t + burst` requests pass: `per_second` is 98 % of the
    allowance, `burst` 1 plus about 0.12 s worth (1.1 at 60 a minute, 2 at 600, 117 at 60,000). For every
    allowance the two together stay within it over a minute.

    Time is the running loop's, as aiolimiter's is.

    Args:
        per_minute: What the provider allows; above 0.
        share: Part of it that is used.
    """

    def __init__(self, per_minute: float, *, share: float = SHARE) -> None:
        if not (per_minute > 0 and 0 < share <= 1):
            raise ValueError(f"requests per minute and share must be above 0: {per_minute}, {share}")
        self.per_minute = per_minute
        self.per_second = per_minute * share / 60.0
        self._pack = max(1, int(self.per_second * PACK_S))
        capacity = 1.0 + self.per_second * BURST_S
        self.burst = capacity + self._pack - 1
        self._limiter = AsyncLimiter(capacity, capacity / self.per_second)
        self._turn = asyncio.Lock()
        self._permits = 0
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return self._waiting

    def try_acquire(self) -> bool:
        """Take a permit if it can be had now and nobody waits; never waits itself."""
        if self._waiting:
            return False
        if self._permits == 0:
            if not self._limiter.has_capacity(self._pack):
                return False
            self._take(self._pack)
            self._permits = self._pack
        self._permits -= 1
        return True

    def try_allot(self, calls: int) -> bool:
        """Take so many permits at once, where half of what may pass at once is left for others and nobody waits."""
        if self._waiting:
            return False
        missing = calls - self._permits
        if missing > 0:
            if not self._limiter.has_capacity(missing + self._limiter.max_rate / 2.0):
                return False
            self._take(missing)
            self._permits += missing
        self._permits -= calls
        return True

    def _take(self, permits: int) -> None:
        """Take by a coroutine, since aiolimiter has no other way; with room there is nothing that it would wait for."""
        taking = self._limiter.acquire(permits)
        try:
            taking.send(None)
        except StopIteration:
            return
        taking.close()
        raise RuntimeError("aiolimiter waits although it says that it has room")

    def give_back(self, calls: int = 1) -> None:
        """Permits just taken were not used after all."""
        self._permits += calls

    async def acquire(self) -> None:
        """Wait for the next permit. A caller cancelled while it waits takes none."""
        if self.try_acquire():
            return
        self._waiting += 1
        try:
            async with self._turn:
                if self._permits == 0:
                    await self._limiter.acquire(self._pack)
                    self._permits = self._pack
                self._permits -= 1
        finally:
            self._waiting -= 1

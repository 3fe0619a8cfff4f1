"""A gate between fakes, with every limit a test may want."""

import asyncio
import random

from batcher.core.flight import Flight
from batcher.core.progress import Progress
from batcher.limits.breaker import Breaker
from batcher.limits.concurrency import Permits
from batcher.limits.estimate import TokenEstimator
from batcher.limits.pause import Pause
from batcher.limits.rate import RequestRate
from batcher.limits.tokens import TokenBucket
from batcher.providers.gated import GatedCaller
from batcher.providers.lessons import KeyLessons
from batcher.providers.room import LimitSet, Room
from batcher.providers.turnstile import Turnstile
from batcher.providers.wall import Wall
from batcher.testing.clock import ManualClock, settle
from batcher.testing.fakes import FakeCaller, request

MAX_OUTAGE_S = 1800.0


class Provider:
    """What the keys of one provider share; `gate` makes a key."""

    def __init__(self, *, threshold: int = 2, recovery_s: float = 60.0) -> None:
        self.clock, self.progress, self.flight = ManualClock(), Progress(), Flight()
        self.breaker = Breaker(failure_threshold=threshold, recovery_s=recovery_s)
        self.told: list[str] = []
        self.turnstile = Turnstile(
            self.breaker, name="provider p", max_outage_s=MAX_OUTAGE_S, clock=self.clock, progress=self.progress,
            tell=self.told.append,
        )  # fmt: skip
        self.estimator = TokenEstimator()

    def gate(
        self,
        inner=None,
        *,
        permits=None,
        shared=None,
        tokens=None,
        requests=None,
        wall: Wall | None = None,
        hedge=None,
        learns: bool = False,
    ) -> "Gate":
        return Gate(self, inner or FakeCaller(), permits, shared, tokens, requests, wall, hedge, learns)

    def open(self) -> None:
        """Two rows fail: the breaker is open from now on."""
        for row in range(2):
            self.breaker.record_failure(self.breaker.enter(self.now), 10_000 + row, reached=True, now=self.now)
        assert self.breaker.is_open

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    @property
    def waiting(self) -> dict[str, int]:
        return {reason: wait.rows for reason, wait in self.progress.waits.items() if wait.rows}


class Gate:
    """One key."""

    def __init__(self, provider: Provider, inner, permits, shared, tokens, requests, wall, hedge, learns) -> None:
        self.provider, self.inner = provider, inner
        self.pause = Pause(random.Random(1))
        self.permits = None if permits is None else Permits(permits)
        self.shared = None if shared is None else Permits(shared)
        self.tokens = None if tokens is None else TokenBucket(tokens, provider.clock)
        room = Room(
            (
                LimitSet(self.shared),
                LimitSet(self.permits, None if requests is None else RequestRate(requests), self.tokens),
            ),
            estimator=provider.estimator,
            output_max=20,
            wall=wall,
            clock=provider.clock,
            progress=provider.progress,
        )
        self.lessons = None
        if learns:
            self.lessons = KeyLessons(
                room, self.pause, concurrency=None, permits=self.permits, learns_requests=False, learns_tokens=False,
                clock=provider.clock,
            )  # fmt: skip
        self.caller = GatedCaller(
            inner,
            name="provider p",
            room=room,
            pause=self.pause,
            turnstile=provider.turnstile,
            hedge=hedge,
            lessons=self.lessons,
            tell=provider.told.append,
            clock=provider.clock,
            progress=provider.progress,
            flight=provider.flight,
        )

    def start(self, row: int = 0) -> "asyncio.Task":
        async def call():
            try:
                return await self.caller.call(request(row, b"x" * 40))
            finally:
                provider.flight.leave()

        provider = self.provider
        return asyncio.ensure_future(call())

    async def finish(self, *tasks: "asyncio.Task"):
        for _ in range(100):
            await settle()
            if all(task.done() for task in tasks):
                break
            await self.provider.clock.advance(60)
        return await asyncio.gather(*tasks, return_exceptions=True)

    def assert_balanced(self) -> None:
        """Nothing is held, nobody waits, and every grant of tokens was settled or given back."""
        for permits in (self.permits, self.shared):
            assert permits is None or (0, 0) == (permits.in_use, permits.waiting)
        if self.tokens is not None:
            assert 0 == self.tokens.waiting
            assert 0 == self.tokens.meter._unsettled
        assert {} == self.provider.waiting
        assert 0 == self.provider.progress.in_flight
        assert 0 == len(self.provider.flight)
        assert not self.provider.turnstile._has_candidate
        assert not self.provider.breaker._is_probing

"""What one call passes before it is sent: budget, breaker, pause, concurrency, requests and tokens per minute.

One gate for each key of a provider. It waits, and nothing it waits for is decided here: the budget, the
breaker, the pause and the buckets decide. What came of the call is told to each of them: usage settles
what was reserved, a 429 pauses the key for all its rows, and a failure that speaks of the provider counts
at the breaker, which says whether it counts against the row too.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import msgspec

from batcher.clock import Clock
from batcher.core.contracts import Caller, CallError
from batcher.core.flight import Flight
from batcher.core.progress import Progress
from batcher.core.records import Reply, Request, Spend
from batcher.errors import StoppedError
from batcher.limits.breaker import Pass
from batcher.limits.pause import Pause
from batcher.providers.allotment import Allotment
from batcher.providers.lessons import KeyLessons
from batcher.providers.rest_news import RestNews
from batcher.providers.retrying import RETRYABLE
from batcher.providers.room import COUNTED, Room, Taken
from batcher.providers.turnstile import Turnstile

MOVES_AFTER_S = 1.0
"""A row leaves a key that rests so much longer than another."""

CANARY = b'[{"role":"user","content":"Say OK."}]'
"""Asked where nothing but rows that failed is left: it tells whether they are at fault, or the provider."""

Send = Callable[[], Awaitable[Reply]]


class KeyRestsError(Exception):
    """This key rests for long and another does not: the row should go there. Never leaves the pool."""


class Hedge(Protocol):
    """Races a second copy of a slow call; see `hedged.py`."""

    async def race(self, first: Send, second: Callable[[], Send | None]) -> Reply:
        """The reply of whichever answers first."""
        ...

    def took(self, latency_s: float) -> None:
        """A call was answered after so long."""
        ...


class _Entry(msgspec.Struct, frozen=True):
    ticket: Pass
    taken: Taken | Allotment
    task: "asyncio.Task[object] | None"


class GatedCaller:
    """A caller behind the limits of one key.

    Args:
        inner: Makes the call.
        name: The key without the key, for messages.
        room: What a call takes up while it is made.
        pause: Until when this key rests.
        turnstile: The provider's breaker.
        lessons: Learns from this key's calls, or None where there is nothing to learn.
        hedge: Sends a second copy of the slowest calls, or None.
        tell: Called with a sentence when the key begins a long rest.
    """

    def __init__(
        self,
        inner: Caller,
        *,
        name: str,
        room: Room,
        pause: Pause,
        turnstile: Turnstile,
        clock: Clock,
        progress: Progress,
        flight: Flight,
        lessons: KeyLessons | None = None,
        hedge: Hedge | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._inner = inner
        self._name = name
        self._room = room
        self._pause = pause
        self._turnstile = turnstile
        self._clock = clock
        self._progress = progress
        self._flight = flight
        self._lessons = lessons
        self._hedge = hedge
        self._rests = RestNews(name, tell, clock)
        self._rest_elsewhere_s: Callable[[], float] = lambda: math.inf

    @property
    def name(self) -> str:
        """See `pool.Member`."""
        return self._name

    @property
    def load(self) -> float:
        """See `pool.Member`; a second of rest weighs as much as a full room: none waits for a key that rests long."""
        return self.rest_s + self._room.load

    @property
    def rest_s(self) -> float:
        """See `pool.Member`."""
        return self._pause.remaining_s(self._clock.monotonic())

    def share_with(self, rest_elsewhere_s: Callable[[], float]) -> None:
        """See `pool.Member`."""
        self._rest_elsewhere_s = rest_elsewhere_s

    def call(self, request: Request) -> Coroutine[Any, Any, Reply]:
        """See `Caller`. The place of a call that was answered is taken until its task leaves the flight.

        Raises:
            KeyRestsError: The row should go to another key.
            BudgetError: The call could pass the budget.
        """
        # Not async itself: that would be one more layer through which each row has to pass.
        return self._send(request, None) if self._hedge is None else self._race(request, self._hedge)

    async def _race(self, request: Request, hedge: Hedge) -> Reply:
        entry = self._try_enter(request) or await self._enter(request)
        try:
            return await hedge.race(lambda: self._send(request, entry), lambda: self._second(request))
        except CallError as error:
            self._land(error)
            raise

    async def _send(self, request: Request, entered: _Entry | None) -> Reply:
        """One exchange, with what was taken for it settled at its end.

        Args:
            request: What is asked.
            entered: One of several copies of a call, which gives its permits back when it ends. None: enter first,
                and keep the place if there is an answer.
        """
        entry = entered or self._try_enter(request) or await self._enter(request)
        started_s = self._clock.monotonic()
        self._progress.in_flight += 1
        if self._lessons is not None:
            self._lessons.sent()
        try:
            reply = await self._inner.call(request)
        except CallError as error:
            self._failed(error, entry, request, started_s)
            self._room.release()
            if self._turnstile.wants_canary(request.row):
                error.spend = error.spend + await self._ask_canary()
            if entered is None:
                self._land(error)
            raise
        except BaseException:
            self._room.release()
            self._room.keep(entry.taken)
            self._turnstile.breaker.abandon(entry.ticket)
            if self._lessons is not None:
                self._lessons.left()
            raise
        finally:
            self._progress.in_flight -= 1
        self._succeeded(reply.spend, entry, request, started_s)
        if entered is None:
            self._flight.hold(entry.task, self._room.release)
        else:
            self._room.release()
        return reply

    def _land(self, error: CallError) -> None:
        """The call failed: its task has nothing to lose."""
        self._flight.leave()
        if error.kind in RETRYABLE:
            # Nobody waits out a backoff for a call that would not be sent.
            self._go_on_or_stop()

    def _try_enter(self, request: Request) -> _Entry | None:
        """Enter at once if nothing stands in the way: the common case, without a wait."""
        now_s = self._clock.monotonic()
        breaker = self._turnstile.breaker
        if self._flight.is_closed or breaker.is_open or self._pause.remaining_s(now_s) > 0:
            return None
        taken = self._room.try_take(request)
        if taken is None:
            return None
        ticket = breaker.enter(now_s)
        assert ticket is not None  # a closed breaker lets everyone through
        return _Entry(ticket, taken, self._flight.board())

    async def _enter(self, request: Request) -> _Entry:
        """Wait until everything lets this call through at the same time."""
        while True:
            self._go_on_or_stop()
            await self._rest()
            is_candidate = await self._turnstile.wait(request.row)
            entry = await self._pass(request, is_candidate=is_candidate)
            if entry is not None:
                return entry

    async def _pass(self, request: Request, *, is_candidate: bool) -> _Entry | None:
        """Take permits, budget and rates; None, and nothing taken, where something was shut meanwhile."""
        taken = Taken([])
        has_permits = False
        entry: _Entry | None = None
        try:
            await self._room.acquire()
            has_permits = True
            # What was open a while ago may be shut now; do not spend rate on it.
            if not self._is_shut(is_candidate=is_candidate):
                # After the permits, so that only as many calls as may be in flight hold money.
                await self._room.reserve(request, taken)
                await self._room.take_rates(request, taken)
                if not self._is_shut(is_candidate=is_candidate):
                    entered = self._turnstile.enter(self._clock.monotonic(), is_candidate=is_candidate)
                    is_candidate = False
                    if entered is not None:
                        entry = self._board(entered, taken)
            return entry
        finally:
            if entry is None:
                if has_permits:
                    self._room.release()
                taken.cancel()
            if is_candidate:
                self._turnstile.step_back()

    def _second(self, request: Request) -> Send | None:
        """A second copy of a call that takes long, if everything lets it through at this moment."""
        entry = self._try_enter(request)
        return None if entry is None else lambda: self._send(request, entry)

    async def _rest(self) -> None:
        """Wait out this key's pause, or say that another key is the better place.

        Raises:
            KeyRestsError: Another key rests a good deal shorter.
        """
        while (rest_s := self.rest_s) > 0:
            self._rests.rests(rest_s)
            elsewhere_s = self._rest_elsewhere_s()
            if rest_s > elsewhere_s + MOVES_AFTER_S:
                raise KeyRestsError
            self._progress.wait_begin("retry_after", self._clock.monotonic())
            try:
                # Looks again when the other key is ready: its rest may have been the longer one when this began.
                await self._clock.sleep(min(rest_s, max(elsewhere_s, MOVES_AFTER_S)))
            finally:
                self._progress.wait_end("retry_after")

    def _go_on_or_stop(self) -> None:
        if self._flight.is_closed:
            raise StoppedError("the run is stopping")

    def _is_shut(self, *, is_candidate: bool) -> bool:
        return self.rest_s > 0 or (self._turnstile.breaker.is_open and not is_candidate)

    def _board(self, ticket: Pass, taken: Taken) -> _Entry:
        try:
            return _Entry(ticket, taken, self._flight.board())
        except StoppedError:
            self._turnstile.breaker.abandon(ticket)
            raise

    def _succeeded(self, spend: Spend, entry: _Entry, request: Request, started_s: float) -> None:
        now_s = self._clock.monotonic()
        self._turnstile.breaker.record_success(entry.ticket, request.row, now_s)
        self._pause.succeeded(started=started_s)
        self._room.settle(entry.taken, request, spend)
        if self._lessons is not None:
            self._lessons.succeeded(started_s, now_s)
        if self._hedge is not None:
            self._hedge.took(now_s - started_s)

    def _failed(self, error: CallError, entry: _Entry, request: Request, started_s: float) -> None:
        now_s, breaker = self._clock.monotonic(), self._turnstile.breaker
        if error.kind == "rate_limited":
            self._rests.refused(error.message)
            self._pause.refused(now_s, started=started_s, retry_after_s=error.retry_after_s)
            breaker.abandon(entry.ticket)
        elif error.kind in COUNTED and error.is_reshaped:
            # A crash on the format, or an illness: the next call, without the format, tells the breaker which.
            breaker.abandon(entry.ticket)
        elif error.kind in COUNTED:
            counts = breaker.record_failure(
                entry.ticket,
                request.row,
                reached=error.reached,
                now=now_s,
                why=error.message if error.status in (None, 200) else f"HTTP {error.status}",
            )
            error.costs_try = error.costs_try and counts
        else:
            breaker.record_success(entry.ticket, request.row, now_s)
        self._room.settle_failure(entry.taken, request, error)
        if self._lessons is not None:
            self._lessons.failed(error, started_s, now_s)

    async def canary(self, *, rest_s: float = 0.0) -> Reply:
        """Ask something that any healthy provider answers, within the limits but past those who wait for a permit.

        It waits for its part of the minute: with none left, a forbidden row would be a refused key.

        Args:
            rest_s: For so long nothing else is sent by this key: what is asked here decides whether it should.

        Raises:
            CallError: It failed, or the budget does not let it through (`rate_limited`).
        """
        request = Request(row=-1, messages=CANARY)
        self._pause.pause_until(self._clock.monotonic() + rest_s)
        taken = await self._room.take_past_permits(request)
        started_s = self._clock.monotonic()
        try:
            reply = await self._inner.call(request)
        except CallError as error:
            if error.kind == "rate_limited":
                self._pause.refused(self._clock.monotonic(), started=started_s, retry_after_s=error.retry_after_s)
            self._room.settle_failure(taken, request, error)
            raise
        except BaseException:
            self._room.keep(taken)
            raise
        self._room.settle(taken, request, reply.spend)
        return reply

    async def _ask_canary(self) -> Spend:
        """Tell the breaker whether the provider is up or only rows fail; what it used is the row's to pay."""
        is_up = False
        try:
            spend = (await self.canary()).spend
            is_up = True
        except CallError as error:
            # A 429 proves nothing about what is behind the gateway.
            is_up = error.kind not in COUNTED and error.kind != "rate_limited"
            spend = error.spend
        finally:
            self._turnstile.record_canary(is_up=is_up)
        return spend

"""What one call passes before it is sent: breaker, pause, concurrency, requests and tokens per minute.

One gate for each key of a provider. It waits, and nothing it waits for is decided here: the breaker,
the pause and the buckets decide. What came of the call is told to each of them: usage settles the token
estimate, a 429 pauses the key for all its rows, and a failure that speaks of the provider counts at the
breaker, which says whether it counts against the row too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from batcher.clock import Clock
from batcher.core.contracts import Caller, CallError
from batcher.core.flight import Flight
from batcher.core.progress import Progress
from batcher.core.records import Reply, Request, Spend
from batcher.errors import FailureKind, StoppedError
from batcher.limits.breaker import Pass
from batcher.limits.concurrency import Permits
from batcher.limits.estimate import TokenEstimator
from batcher.limits.pause import Pause
from batcher.limits.rate import RequestRate
from batcher.limits.tokens import Reservation, TokenBucket
from batcher.providers.retrying import RETRYABLE
from batcher.providers.turnstile import Turnstile

COUNTED: frozenset[FailureKind] = frozenset({"server", "connection", "timeout", "bad_response"})
"""Kinds that speak about the provider; the others show that it is up."""


@dataclass(frozen=True, slots=True)
class LimitSet:
    """Limits that hold together: a key's own, or the job's over all keys. None is no limit."""

    permits: Permits | None = None
    requests: RequestRate | None = None
    tokens: TokenBucket | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    ticket: Pass
    reservations: Sequence[Reservation]


class GatedCaller:
    """A caller behind the limits of one key.

    Args:
        inner: Makes the call.
        name: The key without the key, for messages.
        limits: Passed in this order; the job's before the key's own.
        pause: Until when this key rests.
        turnstile: The provider's breaker.
        estimator: What a request will use in tokens; shared by the provider's keys.
        output_max: The job's own cap on output tokens, or None.
    """

    def __init__(
        self,
        inner: Caller,
        *,
        name: str,
        limits: Sequence[LimitSet],
        pause: Pause,
        turnstile: Turnstile,
        estimator: TokenEstimator,
        output_max: int | None,
        clock: Clock,
        progress: Progress,
        flight: Flight,
    ) -> None:
        self._inner = inner
        self._name = name
        self._permits = [limit.permits for limit in limits if limit.permits is not None]
        self._requests = [limit.requests for limit in limits if limit.requests is not None]
        self._tokens = [limit.tokens for limit in limits if limit.tokens is not None]
        self._pause = pause
        self._turnstile = turnstile
        self._estimator = estimator
        self._output_max = output_max
        self._clock = clock
        self._progress = progress
        self._flight = flight

    @property
    def name(self) -> str:
        """See `pool.Member`."""
        return self._name

    @property
    def load(self) -> float:
        """See `pool.Member`; a second of rest weighs as much as a full room: none waits for a key that rests long."""
        rest_s = self._pause.remaining_s(self._clock.monotonic())
        return rest_s + sum((permits.in_use + permits.waiting) / permits.permits_max for permits in self._permits)

    async def call(self, request: Request) -> Reply:
        """See `Caller`."""
        entry = await self._enter(request)
        started_s = self._clock.monotonic()
        self._progress.in_flight += 1
        try:
            reply = await self._inner.call(request)
        except CallError as error:
            self._failed(error, entry, request, started_s)
            self._flight.leave()
            if error.kind in RETRYABLE:
                # Nobody waits out a backoff for a call that would not be sent.
                self._go_on_or_stop()
            raise
        except BaseException:
            # Cancelled on the wire: it may have been served, so the tokens stay booked.
            for reservation in entry.reservations:
                reservation.keep()
            self._turnstile.breaker.abandon(entry.ticket)
            raise
        finally:
            self._progress.in_flight -= 1
            self._release()
        self._succeeded(reply.spend, entry, request, started_s)
        return reply

    async def _enter(self, request: Request) -> _Entry:
        """Wait until everything lets this call through at the same time."""
        while True:
            self._go_on_or_stop()
            await self._rest()
            is_candidate = await self._turnstile.wait()
            has_permits = False
            reservations: list[Reservation] = []
            try:
                await self._acquire()
                has_permits = True
                # What was open a while ago may be shut now; do not spend rate on it.
                if not self._is_shut(is_candidate=is_candidate):
                    await self._take_rates(request, reservations)
                    if not self._is_shut(is_candidate=is_candidate):
                        ticket = self._turnstile.enter(self._clock.monotonic(), is_candidate=is_candidate)
                        is_candidate = False
                        if ticket is not None:
                            self._board(ticket)
                            entry = _Entry(ticket, reservations)
                            has_permits, reservations = False, []
                            return entry
            finally:
                if has_permits:
                    self._release()
                for reservation in reservations:
                    reservation.cancel()
                if is_candidate:
                    self._turnstile.step_back()

    def _go_on_or_stop(self) -> None:
        if self._flight.is_closed:
            raise StoppedError("the run is stopping")

    def _is_shut(self, *, is_candidate: bool) -> bool:
        if self._pause.remaining_s(self._clock.monotonic()) > 0:
            return True
        return self._turnstile.breaker.is_open and not is_candidate

    def _board(self, ticket: Pass) -> None:
        try:
            self._flight.board()
        except BaseException:
            self._turnstile.breaker.abandon(ticket)
            raise

    async def _rest(self) -> None:
        """Wait out the pause of this key."""
        while (remaining_s := self._pause.remaining_s(self._clock.monotonic())) > 0:
            self._progress.wait_begin("retry_after", self._clock.monotonic())
            try:
                await self._clock.sleep(remaining_s)
            finally:
                self._progress.wait_end("retry_after")

    async def _acquire(self) -> None:
        acquired: list[Permits] = []
        try:
            for permits in self._permits:
                if not permits.try_acquire():
                    self._progress.wait_begin("concurrency", self._clock.monotonic())
                    try:
                        await permits.acquire()
                    finally:
                        self._progress.wait_end("concurrency")
                acquired.append(permits)
        except BaseException:
            for permits in acquired:
                permits.release()
            raise

    def _release(self) -> None:
        for permits in self._permits:
            permits.release()

    async def _take_rates(self, request: Request, reservations: list[Reservation]) -> None:
        for requests in self._requests:
            if not requests.try_acquire():
                self._progress.wait_begin("rate_limit", self._clock.monotonic())
                try:
                    await requests.acquire()
                finally:
                    self._progress.wait_end("rate_limit")
        if not self._tokens:
            return
        estimate = self._estimator.estimate(len(request.messages), self._output_max)
        for tokens in self._tokens:
            reservation = tokens.try_reserve(estimate)
            if reservation is None:
                self._progress.wait_begin("rate_limit", self._clock.monotonic())
                try:
                    reservation = await tokens.reserve(estimate)
                finally:
                    self._progress.wait_end("rate_limit")
            reservations.append(reservation)

    def _succeeded(self, spend: Spend, entry: _Entry, request: Request, started_s: float) -> None:
        self._turnstile.breaker.record_success(entry.ticket, request.row, self._clock.monotonic())
        self._pause.succeeded(started=started_s)
        if self._tokens:
            self._settle(spend, entry, request)

    def _settle(self, spend: Spend, entry: _Entry, request: Request) -> None:
        usage = spend.usage
        self._estimator.learn(len(request.messages), usage, self._output_max)
        for reservation in entry.reservations:
            if usage is None:
                reservation.keep()
            else:
                reservation.settle(usage.input + usage.output)

    def _failed(self, error: CallError, entry: _Entry, request: Request, started_s: float) -> None:
        now_s, breaker = self._clock.monotonic(), self._turnstile.breaker
        if error.kind == "rate_limited":
            self._pause.refused(now_s, started=started_s, retry_after_s=error.retry_after_s)
            breaker.abandon(entry.ticket)
        elif error.kind in COUNTED and error.is_reshaped:
            # A crash on the format, or an illness: the next call, without the format, tells the breaker which.
            breaker.abandon(entry.ticket)
        elif error.kind in COUNTED:
            counts = breaker.record_failure(entry.ticket, request.row, reached=error.reached, now=now_s)
            error.costs_try = error.costs_try and counts
        else:
            breaker.record_success(entry.ticket, request.row, now_s)
        if error.spend.usage is not None or error.kind in COUNTED:
            # A call that failed half-way may have been counted by the provider; its estimate stays booked.
            self._settle(error.spend, entry, request)
        else:
            for reservation in entry.reservations:
                reservation.cancel()

"""What one call takes up while it is made: a part of the budget, permits, requests and tokens of a minute.

The room of one key. A call takes all of it or nothing, and gives back what it did not use: `Taken` is
settled once, with what the call really used. Waiting is counted in `Progress` by its reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import msgspec

from batcher.clock import Clock
from batcher.core.contracts import CallError
from batcher.core.progress import Progress, WaitReason
from batcher.core.records import Request, Spend
from batcher.errors import BudgetError, FailureKind
from batcher.ledger.budget import Hold
from batcher.limits.concurrency import Permits
from batcher.limits.estimate import TokenEstimator
from batcher.limits.rate import RequestRate
from batcher.limits.tokens import Reservation, TokenBucket
from batcher.providers.allotment import Allotment, Allotments
from batcher.providers.wall import Wall

COUNTED: frozenset[FailureKind] = frozenset({"server", "connection", "timeout", "bad_response"})
"""Kinds that speak about the provider; the others show that it is up."""


RATE_MOVED = 0.1
"""A taught rate that changes by a larger part than this is another one."""


@dataclass(frozen=True, slots=True)
class LimitSet:
    """Limits that hold together: a key's own, or the job's over all keys. None is no limit."""

    permits: Permits | None = None
    requests: RequestRate | None = None
    tokens: TokenBucket | None = None


class Taken(msgspec.Struct):
    """What one call has taken beside its permits, which are given back when the exchange ends."""

    reservations: list[Reservation]
    hold: Hold | None = None

    def cancel(self) -> None:
        """The call was never sent: give everything back."""
        for reservation in self.reservations:
            reservation.cancel()
        if self.hold is not None:
            self.hold.cancel()


class Room:
    """The limits of one key, the job's among them, and the budget.

    Args:
        limits: Passed in this order; the job's before the key's own.
        estimator: What a request will use in tokens; shared by the provider's keys.
        output_max: The job's own cap on output tokens, or None.
        wall: The budget, or None where the job has none.
    """

    def __init__(
        self,
        limits: Sequence[LimitSet],
        *,
        estimator: TokenEstimator,
        output_max: int | None,
        wall: Wall | None,
        clock: Clock,
        progress: Progress,
    ) -> None:
        self._taught_requests: RequestRate | None = None
        self._taught_tokens: TokenBucket | None = None
        self._permits = [limit.permits for limit in limits if limit.permits is not None]
        self._requests = [limit.requests for limit in limits if limit.requests is not None]
        self._tokens = [limit.tokens for limit in limits if limit.tokens is not None]
        self._allotments = Allotments(estimator=estimator, output_max=output_max, wall=wall)
        self._allotments.limit(self._requests, self._tokens)
        self._estimator = estimator
        self._output_max = output_max
        self._wall = wall
        self._clock = clock
        self._progress = progress

    @property
    def load(self) -> float:
        """Permits in use or waited for, as a share; above 1 where calls wait."""
        return sum((permits.in_use + permits.waiting) / permits.permits_max for permits in self._permits)

    def teach(self, *, requests_per_minute: int | None, tokens_per_minute: int | None) -> bool:
        """Keep to the rates that the provider names now; None takes a taught one back. True if one is new.

        A rate that moves by less than a tenth is the same one. Who waits at a rate that is replaced goes by it.
        """
        requests, tokens, is_new = self._taught_requests, self._taught_tokens, False
        if not requests_per_minute:
            self._taught_requests = None
            self._requests = [one for one in self._requests if one is not requests]
        elif requests is None or _moved(requests.per_minute, requests_per_minute):
            self._taught_requests, is_new = RequestRate(requests_per_minute), True
            self._requests = [one for one in self._requests if one is not requests] + [self._taught_requests]
        if not tokens_per_minute:
            self._taught_tokens = None
            self._tokens = [one for one in self._tokens if one is not tokens]
        elif tokens is None or _moved(tokens.meter.per_minute, tokens_per_minute):
            self._taught_tokens, is_new = TokenBucket(tokens_per_minute, self._clock), True
            self._tokens = [one for one in self._tokens if one is not tokens] + [self._taught_tokens]
        self._allotments.limit(self._requests, self._tokens)
        return is_new

    def try_take(self, request: Request) -> Taken | Allotment | None:
        """All that the call needs if it can be had now, permits too; never waits, and takes all or nothing."""
        allotment = self._allotments.take(request)
        if allotment is not None:
            if self._try_permits():
                return allotment
            allotment.calls_left += 1
            return None
        taken = Taken([])
        if self._wall is not None:
            taken.hold = self._wall.budget.try_reserve(self._wall.worst_usd(request))
            if taken.hold is None:
                return None
        if self._try_permits():
            if self._try_rates(request, taken.reservations):
                return taken
            self.release()
        taken.cancel()
        return None

    async def take_past_permits(self, request: Request) -> Taken:
        """All that a call needs but a permit; waits.

        Raises:
            CallError: The budget does not let it through (`rate_limited`).
        """
        taken = Taken([])
        try:
            await self.reserve(request, taken)
            await self.take_rates(request, taken)
        except BudgetError as error:
            raise CallError("no money for a request of our own", kind="rate_limited") from error
        except BaseException:
            taken.cancel()
            raise
        return taken

    async def reserve(self, request: Request, taken: Taken) -> None:
        """The call's part of the budget, where there is one; waits.

        Raises:
            BudgetError: The call could pass the cap, and nothing that is out may come back.
            CallError: Nothing bounds what this request costs.
        """
        if self._wall is None:
            return
        worst_usd = self._wall.worst_usd(request)
        taken.hold = self._wall.budget.try_reserve(worst_usd)
        if taken.hold is None:
            self._begin("budget")
            try:
                taken.hold = await self._wall.budget.reserve(worst_usd)
            finally:
                self._progress.wait_end("budget")

    async def acquire(self) -> None:
        """A permit of each kind; waits."""
        acquired: list[Permits] = []
        try:
            for permits in self._permits:
                if not permits.try_acquire():
                    self._begin("concurrency")
                    try:
                        await permits.acquire()
                    finally:
                        self._progress.wait_end("concurrency")
                acquired.append(permits)
        except BaseException:
            for permits in acquired:
                permits.release()
            raise

    def release(self) -> None:
        """Give the permits back."""
        for permits in self._permits:
            permits.release()

    async def take_rates(self, request: Request, taken: Taken) -> None:
        """Requests and tokens of this minute; waits. What was reserved is in `taken`, also when cancelled."""
        for requests in self._requests:
            if not requests.try_acquire():
                self._begin("rate_limit")
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
                self._begin("rate_limit")
                try:
                    reservation = await tokens.reserve(estimate)
                finally:
                    self._progress.wait_end("rate_limit")
            taken.reservations.append(reservation)

    def settle(self, taken: Taken | Allotment, request: Request, spend: Spend) -> None:
        """The call was answered: book what it really used."""
        self._progress.calls.add(spend)
        if type(taken) is Allotment and self._allotments.ended(taken, request, spend):
            return
        taken = _apart(taken)
        if self._tokens:
            self._settle_tokens(taken, request, spend)
        if taken.hold is not None:
            self._pay(taken.hold, spend.cost_usd)

    def settle_failure(self, taken: Taken | Allotment, request: Request, error: CallError) -> None:
        """The call failed: book what it used, or may have used."""
        taken = _apart(taken)
        self._progress.calls.add(error.spend)
        if error.spend.usage is not None or error.kind in COUNTED:
            # A call that failed half-way may have been counted by the provider; its estimate stays booked.
            self._settle_tokens(taken, request, error.spend)
        else:
            for reservation in taken.reservations:
                reservation.cancel()
        if taken.hold is not None:
            self._pay(taken.hold, None if error.is_billing_unknown else error.spend.cost_usd)

    def keep(self, taken: Taken | Allotment) -> None:
        """The call was left on the wire: it may have been served, so all of it stays booked."""
        taken = _apart(taken)
        self._progress.calls.count += 1
        for reservation in taken.reservations:
            reservation.keep()
        if taken.hold is not None:
            self._pay(taken.hold, None)

    def _try_permits(self) -> bool:
        for number, permits in enumerate(self._permits):
            if not permits.try_acquire():
                for earlier in self._permits[:number]:
                    earlier.release()
                return False
        return True

    def _try_rates(self, request: Request, reservations: list[Reservation]) -> bool:
        if self._tokens:
            estimate = self._estimator.estimate(len(request.messages), self._output_max)
            for tokens in self._tokens:
                reservation = tokens.try_reserve(estimate)
                if reservation is None:
                    break
                reservations.append(reservation)
        if len(reservations) == len(self._tokens):
            for number, requests in enumerate(self._requests):
                if not requests.try_acquire():
                    for earlier in self._requests[:number]:
                        earlier.give_back()
                    break
            else:
                return True
        for reservation in reservations:
            reservation.cancel()
        return False

    def _settle_tokens(self, taken: Taken, request: Request, spend: Spend) -> None:
        usage = spend.usage
        self._estimator.learn(len(request.messages), usage, self._output_max)
        for reservation in taken.reservations:
            if usage is None:
                reservation.keep()
            else:
                reservation.settle(usage.input + usage.output)

    def _pay(self, hold: Hold, cost_usd: Decimal | None) -> None:
        """Book what a call cost; where nobody knows, its worst case stays held."""
        if cost_usd is None:
            hold.keep()
            self._progress.held_usd += hold.worst_usd
        else:
            hold.settle(cost_usd)

    def _begin(self, reason: WaitReason) -> None:
        self._progress.wait_begin(reason, self._clock.monotonic())


def _apart(taken: Taken | Allotment) -> Taken:
    return taken if isinstance(taken, Taken) else Taken(*taken.apart())


def _moved(rate: float, new_rate: float) -> bool:
    return abs(new_rate - rate) > RATE_MOVED * rate

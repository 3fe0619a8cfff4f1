"""What the calls of one turn of the event loop take of the budget, the requests and the tokens: together.

While limits are far away, looking at each of them for each call is most of what a gate costs. So where many calls
begin in a turn, room for as many is taken at once, and what they used is booked at once when the turn ends:

- an allotment lives no longer than its turn, then what nobody used of it goes back;
- it is taken only where there is plenty, and nobody waits: near a limit each call is looked at by itself;
- calls of about one size share one, with the worst case of the longest of them reserved for each.

A call that fails, or whose usage or cost is not known, is taken out of its allotment and booked by itself.
"""

import asyncio
from collections.abc import Sequence
from decimal import Decimal

from batcher.core.records import Request, Spend, Usage
from batcher.ledger.budget import Budget, Hold
from batcher.limits.estimate import TokenEstimator
from batcher.limits.rate import RequestRate
from batcher.limits.tokens import Reservation, Slot, TokenBucket
from batcher.providers.wall import Wall

CALLS_MIN, CALLS_MAX = 8, 256
"""An allotment is for as many calls as the turn before began; not for fewer than these, nor for more."""


class Allotment:
    """Room for some calls of about one size: each of those that took of it holds it until it ends."""

    __slots__ = ("buckets", "budget", "calls", "calls_left", "slots", "tokens", "worst_usd")

    def __init__(
        self,
        calls: int,
        *,
        tokens: int,
        buckets: tuple[TokenBucket, ...],
        slots: tuple[Slot, ...],
        worst_usd: Decimal,
        budget: Budget | None,
    ) -> None:
        self.calls = self.calls_left = calls
        self.tokens, self.buckets, self.slots = tokens, buckets, slots
        self.worst_usd, self.budget = worst_usd, budget

    def apart(self) -> tuple[list[Reservation], Hold | None]:
        """What one call that took of it holds, to be settled by itself."""
        reservations = [
            Reservation(bucket, slot, self.tokens) for bucket, slot in zip(self.buckets, self.slots, strict=True)
        ]
        hold = None if self.budget is None else Hold(self.budget, self.worst_usd, self.worst_usd)
        return reservations, hold


class Allotments:
    """What a key's calls take, and give back, a turn at a time.

    Args:
        estimator: What a request will use in tokens.
        output_max: The job's own cap on output tokens, or None.
        wall: The budget, or None where the job has none.
    """

    def __init__(self, *, estimator: TokenEstimator, output_max: int | None, wall: Wall | None) -> None:
        self._estimator = estimator
        self._output_max = output_max
        self._wall = wall
        self._requests: tuple[RequestRate, ...] = ()
        self._tokens: tuple[TokenBucket, ...] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_planned = False
        # By the number of bits of a request's length, which is its size.
        self._open: dict[int, Allotment] = {}
        self._began: dict[int, int] = {}
        self._expected: dict[int, int] = {}
        self._ended: list[tuple[Allotment, int, Usage, Decimal | None]] = []

    def limit(self, requests: Sequence[RequestRate], tokens: Sequence[TokenBucket]) -> None:
        """These are the rates from now on; the same ones again change nothing."""
        rates = (tuple(requests), tuple(tokens))
        if rates != (self._requests, self._tokens):
            self._end_turn()
            self._requests, self._tokens = rates

    def take(self, request: Request) -> Allotment | None:
        """Room for one call out of what this turn was allotted, or None: look at each limit."""
        messages = request.messages
        size = len(messages).bit_length()
        allotment = self._open.get(size)
        if allotment is None or not allotment.calls_left:
            allotment = self._next(size, len(messages))
            if allotment is None:
                return None
        if self._wall is not None and self._wall.worst_case.has_parts(messages):  # an image costs more than its bytes
            return None
        allotment.calls_left -= 1
        return allotment

    def ended(self, allotment: Allotment, request: Request, spend: Spend) -> bool:
        """A call was answered; False where it has to be settled by itself."""
        usage, cost_usd = spend.usage, spend.cost_usd
        if usage is None or (cost_usd is None and self._wall is not None) or allotment.buckets is not self._tokens:
            return False
        self._ended.append((allotment, len(request.messages), usage, cost_usd))
        if not self._is_planned:
            self._plan()
        return True

    def _plan(self) -> None:
        self._is_planned = True
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._end_turn)

    def _next(self, size: int, messages_bytes: int) -> Allotment | None:
        """Another allotment for calls of this size, where the turn before had many and there is plenty of all."""
        if not self._is_planned:
            self._plan()
        used_up = self._open.pop(size, None)
        calls = self._expected.get(size, 0)
        if used_up is not None:
            self._began[size] = self._began.get(size, 0) + used_up.calls
            calls = 2 * used_up.calls
        calls = min(calls, CALLS_MAX)
        allotment = self._allot(size, messages_bytes, calls) if calls >= CALLS_MIN else None
        if allotment is None:
            # Not asked for again in this turn.
            self._expected[size] = 0
            self._began[size] = self._began.get(size, 0) + 1
            return None
        self._open[size] = allotment
        return allotment

    def _allot(self, size: int, messages_bytes: int, calls: int) -> Allotment | None:
        """Room for calls of this size, estimated to use what one of so many bytes uses."""
        budget, worst_usd = None, Decimal(0)
        if self._wall is not None:
            budget, worst_usd = self._wall.budget, self._wall.worst_case.usd_of(2**size - 1)
            if not budget.try_allot(worst_usd, calls):
                return None
        tokens = self._estimator.estimate(messages_bytes, self._output_max)
        slots: list[Slot] = []
        for bucket in self._tokens:
            slot = bucket.try_allot(tokens, calls)
            if slot is None:
                break
            slots.append(slot)
        else:
            for number, requests in enumerate(self._requests):
                if not requests.try_allot(calls):
                    for earlier in self._requests[:number]:
                        earlier.give_back(calls)
                    break
            else:
                return Allotment(
                    calls, tokens=tokens, buckets=self._tokens, slots=tuple(slots), worst_usd=worst_usd, budget=budget
                )
        for bucket, slot in zip(self._tokens, slots, strict=False):
            bucket.give_back(slot, tokens, calls)
        if budget is not None:
            budget.give_back(worst_usd, calls)
        return None

    def _end_turn(self) -> None:
        self._is_planned = False
        began, opened = self._began, self._open
        self._began, self._open = {}, {}
        for size, allotment in opened.items():
            calls_left, allotment.calls_left = allotment.calls_left, 0
            began[size] = began.get(size, 0) + allotment.calls - calls_left
            if calls_left:
                self._give_back(allotment, calls_left)
        if began:
            self._expected = began
        if self._ended:
            self._book()

    def _give_back(self, allotment: Allotment, calls: int) -> None:
        for requests in self._requests:
            requests.give_back(calls)
        for bucket, slot in zip(allotment.buckets, allotment.slots, strict=True):
            bucket.give_back(slot, allotment.tokens, calls)
        if allotment.budget is not None:
            allotment.budget.give_back(allotment.worst_usd, calls)

    def _book(self) -> None:
        ended, self._ended = self._ended, []
        if self._tokens:
            self._estimator.learn_all([(size, usage) for _, size, usage, _ in ended], self._output_max)
        for number, bucket in enumerate(self._tokens):
            bucket.settle_all([(of.slots[number], usage.input + usage.output - of.tokens) for of, _, usage, _ in ended])
        if self._wall is not None:
            costs = [(of.worst_usd, cost_usd) for of, _, _, cost_usd in ended if cost_usd is not None]
            self._wall.budget.settle_all(costs)

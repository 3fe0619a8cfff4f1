"""The budget as a wall: what is spent, and what calls in flight may still cost, never pass the cap.

Each call reserves its worst case before it is sent and settles the truth after it. A call that does not
fit waits while others are out, whose reservations may come back; when none is out, the budget is used up
(`BudgetError`). Smaller calls may overtake a larger one `OVERTAKEN_MAX` times, then it is its turn.

Calls in flight at a `kill -9` are billed and stand in no journal. So an upper bound of all that the
journal does not show, the pledge, is on disk before that sum grows past it; a run that goes on after a
kill counts the pledge as spent. `pledge` writes it; how and where is the caller's.

Amounts are Decimal and sums of them exact. Touched on the event loop only.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from decimal import ROUND_CEILING, Context, Decimal
from functools import reduce

import msgspec

from batcher.errors import BudgetError, StoppedError
from batcher.ledger.money_queue import MoneyQueue
from batcher.ledger.pledged import NOTHING_BEFORE, BudgetState, dollars

PLEDGE_SHARE = Decimal("0.25")
PLEDGE_CAP_SHARE = Decimal("0.0025")
"""A pledge is this share of itself, or of the cap if that is more, above what is needed: a handful of writes
while a run gets going, and at most 400 for one in which every bill stays unknown."""

ALLOTTED_PART = 100
"""Several calls are allotted a hundredth of what is left of the cap at most."""

RAISE_IT = "raise budget.usd in the job, then `batcher run` goes on"

LEFT_SHARE = Decimal("0.05")
"""With more of the cap left, a budget is not called used up."""

Pledge = Callable[[Decimal], Awaitable[None]]
"""Puts an amount of dollars on disk; it is there when it returns."""

# The usual 28 digits would round the sums, and a rounded sum equals nothing; no sum of costs needs 200.
_EXACT = Context(prec=200)
# Looked up once: a context compares each name that it is asked for with all that it knows.
_add, _subtract = _EXACT.add, _EXACT.subtract
_UP = Context(prec=28, rounding=ROUND_CEILING)
_ZERO = Decimal(0)


class Hold(msgspec.Struct, eq=False):
    """What one call may cost, taken out of the budget. The first of the three ends it; later ones change nothing."""

    _budget: "Budget"
    worst_usd: Decimal
    _plain_usd: Decimal
    _is_open: bool = True

    def settle(self, cost_usd: Decimal) -> None:
        """The call cost so much; more than was reserved is booked all the same."""
        if self._is_open:
            self._is_open = False
            if cost_usd > self._plain_usd:
                self._budget.overran(cost_usd, self._plain_usd)
            self._budget.settle(self.worst_usd, cost_usd)

    def keep(self) -> None:
        """Nobody knows what was billed: the worst case stays booked."""
        if self._is_open:
            self._is_open = False
            self._budget.keep(self.worst_usd)

    def cancel(self) -> None:
        """Surely nothing was billed."""
        if self._is_open:
            self._is_open = False
            self._budget.settle(self.worst_usd, _ZERO)


class Budget:
    """The money of one run. `Budget(Decimal(10))` is a new run's; one that goes on has spent before.

    Args:
        cap_usd: What may be spent in all, earlier processes included.
        spent_usd: What the journal shows as spent.
        before: What earlier processes left beside it: see `pledged.reopened`.
        pledge: Called before more money is in flight than was pledged last; None: a kill forgets those calls.
        advice: Why one call may cost so much, for the message when the cap cannot hold even one.
        hint: What to do when the budget is used up.
    """

    def __init__(
        self,
        cap_usd: Decimal,
        spent_usd: Decimal = _ZERO,
        *,
        before: BudgetState = NOTHING_BEFORE,
        pledge: Pledge | None = None,
        advice: str = "",
        hint: str = RAISE_IT,
    ) -> None:
        self._cap_usd = cap_usd
        self._before = before
        self._pledge = pledge
        self._because = f" ({advice})" if advice else ""
        self._hint = hint
        self._spent_before_usd = _add(spent_usd, before.unfinished_usd)
        self._unknown_before_usd = _add(before.at_risk_usd, before.lost_usd)
        self._before_usd = _add(self._spent_before_usd, self._unknown_before_usd)
        self._settled_usd = self._journalled_usd = self._at_risk_usd = _ZERO
        self._out = 0
        self._committed_usd = self._before_usd  # all that is booked, and what the calls that are out have reserved
        self._line_usd = cap_usd
        self._overrun: Decimal | None = None
        self._pledged_usd = self._pledging_usd = _ZERO
        self._writing: asyncio.Task[None] | None = None
        self._is_closed = False
        self._queue = MoneyQueue(self._is_hopeless)
        self._set_line()

    @property
    def spent_usd(self) -> Decimal:
        """What is known to be spent, earlier processes included."""
        return _add(self._spent_before_usd, self._settled_usd)

    @property
    def held_usd(self) -> Decimal:
        """The worst cases of calls whose bill nobody knows, earlier processes included."""
        return _add(self._unknown_before_usd, self._at_risk_usd)

    @property
    def unfinished_usd(self) -> Decimal:
        """What this process spent for rows that have no outcome, or one without a known cost."""
        return _subtract(self._settled_usd, self._journalled_usd)

    @property
    def exposure_usd(self) -> Decimal:
        """What this process has, or may have, spent and the journal does not show."""
        return _subtract(_subtract(self._committed_usd, self._before_usd), self._journalled_usd)

    @property
    def state(self) -> BudgetState:
        """What `run.json` has to hold now; after `close` it says what is known instead of what was pledged."""
        before = self._before
        if not self._is_closed:
            pledged_usd = max(self._pledged_usd, self._pledging_usd, self.exposure_usd)
            return BudgetState(self._cap_usd, pledged_usd, before.at_risk_usd, before.lost_usd, before.unfinished_usd)
        out_usd = _subtract(_subtract(self._committed_usd, self._before_usd), self._settled_usd)
        at_risk_usd = _add(before.at_risk_usd, out_usd)
        unfinished_usd = _add(before.unfinished_usd, self.unfinished_usd)
        return BudgetState(self._cap_usd, _ZERO, at_risk_usd, before.lost_usd, unfinished_usd)

    def try_reserve(self, worst_usd: Decimal) -> Hold | None:
        """A hold at once, or None: `reserve` would wait, or refuse."""
        reserved_usd = worst_usd if self._overrun is None else self._dearer(worst_usd)
        total_usd = _add(self._committed_usd, reserved_usd)
        if worst_usd and total_usd > self._line_usd:
            return None
        if self._queue and not self._queue.may_overtake():
            return None
        self._out += 1
        self._committed_usd = total_usd
        return Hold(self, reserved_usd, worst_usd)

    def try_allot(self, worst_usd: Decimal, calls: int) -> bool:
        """Reserve that much for each of some calls, where a hundred times as much is left and nobody waits."""
        wanted_usd = _EXACT.multiply(worst_usd, calls)
        total_usd = _add(self._committed_usd, wanted_usd)
        if (
            self._queue
            or self._overrun is not None
            or total_usd > self._line_usd
            or _EXACT.multiply(wanted_usd, ALLOTTED_PART) > _subtract(self._cap_usd, total_usd)
        ):
            return False
        self._out += calls
        self._committed_usd = total_usd
        return True

    def give_back(self, worst_usd: Decimal, calls: int) -> None:
        """Of what was allotted, so many calls did not take theirs."""
        self._out -= calls
        self._committed_usd = _subtract(self._committed_usd, _EXACT.multiply(worst_usd, calls))
        if self._queue:
            self._pump()

    def settle_all(self, settled: Sequence[tuple[Decimal, Decimal]]) -> None:
        """For calls of an allotment: what was reserved for each, and what it cost."""
        for worst_usd, cost_usd in settled:
            if cost_usd > worst_usd:
                self.overran(cost_usd, worst_usd)
        cost_usd = reduce(_add, [cost_usd for _, cost_usd in settled])
        worst_usd = reduce(_add, [worst_usd for worst_usd, _ in settled])
        self._out -= len(settled) - 1
        self.settle(worst_usd, cost_usd)

    async def reserve(self, worst_usd: Decimal) -> Hold:
        """A hold, as soon as it fits. Safe to cancel.

        Raises:
            BudgetError: It does not fit, and no call is out whose reservation could come back.
            StorageError: The pledge could not be written.
        """
        hold = self.try_reserve(worst_usd)
        if hold is not None:
            return hold
        future = self._queue.join(worst_usd)
        self._pump()
        try:
            return await future
        except asyncio.CancelledError:
            # What it waited for may have come in the same turn of the loop as the cancellation.
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().cancel()
            else:
                self._pump()
            raise

    def journalled(self, *costs_usd: Decimal | None) -> None:
        """Outcomes with these costs are in the journal; None, an unknown one, stays on this side's books."""
        cost_usd = reduce(_add, filter(None, costs_usd), _ZERO)
        if cost_usd:
            self._journalled_usd = _add(self._journalled_usd, cost_usd)
            if self._line_usd < self._cap_usd:
                self._line_usd = min(self._cap_usd, _add(self._line_usd, cost_usd))
            if self._queue:
                self._pump()

    async def close(self) -> None:
        """Nothing is out any more; `state` is final. Waits for a pledge that is being written."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        self._is_closed = True

    def settle(self, worst_usd: Decimal, cost_usd: Decimal) -> None:
        """Book what a call cost in the place of what it reserved. For `Hold`."""
        self._settled_usd = _add(self._settled_usd, cost_usd)
        self._give_back(worst_usd, cost_usd)

    def keep(self, worst_usd: Decimal) -> None:
        """Book what a call reserved, as its bill is not known. For `Hold`."""
        self._at_risk_usd = _add(self._at_risk_usd, worst_usd)
        self._give_back(worst_usd, worst_usd)

    def overran(self, cost_usd: Decimal, worst_usd: Decimal) -> None:
        """A provider that billed more than the worst case may do so again, by as much. For `Hold`."""
        if worst_usd:
            self._overrun = max(self._overrun or _ZERO, _UP.divide(cost_usd, worst_usd))

    def _give_back(self, worst_usd: Decimal, booked_usd: Decimal) -> None:
        self._out -= 1
        self._committed_usd = _add(_subtract(self._committed_usd, worst_usd), booked_usd)
        if self._queue:
            self._pump()

    def _booked_usd(self) -> Decimal:
        return _add(_add(self._before_usd, self._settled_usd), self._at_risk_usd)

    def _dearer(self, worst_usd: Decimal) -> Decimal:
        return worst_usd if self._overrun is None else _UP.multiply(worst_usd, self._overrun)

    def _set_line(self) -> None:
        """What may be booked and reserved together: the cap, or less while less is pledged."""
        if self._pledge is not None:
            backed_usd = _add(_add(self._before_usd, self._journalled_usd), self._pledged_usd)
            self._line_usd = min(self._cap_usd, backed_usd)

    def _pump(self) -> None:
        """Let everyone go who fits; then see what the others wait for, if anything."""
        while (waiter := self._queue.next()) is not None:
            worst_usd = self._dearer(waiter.worst_usd)
            total_usd = _add(self._committed_usd, worst_usd)
            if worst_usd and total_usd > self._line_usd:
                if total_usd <= self._cap_usd:
                    self._grow_pledge()
                elif self._out == 0:
                    self._queue.refuse(self._used_up(worst_usd))
                return
            self._queue.goes(waiter)
            self._out += 1
            self._committed_usd = total_usd
            waiter.future.set_result(Hold(self, worst_usd, waiter.worst_usd))

    def _is_hopeless(self, worst_usd: Decimal) -> bool:
        """Whether it will never fit, whatever comes back: bookings only grow."""
        worst_usd = self._dearer(worst_usd)
        return worst_usd > 0 and _add(self._booked_usd(), worst_usd) > self._cap_usd

    def _grow_pledge(self) -> None:
        """Have the next pledge written, for all who wait and fit the cap; one write at a time."""
        if self._pledge is None or self._writing is not None:
            return
        total_usd = self._committed_usd
        for worst_usd in self._queue.wanted():
            more_usd = _add(total_usd, self._dearer(worst_usd))
            if more_usd <= self._cap_usd:
                total_usd = more_usd
        shown_usd = _add(self._before_usd, self._journalled_usd)
        needed_usd = _subtract(total_usd, shown_usd)
        grown_usd = needed_usd + max(needed_usd * PLEDGE_SHARE, self._cap_usd * PLEDGE_CAP_SHARE)
        # More than is left of the cap is never needed: nothing is reserved beyond it.
        self._pledging_usd = max(needed_usd, min(grown_usd, _subtract(self._cap_usd, shown_usd)))
        self._writing = asyncio.get_running_loop().create_task(self._write(self._pledge, self._pledging_usd))
        self._writing.add_done_callback(self._written)

    async def _write(self, pledge: Pledge, amount_usd: Decimal) -> None:
        await pledge(amount_usd)
        self._pledged_usd = amount_usd

    def _written(self, writing: asyncio.Task[None]) -> None:
        self._writing = None
        error = StoppedError("the run is stopping") if writing.cancelled() else writing.exception()
        if error is not None:
            self._queue.refuse(error)
            return
        self._set_line()
        self._pump()

    def _used_up(self, worst_usd: Decimal) -> BudgetError:
        cap, worst = dollars(self._cap_usd), dollars(worst_usd, up=True)
        spent, held = dollars(self.spent_usd), dollars(self.held_usd, up=True)
        if worst_usd > self._cap_usd and not self.spent_usd and not self.held_usd:
            return BudgetError(
                f"the budget of {cap} cannot hold one call, which may cost up to {worst}{self._because}",
                hint="set params.max_tokens to what an answer needs, or raise budget.usd in the job",
            )
        unknown = f", {held} held for calls whose bill is not known" if self.held_usd else ""
        left_usd = _subtract(self._cap_usd, self._booked_usd())
        if left_usd > self._cap_usd * LEFT_SHARE:
            # One request much larger than the others: "used up" would send people to look for the wrong thing.
            left = f"{dollars(left_usd)} left, and the call could cost up to {worst}{self._because}"
            return BudgetError(
                f"the budget of {cap} cannot hold the next call: {spent} spent{unknown}, {left}",
                hint=f"{self._hint}; or leave so large a row out (input.where)",
            )
        return BudgetError(
            f"the budget of {cap} is used up: {spent} spent{unknown}; the next call could cost up to {worst}",
            hint=self._hint,
        )

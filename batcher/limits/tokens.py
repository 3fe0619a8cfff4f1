"""Tokens per minute: reserve an estimate, settle the truth.

`TokenMeter` is the arithmetic, a pure state machine over monotonic seconds. `TokenBucket` puts a queue
before it, first in first out, and one timer for whoever stands first.

Two rules hold together, for servers count in different ways. A bucket paces: it refills at 98 % of
the allowance and holds 0.6 s worth, so no minute is burst. A window remembers: what was granted in
the last 60.5 seconds stays within the whole allowance. The bucket alone is enough while requests are
small; one of 7,000 tokens under an allowance of 60,000 a minute needs the window, or every ninth is
refused. What is not settled yet may turn out larger than its estimate, so as many tokens of the window
are left free as estimates have lately been short of, by the square root of their number.

A request larger than the bucket waits until the bucket is full, passes alone and leaves a debt, which
the next ones wait off. One larger than the whole minute waits for an empty window.
"""

import asyncio
import math
from collections import deque
from collections.abc import Iterable

import msgspec

from batcher.clock import Clock

SHARE = 0.98
"""Part of the allowance at which the bucket refills."""

BURST_S = 0.6
"""The bucket holds this long a refill; with SHARE it adds up to less than the allowance."""

GIVEN_BACK_S = 2.4
"""Given back, the bucket holds up to this long a refill for those who wait: room for one correction that is
large beside the bucket, and no more, since a hundred of them may come at once."""

WINDOW_S = 60.5
"""A minute as providers count it, and half a second for answers that travel at different speeds."""

SLOT_S = 0.25
"""Grants this close together are remembered as one."""

WAKE_S_MIN = 0.005
"""The timer is not set shorter: the bucket holds far more than 5 ms, so nothing is lost by it."""

SPREAD = 4.0
"""The room left for estimates, in mean shortfalls: about 1.6 standard deviations of an even error."""

SPREAD_SHARE_MAX = 0.05
"""That room is never a larger part of the minute."""

SPREAD_MEMORY = 50
"""About so many settlements are remembered for it."""

ROUNDING = 1e-6
"""Tokens that floating point may be short of at the very moment that was computed."""


class Slot:
    """What was granted within one quarter of a second."""

    __slots__ = ("first_s", "in_window", "last_s", "tokens")

    def __init__(self, now: float) -> None:
        self.first_s = self.last_s = now
        self.tokens = 0
        self.in_window = True


class TokenMeter:
    """How many tokens may go now, and how long the rest has to wait.

    In any span of t seconds at most `per_second * t + max(burst, largest request)` tokens are granted,
    plus what was given back in that span, of which never more than 2.4 s worth at one moment; within any
    minute at most the allowance, as far as estimates hold.

    Args:
        per_minute: What the provider allows; above 0.
        now: Monotonic seconds; the bucket starts full, which is 0.6 s worth.
        share: Part of the allowance at which the bucket refills.
    """

    def __init__(self, per_minute: float, now: float, *, share: float = SHARE) -> None:
        if not (per_minute > 0 and 0 < share <= 1):
            raise ValueError(f"tokens per minute and share must be above 0: {per_minute}, {share}")
        self.per_minute = per_minute
        self.per_second = per_minute * share / 60.0
        self.burst = self.per_second * BURST_S
        self.level = self.burst
        self._refilled_s = now
        self._slots: deque[Slot] = deque()
        self._window_tokens = 0
        # With so many there is room, whatever is kept back for estimates that were too low.
        self._window_sure = per_minute * (1.0 - SPREAD_SHARE_MAX)
        self._unsettled = self._unsettled_then = 0
        self._shortfall = 0.0

    def take(self, tokens: int, now: float) -> Slot | None:
        """Book the tokens and give the slot they are in, or None if they have to wait."""
        self._refill(now)
        level = self.level + ROUNDING
        if level < tokens and level < self.burst:  # `min` would take a tenth of all this
            return None
        if self._window_tokens + tokens > self._window_sure and not self._has_room(tokens, now):
            return None
        self.level -= tokens
        self._unsettled += 1
        self._window_tokens += tokens
        slots = self._slots
        if slots and now - slots[-1].first_s < SLOT_S:
            slot = slots[-1]
            slot.last_s = now
        else:
            self._expire(now)
            slot = Slot(now)
            slots.append(slot)
        slot.tokens += tokens
        return slot

    def allot(self, tokens: int, calls: int, now: float) -> Slot | None:
        """Book that many tokens for each of some calls, where half of what may be burst is left; or None."""
        self._refill(now)
        wanted = tokens * calls
        if self.level - wanted < self.burst / 2.0 or self._window_tokens + wanted > self._window_sure:
            return None
        slot = self.take(wanted, now)
        self._unsettled += calls - 1
        return slot

    def give_back(self, slot: Slot, tokens: int, calls: int, now: float) -> None:
        """Of what was allotted, that much was not used by so many calls. `clamp` when those who wait are served."""
        self._refill(now)
        unused = tokens * calls
        self.level += unused
        slot.tokens -= unused
        if slot.in_window:
            self._window_tokens -= unused
        self._unsettled -= calls

    def wait_s(self, tokens: int, now: float) -> float:
        """Seconds until `take` would grant them if nothing else changed; 0 is now."""
        self._refill(now)
        need = min(tokens, self.burst)
        wait_s = max(0.0, (need - self.level) / self.per_second)
        self._expire(now)
        held = self._window_tokens
        for slot in self._slots:
            # As `_has_room` decides: a request larger than the minute goes when nothing is held.
            if held <= 0 or held + tokens <= self._window_max():
                break
            held -= slot.tokens
            wait_s = max(wait_s, slot.last_s + WINDOW_S - now)
        return wait_s

    def settle(self, slot: Slot, difference: int, now: float) -> None:
        """Book `difference` more tokens (fewer, if negative) on one grant of a slot. Once a grant.

        What is given back may stand above `burst` for those who wait: call `clamp` when they are served.
        """
        self.settle_all(((slot, difference),), now)

    def settle_all(self, settled: Iterable[tuple[Slot, int]], now: float) -> None:
        """Do for several grants what `settle` does for one."""
        # First the refill of the time before, which the brim may cut; not what is given back now.
        self._refill(now)
        shortfall, total, count = self._shortfall, 0, 0
        for slot, difference in settled:
            shortfall += ((max(0, difference)) - shortfall) / SPREAD_MEMORY
            slot.tokens += difference
            if slot.in_window:
                self._window_tokens += difference
            total += difference
            count += 1
        self._shortfall = shortfall
        self.level = min(self.level - total, self.burst * GIVEN_BACK_S / BURST_S)
        self._unsettled -= count
        self._unsettled_then = self._unsettled

    def clamp(self) -> None:
        """Let go what is above `burst`."""
        self.level = min(self.level, self.burst)

    def _refill(self, now: float) -> None:
        if self.level < self.burst:
            self.level = min(self.burst, self.level + (now - self._refilled_s) * self.per_second)
        self._refilled_s = now

    def _has_room(self, tokens: int, now: float) -> bool:
        if self._window_tokens + tokens <= self._window_max():
            return True
        self._expire(now)
        return self._window_tokens + tokens <= self._window_max() or self._window_tokens <= 0

    def _window_max(self) -> float:
        """How many tokens a minute may hold: the less, the further estimates were below the truth."""
        spread = SPREAD * self._shortfall * math.sqrt(self._unsettled_then + 1)
        return self.per_minute - min(spread, SPREAD_SHARE_MAX * self.per_minute)

    def _expire(self, now: float) -> None:
        slots = self._slots
        while slots and slots[0].last_s + WINDOW_S <= now:
            slot = slots.popleft()
            slot.in_window = False
            self._window_tokens -= slot.tokens


class Reservation(msgspec.Struct, eq=False):
    """Tokens that one request may use. Settle it once its usage is known; what comes later changes nothing."""

    _bucket: "TokenBucket"
    _slot: Slot
    estimate: int
    _is_open: bool = True

    def settle(self, actual: int) -> None:
        """The request used `actual` tokens: give back what was not used, take what was used beyond."""
        if self._is_open:
            self._is_open = False
            self._bucket.settle(self._slot, actual - self.estimate)

    def keep(self) -> None:
        """What the request used is not known: the estimate stands."""
        self.settle(self.estimate)

    def cancel(self) -> None:
        """The request was never sent: give everything back. Harmless after `settle` or `keep`."""
        self.settle(0)


class TokenBucket:
    """At most `per_minute` tokens in any minute, paced, first in first out.

    Grants of at most 0.6 s worth come at once after a quiet time; see the module for the whole rule.
    While nothing waits there is no timer, no future and no task. While something waits there is one
    sleeping task, which ends before the last waiter leaves.

    Args:
        per_minute: What the provider allows; above 0.
        clock: Where monotonic time and sleep come from.
        share: Part of the allowance at which the bucket refills.
    """

    def __init__(self, per_minute: float, clock: Clock, *, share: float = SHARE) -> None:
        self._clock = clock
        self._monotonic = clock.monotonic
        self._meter = TokenMeter(per_minute, clock.monotonic(), share=share)
        self._queue: deque[tuple[int, asyncio.Future[Reservation]]] = deque()
        self._timer: asyncio.Task[None] | None = None
        self._timer_due_s = 0.0

    @property
    def meter(self) -> TokenMeter:
        """The arithmetic, to look at."""
        return self._meter

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return sum(not future.done() for _, future in self._queue)

    def try_reserve(self, estimate: int) -> Reservation | None:
        """A reservation if it can be had now and nobody waits; never waits itself."""
        if self._queue:
            return None
        slot = self._meter.take(estimate, self._monotonic())
        return None if slot is None else Reservation(self, slot, estimate)

    async def reserve(self, estimate: int) -> Reservation:
        """Wait for `estimate` tokens. A caller cancelled while it waits takes none."""
        if not self._queue:
            slot = self._meter.take(estimate, self._monotonic())
            if slot is not None:
                return Reservation(self, slot, estimate)
        future: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
        self._queue.append((estimate, future))
        self._grant()
        try:
            return await future
        except asyncio.CancelledError:
            # The grant may have come in the same turn of the loop as the cancellation.
            if future.done() and not future.cancelled():
                future.result().cancel()
            else:
                self._grant()
            raise

    def try_allot(self, tokens: int, calls: int) -> Slot | None:
        """That many tokens for each of some calls, where there is plenty and nobody waits; or None."""
        return None if self._queue else self._meter.allot(tokens, calls, self._monotonic())

    def give_back(self, slot: Slot, tokens: int, calls: int) -> None:
        """Of what was allotted, so many calls did not take theirs."""
        self._meter.give_back(slot, tokens, calls, self._monotonic())
        if self._queue:
            self._grant()
        self._meter.clamp()

    def settle(self, slot: Slot, difference: int) -> None:
        """Book the difference between estimate and truth; whoever can go now, goes. For `Reservation`."""
        self.settle_all(((slot, difference),))

    def settle_all(self, settled: Iterable[tuple[Slot, int]]) -> None:
        """Do for several grants what `settle` does for one."""
        self._meter.settle_all(settled, self._monotonic())
        if self._queue:
            self._grant()
        if self._meter.level > self._meter.burst:
            self._meter.clamp()

    def _grant(self) -> None:
        """Let everyone go who can, in order, and set the timer for the first who cannot."""
        now = self._monotonic()
        queue = self._queue
        while queue:
            tokens, future = queue[0]
            if not future.done():
                slot = self._meter.take(tokens, now)
                if slot is None:
                    break
                future.set_result(Reservation(self, slot, tokens))
            queue.popleft()
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        if not self._queue:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        wait_s = max(WAKE_S_MIN, self._meter.wait_s(self._queue[0][0], now))
        if self._timer is not None:
            # One that rings too early looks again and is set anew; only one too late must go.
            if self._timer_due_s <= now + wait_s:
                return
            self._timer.cancel()
        self._timer_due_s = now + wait_s
        self._timer = asyncio.get_running_loop().create_task(self._ring(wait_s))

    async def _ring(self, wait_s: float) -> None:
        await self._clock.sleep(wait_s)
        self._timer = None
        self._grant()

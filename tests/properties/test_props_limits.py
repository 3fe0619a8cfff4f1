"""Laws of the limits, over arbitrary traffic."""

import asyncio
import contextlib
import math
from collections import deque

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batcher.limits.breaker import Breaker
from batcher.limits.concurrency import Permits
from batcher.limits.pause import RETRY_AFTER_MAX_S, parse_retry_after
from batcher.limits.tokens import Reservation, TokenBucket, TokenMeter
from batcher.testing.clock import ManualClock, settle

PER_MINUTE = 6_000


@given(st.lists(st.tuples(st.integers(0, 3_000), st.floats(0, 20)), max_size=60))
def test_the_bucket_never_grants_more_than_rate_and_burst_over_any_span(asks: list[tuple[int, float]]) -> None:
    """Every span from one grant to another, both included."""
    meter, now, granted = TokenMeter(PER_MINUTE, 0.0), 0.0, list[tuple[float, int]]()
    for tokens, gap_s in asks:
        now += gap_s
        if meter.take(tokens, now) is not None:
            granted.append((now, tokens))
    for first in range(len(granted)):
        total, largest = 0, 0
        for at, tokens in granted[first:]:
            total, largest = total + tokens, max(largest, tokens)
            span_s = at - granted[first][0]
            assert total <= meter.per_second * span_s + max(meter.burst, largest) + 1e-3
            if span_s <= 60:
                assert total <= PER_MINUTE


@given(st.lists(st.tuples(st.integers(0, 9_000), st.floats(0, 20)), min_size=1, max_size=40))
@example([(0, 0.0), (6_001, 0.0)])
def test_the_wait_that_is_named_is_enough_and_not_too_long(asks: list[tuple[int, float]]) -> None:
    """After it the tokens are granted; a little before it they are not."""
    meter, now = TokenMeter(PER_MINUTE, 0.0), 0.0
    for tokens, gap_s in asks:
        now += gap_s
        wait_s = meter.wait_s(tokens, now)
        if wait_s > 0.01:
            assert meter.take(tokens, now + wait_s * 0.98) is None
        now += wait_s + 1e-6
        assert meter.take(tokens, now) is not None


@given(st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 2_000)), max_size=40))
def test_settling_books_what_was_used_and_nothing_else(uses: list[tuple[int, int]]) -> None:
    """At one moment, with nothing refilled: the level has lost the sum of the truth, or stands at a brim."""
    meter = TokenMeter(PER_MINUTE, 0.0)
    level = meter.level
    for estimate, actual in uses:
        slot = meter.take(estimate, 0.0)
        if slot is None:
            continue
        meter.settle(slot, actual - estimate, 0.0)
        meter.clamp()
        level = min(level - actual, meter.burst)
        assert level == pytest.approx(meter.level, abs=1e-6)


@given(
    st.lists(
        st.tuples(st.integers(0, 300), st.integers(1, 9), st.integers(0, 9), st.lists(st.integers(0, 600), max_size=9)),
        max_size=20,
    )
)
def test_what_is_allotted_is_booked_as_if_taken_one_by_one(rounds: list[tuple[int, int, int, list[int]]]) -> None:
    """Some calls take nothing, the others use what they use: the minute holds that, and nobody is out at the end."""
    meter, used, now = TokenMeter(PER_MINUTE, 0.0), 0, 0.0
    for tokens, calls, fewer, actual in rounds:
        now += 0.1
        before = meter.level
        slot = meter.allot(tokens, calls, now)
        if slot is None:
            continue
        assert before + 0.1 * meter.per_second - tokens * calls >= meter.burst / 2 - 1e-6
        unused = min(fewer, calls)
        meter.give_back(slot, tokens, unused, now)
        ends = (actual + [0] * calls)[: calls - unused]
        meter.settle_all([(slot, end - tokens) for end in ends], now)
        meter.clamp()
        used += sum(ends)
        assert used == meter._window_tokens
        assert meter.level <= meter.burst
        assert meter._unsettled == 0


@given(
    st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "date", "Retry-After"]), st.text()),
    st.floats(0, 4e9),
)
def test_no_header_breaks_the_reading(headers: dict[str, str], now: float) -> None:
    """Servers send anything."""
    wait_s = parse_retry_after(headers, now)
    assert wait_s is None or 0 <= wait_s <= RETRY_AFTER_MAX_S


class Traffic(RuleBasedStateMachine):
    """Permits and tokens under arrivals, ends, cancellations and time, on one loop."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.permits = Permits(3)
        self.bucket = self.runner.run(self.make_bucket())
        self.start_s = self.clock.monotonic()
        self.tasks: deque[asyncio.Task[None]] = deque()
        self.ends: dict[int, asyncio.Event] = {}
        self.granted: list[int] = []
        self.used = 0
        self.largest = 0
        self.number = 0

    async def make_bucket(self) -> TokenBucket:
        return TokenBucket(PER_MINUTE, self.clock)

    async def call(self, number: int, estimate: int, actual: int) -> None:
        await self.permits.acquire()
        reservation: Reservation | None = None
        try:
            reservation = await self.bucket.reserve(estimate)
            self.granted.append(number)
            await self.ends[number].wait()
            reservation.settle(actual)
            self.used += actual
        finally:
            if reservation is not None:
                reservation.cancel()
            self.permits.release()

    def step(self, seconds: float = 0.0) -> None:
        self.runner.run(self.clock.advance(seconds))

    @rule(estimate=st.integers(0, 400), less=st.integers(0, 100))
    def arrive(self, estimate: int, less: int) -> None:
        async def start() -> None:
            self.ends[self.number] = asyncio.Event()
            actual = max(0, estimate - less)
            self.largest = max(self.largest, estimate)
            self.tasks.append(asyncio.ensure_future(self.call(self.number, estimate, actual)))
            self.number += 1
            await settle()

        self.runner.run(start())

    @precondition(lambda self: self.granted)
    @rule(index=st.integers(0, 100))
    def end(self, index: int) -> None:
        self.ends[self.granted[index % len(self.granted)]].set()
        self.step()

    @precondition(lambda self: self.tasks)
    @rule(index=st.integers(0, 100), together=st.booleans())
    def cancel(self, index: int, together: bool) -> None:
        if together and self.granted:
            # In the same turn in which another one ends and hands over what it held.
            self.ends[self.granted[-1]].set()
        self.tasks[index % len(self.tasks)].cancel()
        self.step()

    @rule(seconds=st.floats(0, 5))
    def pass_time(self, seconds: float) -> None:
        self.step(seconds)

    @rule(permits_max=st.integers(1, 5))
    def resize(self, permits_max: int) -> None:
        self.permits.resize(permits_max)
        self.step()

    @invariant()
    def grants_go_in_order(self) -> None:
        assert sorted(self.granted) == self.granted

    @invariant()
    def permits_out_are_those_of_living_calls(self) -> None:
        living = sum(not task.done() for task in self.tasks)
        assert self.permits.in_use + self.permits.waiting == living

    @invariant()
    def nobody_waits_for_a_permit_that_is_free(self) -> None:
        assert self.permits.waiting == 0 or self.permits.in_use >= self.permits.permits_max

    @invariant()
    def what_was_used_is_within_the_rate(self) -> None:
        meter = self.bucket.meter
        elapsed_s = self.clock.monotonic() - self.start_s
        assert self.used <= meter.per_second * elapsed_s + max(meter.burst, self.largest) + 1e-3

    @invariant()
    def a_timer_runs_only_while_somebody_waits(self) -> None:
        assert self.clock.sleepers == (1 if self.bucket.waiting else 0)

    def teardown(self) -> None:
        async def finish() -> None:
            for task in self.tasks:
                task.cancel()
            for task in self.tasks:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await settle()
            assert (0, 0) == (self.permits.in_use, self.permits.waiting)
            assert (0, 0) == (self.bucket.waiting, self.clock.sleepers)
            assert self.bucket.meter._unsettled == 0

        self.runner.run(finish())
        self.runner.close()


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class BreakerMachine(RuleBasedStateMachine):
    """The breaker under any order of results."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(failure_threshold=3, recovery_s=10.0)
        self.out: list[tuple[int, bool]] = []
        self.changes = 0
        self.was_open = False
        self.breaker.on_change(self.count_change)

    def count_change(self) -> None:
        self.changes += 1

    @rule()
    def enter(self) -> None:
        wait_s = self.breaker.can_pass(self.now)
        ticket = self.breaker.enter(self.now)
        assert (ticket is not None) == (wait_s == 0)
        if ticket is not None:
            self.out.append((ticket, self.breaker.is_open))

    @precondition(lambda self: self.out)
    @rule(index=st.integers(0, 100), row=st.integers(0, 3), reached=st.booleans())
    def fail(self, index: int, row: int, reached: bool) -> None:
        ticket, _ = self.out.pop(index % len(self.out))
        counts = self.breaker.record_failure(ticket, row, reached=reached, now=self.now)
        assert not (counts and self.breaker.is_open)
        assert not (counts and not reached)

    @precondition(lambda self: self.out)
    @rule(index=st.integers(0, 100), row=st.integers(0, 3))
    def succeed(self, index: int, row: int) -> None:
        ticket, was_probe = self.out.pop(index % len(self.out))
        was_open = self.breaker.is_open
        self.breaker.record_success(ticket, row, self.now)
        if was_open and not self.breaker.is_open:
            assert was_probe

    @precondition(lambda self: self.out)
    @rule(index=st.integers(0, 100))
    def abandon(self, index: int) -> None:
        ticket, _ = self.out.pop(index % len(self.out))
        self.breaker.abandon(ticket)

    @rule(seconds=st.floats(0, 30))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def it_is_never_stuck(self) -> None:
        """Either a wait has an end, or a probe is out."""
        wait_s = self.breaker.can_pass(self.now)
        assert wait_s <= 10.000001 or (wait_s == math.inf and any(is_probe for _, is_probe in self.out))

    @invariant()
    def every_opening_and_closing_is_told(self) -> None:
        if self.breaker.is_open != self.was_open:
            assert self.changes > 0
        self.was_open, self.changes = self.breaker.is_open, 0

    @invariant()
    def the_outage_is_measured(self) -> None:
        assert (self.breaker.open_since is not None) == self.breaker.is_open
        assert self.breaker.outage_s(self.now) >= 0


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)

"""The gate and the pool against whatever a night brings: answers, failures of each kind, cancels, time.

Every call on the wire is held until the machine decides what becomes of it. After each step nothing may be held
that is not in use, and at the end nothing at all.
"""

import asyncio
import random
from dataclasses import dataclass
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batcher.core.contracts import Caller, CallError
from batcher.core.flight import Flight
from batcher.core.progress import Progress
from batcher.core.records import Reply, Request, Spend, Usage
from batcher.errors import BatcherError
from batcher.limits.breaker import Breaker
from batcher.limits.concurrency import Permits
from batcher.limits.estimate import TokenEstimator
from batcher.limits.pause import Pause
from batcher.limits.rate import RequestRate
from batcher.limits.tokens import TokenBucket
from batcher.providers import allotment
from batcher.providers.gated import GatedCaller
from batcher.providers.pool import Pool
from batcher.providers.room import LimitSet, Room
from batcher.providers.turnstile import Turnstile
from batcher.testing.clock import LoopClock, SimulatedLoop
from batcher.testing.fakes import ONE_CALL, request

KEY_PERMITS, ALL_PERMITS, KEYS = 3, 4, 2

KINDS = ["server", "connection", "timeout", "bad_response", "rate_limited", "bad_request", "auth", "quota"]


class Held:
    """Keeps `Caller`: a call stays on the wire until it is told what becomes of it."""

    def __init__(self, machine: "GateMachine", key: int) -> None:
        self._machine, self._key = machine, key

    async def call(self, request: Request) -> Reply:
        self._machine.begins(self._key)
        one = OnWire(self._key, asyncio.get_running_loop().create_future(), self._machine.parts.breaker.is_open)
        self._machine.wire.append(one)
        try:
            return await one.fate
        finally:
            self._machine.wire.remove(one)


@dataclass(eq=False)
class OnWire:
    key: int
    fate: "asyncio.Future[Reply]"
    is_probe: bool


@dataclass
class Parts:
    """What the machine looks at."""

    caller: Caller
    breaker: Breaker
    turnstile: Turnstile
    key_permits: list[Permits]
    all_permits: Permits
    tokens: list[TokenBucket]


def gated_pool(
    machine: "GateMachine", clock: LoopClock, progress: Progress, flight: Flight, *, tokens: int | None, rpm: int | None
) -> Parts:
    """Two keys of one provider behind every limit there is. The only place that knows how they are put together."""
    breaker = Breaker(failure_threshold=2, recovery_s=20.0)
    # No outage is too long here: a row that is told so has been forgotten by those who should wake it.
    turnstile = Turnstile(
        breaker, name="provider p", max_outage_s=1e9, clock=clock, progress=progress, tell=lambda _: None
    )
    all_permits, estimator = Permits(ALL_PERMITS), TokenEstimator()
    key_permits = [Permits(KEY_PERMITS) for _ in range(KEYS)]
    buckets = [] if tokens is None else [TokenBucket(tokens, clock) for _ in range(KEYS)]
    gates = [
        GatedCaller(
            Held(machine, key),
            name=f"key {key}",
            room=Room(
                (
                    LimitSet(all_permits),
                    LimitSet(
                        key_permits[key], None if rpm is None else RequestRate(rpm), buckets[key] if buckets else None
                    ),
                ),
                estimator=estimator,
                output_max=20,
                wall=None,
                clock=clock,
                progress=progress,
            ),
            pause=Pause(random.Random(key)),
            turnstile=turnstile,
            clock=clock,
            progress=progress,
            flight=flight,
        )
        for key in range(KEYS)
    ]
    return Parts(
        Pool(gates, clock=clock, progress=progress, tell=lambda _: None),
        breaker,
        turnstile,
        key_permits,
        all_permits,
        buckets,
    )


class GateMachine(RuleBasedStateMachine):
    """The model knows what is on the wire, and until when each key was told to rest."""

    @initialize(
        tokens=st.sampled_from([None, 3_000, 60_000]),
        rpm=st.sampled_from([None, 60, 6_000]),
        allots=st.booleans(),
    )
    def begin(self, tokens: int | None, rpm: int | None, allots: bool) -> None:
        # A few calls are many enough to take what they need together, or none are.
        self.patched = mock.patch.object(allotment, "CALLS_MIN", 1 if allots else 10**9)
        self.patched.start()
        self.runner = asyncio.Runner(loop_factory=SimulatedLoop)
        self.clock, self.progress, self.flight = LoopClock(), Progress(), Flight()
        self.wire: list[OnWire] = []
        self.tasks: list[asyncio.Task[Reply]] = []
        self.rests_until_s = [0.0] * KEYS
        self.rows = 0

        async def make() -> None:
            self.parts = gated_pool(self, self.clock, self.progress, self.flight, tokens=tokens, rpm=rpm)

        self.runner.run(make())

    def begins(self, key: int) -> None:
        """A call goes out, now."""
        now_s = self.clock.monotonic()
        assert now_s >= self.rests_until_s[key] - 1e-3, "a call began while its key was told to rest"
        assert not self.flight.is_closed

    def let_run(self, seconds: float = 0.001) -> None:
        self.runner.run(asyncio.sleep(seconds))

    @rule(count=st.integers(1, 6))
    def ask(self, count: int) -> None:
        async def one(row: int) -> Reply:
            try:
                return await self.parts.caller.call(request(row, b"x" * 200))
            finally:
                self.flight.leave()

        async def start() -> None:
            for _ in range(count):
                self.tasks.append(asyncio.get_running_loop().create_task(one(self.rows)))
                self.rows += 1

        self.runner.run(start())
        self.let_run()

    @precondition(lambda self: self.wire)
    @rule(pick=st.integers(0, 99), has_usage=st.booleans())
    def answer(self, pick: int, has_usage: bool) -> None:
        spend = ONE_CALL if has_usage else Spend(1, None, None)
        fate = self.wire[pick % len(self.wire)].fate
        fate.set_result(Reply("yes", spend, latency_ms=1.0, provider="p"))
        self.let_run()

    @precondition(lambda self: self.wire)
    @rule(
        pick=st.integers(0, 99),
        kind=st.sampled_from(KINDS),
        reached=st.booleans(),
        retry_after_s=st.none() | st.sampled_from([0.0, 0.5, 8.0, 45.0]),
        is_billed=st.booleans(),
    )
    def fail(self, pick: int, kind: str, reached: bool, retry_after_s: float | None, is_billed: bool) -> None:
        one = self.wire[pick % len(self.wire)]
        spend = Spend(1, Usage(input=10, output=2), None) if is_billed else Spend(1)
        if kind == "rate_limited" and retry_after_s:
            until_s = self.parts_now() + retry_after_s
            self.rests_until_s[one.key] = max(self.rests_until_s[one.key], until_s)
        error = CallError("made to fail", kind=kind, reached=reached, retry_after_s=retry_after_s, spend=spend)  # type: ignore[arg-type]
        one.fate.set_exception(error)
        self.let_run()

    def parts_now(self) -> float:
        return self.runner.get_loop().time()

    @precondition(lambda self: any(not task.done() for task in self.tasks))
    @rule(picks=st.lists(st.integers(0, 99), min_size=1, max_size=4), turns=st.integers(0, 4), answers=st.booleans())
    def cancel(self, picks: list[int], turns: int, answers: bool) -> None:
        """At any await: also in the very turn in which a permit, an answer or the place of a probe is handed over."""

        async def cancel_some() -> None:
            if answers and self.wire:
                self.wire[0].fate.set_result(Reply("yes", ONE_CALL, latency_ms=1.0, provider="p"))
            for pick in picks:
                for _ in range(turns):
                    await asyncio.sleep(0)
                if alive := [task for task in self.tasks if not task.done()]:
                    alive[pick % len(alive)].cancel()

        self.runner.run(cancel_some())
        self.let_run()

    @rule(seconds=st.sampled_from([0.01, 0.7, 5.0, 25.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.let_run(seconds)

    @invariant()
    def what_is_held_is_in_use(self) -> None:
        if not hasattr(self, "parts"):
            return
        on_wire = [sum(one.key == key for one in self.wire) for key in range(KEYS)]
        assert sum(on_wire) == self.progress.in_flight
        waiting = {reason: wait.rows for reason, wait in self.progress.waits.items()}
        assert all(rows >= 0 for rows in waiting.values()), waiting
        assert sum(on_wire) <= self.parts.all_permits.in_use <= ALL_PERMITS
        for key, permits in enumerate(self.parts.key_permits):
            assert on_wire[key] <= permits.in_use <= KEY_PERMITS
        if not waiting.get("rate_limit"):
            # Only who waits for requests or tokens a minute holds a place without a call.
            assert sum(on_wire) == sum(permits.in_use for permits in self.parts.key_permits)
        if self.parts.breaker.is_open:
            assert sum(one.is_probe for one in self.wire) <= 1, "more than one call tries a provider that is down"
        assert sum(bucket.meter._unsettled for bucket in self.parts.tokens) <= self.parts.all_permits.in_use

    def teardown(self) -> None:
        if not hasattr(self, "parts"):
            return
        self.finish_all()
        self.patched.stop()
        for task in self.tasks:
            assert task.done()
            if not task.cancelled() and (error := task.exception()) is not None:
                assert isinstance(error, BatcherError), error
        assert [0] * KEYS == [permits.in_use for permits in self.parts.key_permits]
        assert (0, 0) == (self.parts.all_permits.in_use, self.parts.all_permits.waiting)
        assert [] == [bucket for bucket in self.parts.tokens if bucket.waiting or bucket.meter._unsettled]
        assert {} == {reason: wait.rows for reason, wait in self.progress.waits.items() if wait.rows}
        assert (0, 0) == (self.progress.in_flight, len(self.flight))
        assert not asyncio.all_tasks(self.runner.get_loop())
        self.runner.close()

    def finish_all(self) -> None:
        """Answer whatever comes until all rows have theirs; hours may pass, but not days."""
        for _ in range(400):
            if all(task.done() for task in self.tasks):
                return
            for one in list(self.wire):
                if not one.fate.done():
                    one.fate.set_result(Reply("yes", ONE_CALL, latency_ms=1.0, provider="p"))
            self.let_run(10.0)
        raise AssertionError(f"rows are stuck: {self.progress.waits}")


TestGate = GateMachine.TestCase
TestGate.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

"""The breaker under hours of traffic, in virtual time: noise does not open it, outages do, and no row loses its tries.

Calls in flight, backoffs, probes and poisoned rows are played by one heap of moments; chance comes from a seed.
"""

import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from batcher.limits.breaker import Breaker
from batcher.limits.offenders import OFFENDERS_MAX

TRIES_MAX = 5


@dataclass
class Seen:
    """What became of the rows."""

    opened_s: list[float] = field(default_factory=list)
    open_for_s: float = 0.0
    answered: int = 0
    lost: int = 0
    set_aside: int = 0
    canaries: int = 0
    ended_s: float = 0.0
    last_taken_s: float = 0.0


class Traffic:
    """Rows through a breaker at `per_s` calls a second, as the engine, the gate and the retries move them.

    Args:
        fails: The share of calls that fail at a moment.
        latency_s: Of a call, give or take 30 %.
        poison: The share of rows that always fail.
        fails_in_s: What a call takes that will fail, decided when it is sent; None: as long as others.
        rows: How many there are; None for no end.
    """

    def __init__(
        self,
        fails: Callable[[float], float],
        *,
        per_s: float,
        latency_s: float = 1.0,
        poison: float = 0.0,
        fails_in_s: float | None = None,
        rows: int | None = None,
        seed: int = 1,
    ) -> None:
        self.breaker = Breaker()
        self.seen = Seen()
        self.fails, self.latency_s, self.poison, self.rows = fails, latency_s, poison, rows
        self.fails_in_s = fails_in_s
        self.chance = random.Random(seed)
        self.permits = max(1, round(per_s * latency_s))
        self.now = 0.0
        self.ready: deque[int] = deque()
        self.moments: list[tuple[float, int, str, int, int]] = []
        self.tried: Counter[int] = Counter()
        self.poisoned: set[int] = set()
        self.next_row = self.number = self.in_flight = 0
        for _ in range(self.permits + min(1024, max(16, self.permits // 2))):
            self.take()

    def take(self) -> None:
        if self.rows is None or self.next_row < self.rows:
            if self.chance.random() < self.poison:
                self.poisoned.add(self.next_row)
            self.ready.append(self.next_row)
            self.next_row += 1
            self.seen.last_taken_s = self.now

    def run(self, until_s: float, *, calls_max: float = math.inf) -> Seen:
        now, breaker = 0.0, self.breaker
        while now < until_s and self.number < calls_max:
            while self.ready and self.in_flight < self.permits and breaker.can_pass(now) == 0.0:
                self.send(now)
            next_s = self.moments[0][0] if self.moments else math.inf
            if self.ready and self.in_flight < self.permits:
                next_s = min(next_s, now + breaker.can_pass(now) + 1e-9)
            if next_s == math.inf:
                break
            was_open_s, now = breaker.open_since, next_s
            if self.moments and self.moments[0][0] <= now:
                self.come(*heapq.heappop(self.moments))
            if was_open_s is None and breaker.open_since is not None:
                self.seen.opened_s.append(now)
            elif was_open_s is not None and breaker.open_since is None:
                self.seen.open_for_s += now - was_open_s
        self.seen.ended_s = now
        return self.seen

    def send(self, now: float) -> None:
        place = 0
        if self.breaker.is_open:
            fresh = (place for place, row in enumerate(self.ready) if not self.breaker.is_offender(row))
            place = next(fresh, 0)
        row = self.ready[place]
        del self.ready[place]
        ticket = self.breaker.enter(now)
        assert ticket is not None
        self.in_flight += 1
        if self.fails_in_s is None:
            self.later(now + self.latency_s * self.chance.uniform(0.7, 1.3), "end", row, ticket)
            return
        is_failure = row in self.poisoned or self.chance.random() < self.fails(now)
        latency_s = self.fails_in_s if is_failure else self.latency_s
        what = "fails" if is_failure else "answers"
        self.later(now + latency_s * self.chance.uniform(0.7, 1.3), what, row, ticket)

    def later(self, at: float, what: str, row: int, ticket: int = 0) -> None:
        self.number += 1
        heapq.heappush(self.moments, (at, self.number, what, row, ticket))

    def come(self, now: float, _: int, what: str, row: int, ticket: int) -> None:
        self.now = now
        if what == "back":
            self.ready.append(row)
            return
        self.in_flight -= 1
        is_answer = (
            row not in self.poisoned and self.chance.random() >= self.fails(now) if what == "end" else what == "answers"
        )
        if is_answer:
            self.breaker.record_success(ticket, row, now)
            self.seen.answered += 1
            self.tried.pop(row, None)
            self.take()
            return
        self.tried[row] += self.breaker.record_failure(ticket, row, reached=True, now=now)
        if all(self.breaker.is_offender(other) for other in self.ready) and self.breaker.begin_canary(row, now):
            self.seen.canaries += 1
            self.breaker.record_canary(now, is_up=self.chance.random() >= self.fails(now))
        if self.tried[row] >= TRIES_MAX:
            del self.tried[row]
            self.seen.lost += row not in self.poisoned
            self.seen.set_aside += row in self.poisoned
            self.take()
            return
        backoff_s = 2.0 ** max(0, self.tried[row] - 1) * self.chance.uniform(0.5, 1.0)
        self.later(now + backoff_s, "back", row)


HOUR_S = 3600.0


def always(share: float) -> Callable[[float], float]:
    return lambda _: share


def outage(share: float, *, from_s: float = 30.0, until_s: float = math.inf) -> Callable[[float], float]:
    return lambda now: share if from_s <= now < until_s else 0.0


@pytest.mark.parametrize("per_s", [1, 5, 50, 5_000])
@pytest.mark.parametrize("share", [0.09, 0.3])
def test_noise_does_not_open_it(share: float, per_s: int) -> None:
    """An hour at low rates, 60,000 calls at high ones. At 9 %, and at 30 %, a row now and then is just unlucky."""
    seen = Traffic(always(share), per_s=per_s, seed=5).run(HOUR_S, calls_max=60_000)

    assert [] == seen.opened_s
    assert seen.lost <= 1 + seen.answered * 0.09**TRIES_MAX * 2


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.09, 0.3])
@pytest.mark.parametrize("per_s", [1, 5, 50, 500, 5_000])
def test_noise_does_not_open_it_for_long(share: float, per_s: int) -> None:
    """Up to 20 hours, or four million calls."""
    seeds = max(1, min(20, 400 // per_s))
    hours = [Traffic(always(share), per_s=per_s, seed=seed).run(HOUR_S, calls_max=4e6) for seed in range(seeds)]

    assert sum(len(seen.opened_s) for seen in hours) <= 0.1 * seeds
    assert sum(seen.open_for_s for seen in hours) <= 0.002 * sum(seen.ended_s for seen in hours)


@pytest.mark.parametrize("share", [0.8, 0.9, 1.0])
@pytest.mark.parametrize(("per_s", "latency_s", "within_s"), [(3, 1, 12), (5, 1, 8), (50, 1, 1), (2_000, 0.1, 0.1)])
def test_an_outage_opens_it_soon_and_costs_no_row_its_tries(
    share: float, per_s: int, latency_s: float, within_s: float
) -> None:
    """Whole or in part, at any rate; five minutes long, with rows on their way through it again and again."""
    traffic = Traffic(outage(share, until_s=330.0), per_s=per_s, latency_s=latency_s, seed=3)

    seen = traffic.run(400.0, calls_max=100_000)

    assert 30.0 <= seen.opened_s[0] <= 30.0 + within_s
    assert 0 == seen.lost
    assert 0 == seen.canaries, "rows that had not failed were there to probe with"


def test_a_full_outage_opens_it_at_the_threshold() -> None:
    """On a provider that was well, each failure that comes is one of five: about a second at 5 calls/s."""
    traffic = Traffic(outage(1.0), per_s=5)

    seen = traffic.run(60.0)

    assert 30.0 < seen.opened_s[0] < 31.5


@pytest.mark.parametrize(("per_s", "latency_s"), [(5, 1), (50, 1), (1_000, 0.1)])
def test_half_of_the_backends_dead_costs_no_row_its_tries_and_calls_go_on(per_s: int, latency_s: float) -> None:
    """From one moment to the next every second call fails, for ten minutes."""
    seen = Traffic(outage(0.5), per_s=per_s, latency_s=latency_s, seed=2).run(630.0, calls_max=150_000)

    assert 0 == seen.lost
    assert seen.open_for_s < 0.35 * seen.ended_s


@pytest.mark.parametrize(("share", "per_s", "latency_s"), [(0.3, 40, 0.5), (0.5, 500, 0.5), (0.5, 2_000, 0.5)])
def test_a_dead_backend_that_fails_before_a_live_one_answers_is_weather_from_the_first_call_on(
    share: float, per_s: int, latency_s: float
) -> None:
    """A load balancer refuses its share within milliseconds, so a run begins with a burst of failures and nothing
    else. What was on its way then is answered, and so the next such burst opens nothing."""
    traffic = Traffic(always(share), per_s=per_s, latency_s=latency_s, fails_in_s=0.003, seed=2)

    seen = traffic.run(600.0, calls_max=150_000)

    assert 0 == seen.lost
    assert len(seen.opened_s) <= 6
    assert seen.open_for_s < 0.2 * seen.ended_s


def test_an_outage_after_such_weather_is_seen_within_seconds() -> None:
    """What a burst may bring has a bound; and no row loses its tries meanwhile."""
    shares = [(0.0, 0.5), (200.0, 0.0), (260.0, 1.0)]
    traffic = Traffic(
        lambda now: [share for since_s, share in shares if now >= since_s][-1],
        per_s=50, latency_s=0.5, fails_in_s=0.003, seed=2,
    )  # fmt: skip

    seen = traffic.run(300.0)

    assert 0 == seen.lost
    assert 260.0 <= next(at for at in seen.opened_s if at > 210.0) < 264.0


@pytest.mark.parametrize("poison", [0.001, 0.02, 0.1, 0.2])
def test_poisoned_rows_are_set_aside_and_hold_up_nobody(poison: float) -> None:
    """Each fails its own five tries while the others are answered. The breaker may open once only those that were
    taken last are left, and a canary closes it."""
    traffic = Traffic(always(0.0), per_s=50, poison=poison, rows=4_000, seed=4)

    seen = traffic.run(HOUR_S)

    assert all(at > seen.last_taken_s for at in seen.opened_s)
    assert seen.canaries <= 1
    assert (4_000 - len(traffic.poisoned), len(traffic.poisoned)) == (seen.answered, seen.set_aside)


def test_a_tail_of_poisoned_rows_ends_by_a_canary() -> None:
    """Nobody is left to be answered, so that the rows themselves cannot tell: a request of our own does."""
    traffic = Traffic(always(0.0), per_s=5, rows=3)
    traffic.poisoned = {0, 1, 2}

    seen = traffic.run(HOUR_S)

    assert 3 == seen.set_aside
    assert 1 == seen.canaries
    assert seen.ended_s < 120.0


def test_what_is_remembered_of_rows_has_an_end() -> None:
    """A million rows that fail and are never heard of again."""
    breaker = Breaker(failure_threshold=1_000_000)
    ticket = breaker.enter(0.0)
    assert ticket is not None
    for row in range(3 * OFFENDERS_MAX):
        breaker.record_failure(ticket, row, reached=True, now=row * 1e-4)

    assert not breaker.is_offender(0)
    assert breaker.is_offender(3 * OFFENDERS_MAX - 1)
    assert OFFENDERS_MAX == len(breaker._offenders)
    assert OFFENDERS_MAX >= len(breaker._streak)

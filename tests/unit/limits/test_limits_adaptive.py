"""`concurrency: auto` against models of servers: a number that finds what each can do, and follows it."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.limits.adaptive import AdaptiveConcurrency
from batcher.limits.concurrency import Permits
from batcher.limits.pause import Pause
from batcher.testing.clock import SimulatedLoop

Latency = Callable[[], float]


class RefusalError(Exception):
    """A 429."""


class BrokenError(Exception):
    """A 503."""


@dataclass
class QueueingServer:
    """Serves `slots` at once and lets the rest wait in line, as servers do that people run themselves."""

    slots: int
    latency: Latency
    line: deque[asyncio.Future[None]] = field(default_factory=deque)
    busy: int = 0

    async def serve(self) -> None:
        place = asyncio.get_running_loop().create_future()
        self.line.append(place)
        self._hand_out()
        try:
            await place
            await asyncio.sleep(self.latency())
        finally:
            if place in self.line:
                self.line.remove(place)
            elif place.done() and not place.cancelled():
                self.busy -= 1
            self._hand_out()

    def _hand_out(self) -> None:
        while self.line and self.busy < self.slots:
            place = self.line.popleft()
            if not place.done():
                self.busy += 1
                place.set_result(None)


@dataclass
class RefusingServer:
    """Answers an error to whatever comes while `slots` are taken."""

    slots: int
    latency: Latency
    error: type[Exception] = RefusalError
    busy: int = 0

    async def serve(self) -> None:
        if self.busy >= self.slots:
            await asyncio.sleep(0.01)
            raise self.error
        self.busy += 1
        try:
            await asyncio.sleep(self.latency())
        finally:
            self.busy -= 1


@dataclass
class Seen:
    """When what happened, in seconds."""

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    limits: list[tuple[float, int]] = field(default_factory=list)
    queues: list[tuple[float, int]] = field(default_factory=list)

    def rate(self, start_s: float, end_s: float) -> float:
        return sum(start_s <= at < end_s for at in self.answered) / (end_s - start_s)

    def refused_share(self, start_s: float, end_s: float) -> float:
        refused = sum(start_s <= at < end_s for at in self.refused)
        return refused / (refused + self.rate(start_s, end_s) * (end_s - start_s))

    def queue_max(self, start_s: float, end_s: float) -> int:
        return max(length for at, length in self.queues if start_s <= at < end_s)


class Key:
    """One key of a provider: the controller, its permits, and the pause after a refusal."""

    def __init__(self, server: QueueingServer | RefusingServer, timeout_s: float | None) -> None:
        self.server, self.timeout_s = server, timeout_s
        self.controller, self.pause = AdaptiveConcurrency(), Pause(random.Random(3))
        self.permits = Permits(self.controller.limit)
        self.in_flight = 0
        self.seen = Seen()
        self.clock = asyncio.get_running_loop().time

    async def work(self) -> None:
        while True:
            await self.permits.acquire()
            try:
                if (rest_s := self.pause.remaining_s(self.clock())) == 0:
                    await self.call()
            finally:
                self.permits.release()
            if rest_s > 0:
                await asyncio.sleep(rest_s)

    async def call(self) -> None:
        started_s = self.clock()
        self.in_flight += 1
        try:
            async with asyncio.timeout(self.timeout_s):
                await self.server.serve()
            self.seen.answered.append(self.clock())
            self.pause.succeeded(started=started_s)
            has_changed = self.controller.succeeded(started_s, self.clock(), self.in_flight)
        except RefusalError:
            self.seen.refused.append(self.clock())
            self.pause.refused(self.clock(), started=started_s, retry_after_s=None)
            has_changed = self.controller.refused(started_s, self.clock(), self.in_flight)
        except BrokenError:
            has_changed = self.controller.failed()
        except TimeoutError:
            has_changed = self.controller.timed_out(started_s, self.clock(), self.in_flight)
        finally:
            self.in_flight -= 1
        if has_changed:
            self.permits.resize(self.controller.limit)
            self.seen.limits.append((self.clock(), self.controller.limit))

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            length = len(self.server.line) if isinstance(self.server, QueueingServer) else 0
            self.seen.queues.append((self.clock(), length))


def simulate(
    server: QueueingServer | RefusingServer,
    end_s: float,
    *,
    workers: int = 1_100,
    timeout_s: float | None = None,
    events: tuple[tuple[float, Callable[[], None]], ...] = (),
) -> Seen:
    """Workers with a row always in hand; `events` happen to the server at their seconds."""

    async def main() -> Seen:
        key, loop = Key(server, timeout_s), asyncio.get_running_loop()
        tasks = [asyncio.create_task(key.watch()), *(asyncio.create_task(key.work()) for _ in range(workers))]
        for at, event in events:
            loop.call_at(at, event)
        await asyncio.sleep(end_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return key.seen

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(main())


def steady(latency_s: float) -> Latency:
    return lambda: latency_s


def wandering(latency_s: float, seed: int = 5) -> Latency:
    """Lognormal with this mean: half are faster than 0.7 of it, one in twenty slower than 2.7 times."""
    chance = random.Random(seed)
    return lambda: latency_s * chance.lognormvariate(0, 0.8) / 1.377


@pytest.mark.parametrize("latency", [steady, wandering])
@pytest.mark.parametrize(
    ("slots", "latency_s", "end_s"), [(4, 0.05, 30), (4, 2.0, 400), (64, 0.05, 20), (64, 2.0, 200), (400, 2.0, 120)]
)
def test_a_server_that_queues_is_kept_busy_and_its_queue_short(
    slots: int, latency_s: float, end_s: float, latency: Callable[[float], Latency]
) -> None:
    """It never refuses: only the answers that more calls do not bring can say that there are enough."""
    seen = simulate(QueueingServer(slots, latency(latency_s)), end_s)
    # Two answers a second that wander tell too little in an hour; a long queue of them is still a short one.
    share, queue = (0.8, 6) if latency is wandering and slots == 4 else (0.9, 2)
    assert seen.rate(end_s / 2, end_s) >= share * slots / latency_s
    assert seen.queue_max(end_s / 2, end_s) <= queue * slots


@pytest.mark.parametrize(("slots", "latency_s", "end_s"), [(50, 0.05, 60), (50, 1.0, 200), (300, 2.0, 240)])
def test_a_server_that_refuses_is_used_and_hardly_refuses(slots: int, latency_s: float, end_s: float) -> None:
    """Once settled: at least 90 % of its slots, under 2 % refused."""
    seen = simulate(RefusingServer(slots, wandering(latency_s)), end_s, workers=700)
    assert seen.rate(end_s / 2, end_s) >= 0.9 * slots / latency_s
    assert seen.refused_share(end_s / 2, end_s) <= 0.02


def test_a_server_that_breaks_under_load_is_left_at_what_it_can_bear() -> None:
    """503 above 50 at once: growth that brings errors is taken back."""
    seen = simulate(RefusingServer(50, wandering(1.0), error=BrokenError), 160, workers=130)
    assert seen.rate(80, 160) >= 0.9 * 50


def test_a_server_that_slows_down_for_minutes_is_used_before_during_and_after() -> None:
    server = QueueingServer(64, wandering(0.5))

    def take(latency_s: float) -> Callable[[], None]:
        return lambda: setattr(server, "latency", wandering(latency_s))

    seen = simulate(server, 360, workers=400, events=((90, take(2.5)), (210, take(0.5))))
    assert seen.rate(45, 90) >= 0.9 * 128
    assert seen.rate(110, 210) >= 0.9 * 25.6
    assert seen.rate(230, 360) >= 0.9 * 128


def test_a_server_that_loses_its_slots_and_has_them_back_is_followed() -> None:
    server = RefusingServer(100, wandering(0.5))

    def have(slots: int) -> Callable[[], None]:
        return lambda: setattr(server, "slots", slots)

    seen = simulate(server, 360, workers=250, events=((80, have(40)), (160, have(100))))
    assert seen.rate(40, 80) >= 0.9 * 200
    assert seen.refused_share(100, 160) <= 0.02
    assert seen.rate(280, 360) >= 0.9 * 200


def test_a_queue_longer_than_the_timeout_is_cut() -> None:
    """From 64 slots to 4 with a timeout of 4 s: what had been right answers nobody any more."""
    server = QueueingServer(64, steady(1.0))

    def shrink() -> None:
        server.slots = 4

    seen = simulate(server, 300, workers=400, timeout_s=4.0, events=((60, shrink),))
    assert seen.limits[-1][1] <= 20
    assert seen.rate(200, 300) >= 0.9 * 4


def test_a_few_slow_calls_are_no_congestion() -> None:
    """One in fifty has no answer in time, whatever the load: a tail, which every provider has."""
    seen = simulate(QueueingServer(64, wandering(1.0)), 120, workers=400, timeout_s=4.0)
    assert seen.rate(60, 120) >= 0.9 * 64


class Feed:
    """Feeds a controller by hand, one call after the other, all of them used."""

    def __init__(self, controller: AdaptiveConcurrency) -> None:
        self.controller, self.now = controller, 100.0

    def round(self, latency_s: float = 1.0) -> None:
        """Answers until the limit changes, or for two rounds; all of a limit's calls come back at once."""
        for _ in range(2 * -(-48 // self.controller.limit)):
            started_s = self.now + 1e-6
            self.now += latency_s
            for _ in range(self.controller.limit):
                if self.controller.succeeded(started_s, self.now, self.controller.limit):
                    return

    def refuse(self, retry_after_s: float | None = None, *, started_s: float | None = None) -> bool:
        started_s = self.now + 1e-6 if started_s is None else started_s
        self.now += 0.01
        return self.controller.refused(started_s, self.now, self.controller.limit, retry_after_s)


def test_it_doubles_until_the_first_refusal_and_then_grows_by_a_twentieth() -> None:
    feed = Feed(AdaptiveConcurrency())
    limits = [feed.controller.limit]
    for _ in range(5):
        feed.round()
        limits.append(feed.controller.limit)
    assert [8, 16, 32, 64, 128, 256] == limits

    assert feed.refuse()
    assert 204 == feed.controller.limit
    feed.round()
    # The first round after a refusal holds a pause, and measures nothing; it is clean all the same.
    assert 215 == feed.controller.limit


def test_one_episode_is_cut_once() -> None:
    """A hundred calls in flight are refused together: the limit was too high once."""
    feed = Feed(AdaptiveConcurrency(start=100))
    started_s = feed.now
    assert feed.refuse(started_s=started_s + 0.001)
    for _ in range(99):
        assert not feed.refuse(started_s=started_s + 0.002)
    assert 80 == feed.controller.limit
    assert feed.refuse()
    assert 64 == feed.controller.limit


def test_a_refusal_that_names_a_long_wait_does_not_cut() -> None:
    """The minute is used up: fewer calls at once would not make it longer."""
    feed = Feed(AdaptiveConcurrency(start=100))
    assert not feed.refuse(retry_after_s=37.0)
    assert 100 == feed.controller.limit
    feed.round(latency_s=0.1)
    assert 100 == feed.controller.limit


def test_a_rate_that_was_learned_frees_the_growth_that_its_refusals_had_ended() -> None:
    """A minute was used up and cut the limit; from now on that minute is kept, and the limit may double again."""
    feed = Feed(AdaptiveConcurrency(start=40))
    feed.refuse()
    feed.controller.set_free()
    feed.round()
    assert 64 == feed.controller.limit


def test_a_limit_that_was_not_used_does_not_grow() -> None:
    """Five calls in flight under a limit of eight say nothing about nine."""
    controller = AdaptiveConcurrency()
    for number in range(1_000):
        assert not controller.succeeded(number, number + 1.0, 5)
    assert 8 == controller.limit


def test_errors_hold_growth_and_do_not_cut() -> None:
    feed = Feed(AdaptiveConcurrency(start=50))
    for _ in range(4):
        for _ in range(10):
            assert not feed.controller.failed()
        for _ in range(49):
            assert not feed.controller.succeeded(feed.now, feed.now + 1.0, 50)
        feed.now += 1.0
    assert 50 == feed.controller.limit


def test_errors_that_are_usual_hold_nothing() -> None:
    """One call in twenty fails at this provider, at any load: growth must not wait for a better one."""
    feed, number = Feed(AdaptiveConcurrency()), 0
    for _ in range(200):
        started_s = feed.now + 1e-6
        feed.now += 1.0
        for _ in range(feed.controller.limit):
            number += 1
            if number % 20 == 0:
                feed.controller.failed()
            else:
                feed.controller.succeeded(started_s, feed.now, feed.controller.limit)
    assert 1_024 == feed.controller.limit


@pytest.mark.parametrize(("start", "low", "high", "limit"), [(8, 1, 4, 4), (1, 3, 9, 3), (5, 5, 5, 5)])
def test_the_start_lies_within_the_bounds(start: int, low: int, high: int, limit: int) -> None:
    assert limit == AdaptiveConcurrency(start=start, limit_min=low, limit_max=high).limit


@pytest.mark.parametrize(("low", "high"), [(0, 4), (5, 4)])
def test_bounds_out_of_order_are_refused(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="bounds"):
        AdaptiveConcurrency(limit_min=low, limit_max=high)


ENDS = st.lists(
    st.tuples(
        st.sampled_from(["ok", "ok", "ok", "ok", "refused", "long", "timeout", "error"]),
        st.floats(0, 3),
        st.floats(0, 5),
        st.floats(0, 1.5),
        st.integers(1, 60),
    ),
    max_size=150,
)


@given(ENDS, st.integers(1, 40), st.integers(1, 8), st.integers(8, 64))
@settings(max_examples=200, deadline=None)
def test_laws_over_any_traffic(
    ends: list[tuple[str, float, float, float, int]], start: int, low: int, high: int
) -> None:
    """Never outside the bounds; grows only when answered; one cut an episode; True exactly if it changed."""
    controller, now = AdaptiveConcurrency(start=start, limit_min=low, limit_max=high), 10.0
    cut_s = -1.0
    for kind, gap_s, latency_s, used, repeat in ends:
        for _ in range(repeat):
            now += gap_s
            started_s, before = now - latency_s, controller.limit
            in_flight = max(1, int(before * used))
            if kind == "ok":
                has_changed = controller.succeeded(started_s, now, in_flight)
            elif kind == "error":
                has_changed = controller.failed()
            elif kind == "timeout":
                has_changed = controller.timed_out(started_s, now, in_flight)
            else:
                has_changed = controller.refused(started_s, now, in_flight, 60.0 if kind == "long" else None)
            assert has_changed == (controller.limit != before)
            assert low <= controller.limit <= high
            if kind != "ok":
                assert controller.limit <= before
            if kind in ("error", "long"):
                assert controller.limit == before
            if kind in ("refused", "timeout") and controller.limit < before:
                assert started_s > cut_s
                assert controller.limit >= int(before * 0.8)
                cut_s = now


@given(st.integers(0, 60), st.floats(0.01, 5))
@settings(deadline=None)
def test_a_round_with_a_refusal_does_not_grow(before: int, latency_s: float) -> None:
    """However many of its calls were answered before: the next growth needs a whole round after it."""
    feed = Feed(AdaptiveConcurrency(start=30))
    for _ in range(before):
        feed.controller.succeeded(feed.now, feed.now + latency_s, 30)
    limit = feed.controller.limit
    feed.refuse()
    cut_to = feed.controller.limit
    assert cut_to == int(limit * 0.8)
    for _ in range(cut_to - 1):
        assert not feed.controller.succeeded(feed.now + 0.1, feed.now + 0.1 + latency_s, cut_to)

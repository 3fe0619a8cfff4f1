"""The waiting room before a provider that is down: one probe at a time, first come first served, nobody forgotten."""

import asyncio

from gate_bench import MAX_OUTAGE_S, Provider
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.core.contracts import CallError
from batcher.errors import StoppedError
from batcher.testing.clock import settle
from batcher.testing.fakes import FakeCaller, failure, reply


async def test_a_shut_breaker_is_passed_without_a_turn() -> None:
    provider = Provider()
    assert await provider.turnstile.wait() is False
    assert provider.turnstile._timer is None


async def test_one_probe_at_a_time_goes_and_the_others_follow_its_success() -> None:
    provider, wire = Provider(), asyncio.Event()
    gate = provider.gate(FakeCaller(rows={0: [wire, reply()]}))
    provider.open()
    tasks = [gate.start(row) for row in range(20)]
    down_since_s = provider.now
    await provider.clock.advance(59)
    assert ([], {"breaker": 20}) == (gate.inner.requests, provider.waiting)

    await provider.clock.advance(2)
    assert [0] == [one.row for one in gate.inner.requests], "the first who came"
    await provider.clock.advance(500)
    assert 1 == len(gate.inner.requests), "a slow probe is waited for"
    assert down_since_s == provider.progress.down_since_s, "a probe is not the end of an outage"
    wire.set()
    await settle()

    assert all(task.done() for task in tasks)
    assert (None, 561.0) == (provider.progress.down_since_s, provider.progress.latest_outage_s)
    assert 2 == len(provider.told)
    gate.assert_balanced()


async def test_each_failed_probe_is_followed_by_the_next_row_after_the_recovery_time() -> None:
    provider = Provider()
    gate = provider.gate(FakeCaller([failure("server")]))
    provider.open()
    tasks = [gate.start(row) for row in range(5)]
    for number in range(1, 6):
        await provider.clock.advance(60.1)
        assert list(range(number)) == [one.row for one in gate.inner.requests]
    assert [False] * 5 == [task.exception().costs_try for task in tasks]


async def test_a_candidate_that_is_cancelled_passes_its_place_on() -> None:
    provider = Provider()
    gate = provider.gate()
    provider.open()
    first, second = gate.start(1), gate.start(2)
    await provider.clock.advance(59)
    provider.clock._monotonic_s += 2
    provider.turnstile._pump()
    first.cancel()
    await settle()

    assert first.cancelled()
    assert second.done()
    gate.assert_balanced()


async def test_a_probe_that_is_cancelled_on_the_wire_passes_its_place_on() -> None:
    provider = Provider()
    gate = provider.gate(FakeCaller(rows={1: [asyncio.Event(), reply()]}))
    provider.open()
    first, second = gate.start(1), gate.start(2)
    await provider.clock.advance(61)
    assert not second.done()

    first.cancel()
    await settle()

    assert second.done()
    gate.assert_balanced()


async def test_a_probe_of_a_key_that_rests_leaves_it_to_another_key() -> None:
    provider = Provider()
    resting, awake = provider.gate(), provider.gate()
    provider.open()
    first = resting.start(1)
    await settle()
    resting.pause.pause_until(provider.now + 3000)
    second = awake.start(2)
    await provider.clock.advance(61)

    assert second.done()
    assert not first.done()
    first.cancel()
    await settle()


async def test_a_probe_that_meets_a_429_does_not_close_the_breaker_nor_block_it() -> None:
    provider = Provider()
    limited = provider.gate(FakeCaller([failure("rate_limited", retry_after_s=5), reply()]))
    provider.open()
    first, second = limited.start(1), limited.start(2)
    await provider.clock.advance(60.5)
    assert "rate_limited" == first.exception().kind
    assert provider.breaker.is_open

    await provider.clock.advance(6)
    assert second.done()
    assert not provider.breaker.is_open


async def test_past_the_longest_outage_everyone_is_told_that_the_run_stops() -> None:
    provider = Provider()
    gate = provider.gate(FakeCaller([failure("server")]))
    provider.open()
    tasks = [gate.start(row) for row in range(100)]
    await provider.clock.advance(MAX_OUTAGE_S - 1)
    asked = len(gate.inner.requests)
    await provider.clock.advance(2)

    assert 25 < asked < 35
    assert all(task.done() for task in tasks)
    assert {StoppedError} == {type(task.exception()) for task in tasks[asked:]}
    late = gate.start(200)
    await settle()
    assert isinstance(late.exception(), StoppedError)
    gate.assert_balanced()


async def test_it_opens_again_after_it_closed() -> None:
    provider = Provider()
    gate = provider.gate()
    for _ in range(3):
        provider.open()
        task = gate.start()
        await provider.clock.advance(59)
        assert not task.done()
        await provider.clock.advance(2)
        assert task.done()
    assert 6 == len(provider.told)
    gate.assert_balanced()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.integers(0, 1)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("answer"), st.integers(0, 30)),
        st.tuples(st.just("fail"), st.integers(0, 30)),
        st.tuples(st.just("limit"), st.integers(0, 30)),
        st.tuples(st.just("turn"), st.integers(1, 3)),
        st.tuples(st.just("advance"), st.sampled_from([0.0, 0.5, 20.0, 61.0])),
    ),
    max_size=40,
)


class Wire(FakeCaller):
    """Each call waits for the test to say what comes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[asyncio.Future] = []

    async def call(self, request):
        future = asyncio.get_running_loop().create_future()
        self.open.append(future)
        self.in_flight += 1
        try:
            return await future
        finally:
            self.in_flight -= 1
            self.open.remove(future)


class Play:
    """Two keys of one provider, the rows at them, and a wire in the test's hands."""

    def __init__(self) -> None:
        self.provider, self.wire = Provider(threshold=2), Wire()
        self.keys = [self.provider.gate(self.wire, permits=2), self.provider.gate(self.wire, permits=3, tokens=60_000)]
        self.tasks: list[asyncio.Task] = []

    async def do(self, action: str, value) -> None:
        match action:
            case "start":
                self.tasks.append(self.keys[value].start(len(self.tasks)))
            case "cancel":
                _pick([task for task in self.tasks if not task.done()], value, lambda task: task.cancel())
            case "turn":
                for _ in range(value):
                    await asyncio.sleep(0)
            case "advance":
                await self.advance(value)
            case "answer":
                _pick(self.unanswered, value, lambda future: future.set_result(reply()))
            case "fail":
                _pick(self.unanswered, value, lambda future: future.set_exception(failure("server")))
            case "limit":
                limited = failure("rate_limited", retry_after_s=5)
                _pick(self.unanswered, value, lambda future: future.set_exception(limited))

    async def advance(self, seconds: float) -> None:
        was_open, before = self.provider.breaker.is_open, self.wire.in_flight
        await self.provider.clock.advance(seconds)
        if was_open and self.provider.breaker.is_open:
            assert self.wire.in_flight <= before + 1

    async def recover(self) -> None:
        """From now on every call is answered."""
        for _ in range(60):
            await self.provider.clock.advance(30)
            for future in self.unanswered:
                future.set_result(reply())
            await settle()

    @property
    def unanswered(self) -> list[asyncio.Future]:
        return [future for future in self.wire.open if not future.done()]


def _pick(among: list, number: int, do) -> None:
    if among:
        do(among[number % len(among)])


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_whatever_happens_nobody_is_forgotten(steps) -> None:
    """Starts, cancellations, answers and failures in any order: while it is open at most one probe is out, and when
    the provider is well again every row that was not cancelled has come through."""

    async def play() -> Play:
        play = Play()
        for action, value in steps:
            await play.do(action, value)
        await play.recover()
        return play

    played = asyncio.run(play())

    assert all(task.done() for task in played.tasks)
    kinds = {type(task.exception()) for task in played.tasks if not task.cancelled()}
    assert kinds <= {type(None), CallError}
    for key in played.keys:
        key.assert_balanced()


async def test_while_the_one_who_may_probe_waits_for_a_permit_nobody_else_is_sent_ahead() -> None:
    provider, wire = Provider(), asyncio.Event()
    gate = provider.gate(FakeCaller(rows={0: [wire, reply()]}), permits=1)
    hanging = gate.start(0)
    await settle()
    provider.open()
    tasks = [gate.start(row) for row in (1, 2, 3)]
    await provider.clock.advance(300)
    provider.turnstile._pump()
    await settle()
    assert {"breaker": 2, "concurrency": 1} == provider.waiting

    wire.set()
    await gate.finish(hanging, *tasks)
    gate.assert_balanced()


async def test_a_probe_of_a_run_that_stops_frees_its_place() -> None:
    provider = Provider()
    gate = provider.gate(permits=1, tokens=60_000)
    provider.open()
    task = gate.start()
    await provider.clock.advance(59)
    provider.flight.close()
    await provider.clock.advance(2)

    assert isinstance(task.exception(), StoppedError)
    assert not gate.inner.requests
    gate.assert_balanced()


async def probing(provider: Provider, row: int) -> int:
    """Waits as a gate does for `row`, enters, and fails; the row."""
    while True:
        is_candidate = await provider.turnstile.wait(row)
        ticket = provider.turnstile.enter(provider.now, is_candidate=is_candidate)
        if ticket is not None:
            provider.breaker.record_failure(ticket, row, reached=True, now=provider.now, why="HTTP 503")
            return row


async def test_rows_that_have_not_failed_before_probe_first() -> None:
    """A poisoned row cannot keep a provider closed that is well. Each kind goes in the order in which it came."""
    provider, done = Provider(), []
    provider.open()
    for row in (10_000, 5, 10_001, 6):
        asyncio.ensure_future(probing(provider, row)).add_done_callback(lambda task: done.append(task.result()))
    await provider.clock.advance(241)

    assert [5, 6, 10_000, 10_001] == done


async def test_a_canary_is_wanted_only_where_every_row_that_waits_has_failed_before() -> None:
    """During an outage with new rows waiting none is sent, and never more than one in a recovery time."""
    provider = Provider()
    provider.open()
    known = [asyncio.ensure_future(provider.turnstile.wait(10_000 + row)) for row in range(2)]
    ticket = await probe_fails_later(provider, 61)
    fresh = asyncio.ensure_future(provider.turnstile.wait(8))
    await settle()
    provider.breaker.record_failure(ticket, 10_000, reached=True, now=provider.now)
    assert not provider.turnstile.wants_canary(10_000), "a new row waits"

    ticket = await probe_fails_later(provider, 61)
    assert fresh.done()
    provider.breaker.record_failure(ticket, 8, reached=True, now=provider.now)
    assert not provider.turnstile.wants_canary(8), "it was new when it probed"

    known.append(asyncio.ensure_future(provider.turnstile.wait(8)))
    ticket = await probe_fails_later(provider, 61)
    provider.breaker.record_failure(ticket, 10_001, reached=True, now=provider.now)
    assert provider.turnstile.wants_canary(10_001)
    assert not provider.turnstile.wants_canary(10_001)
    await provider.clock.advance(200)
    assert not known[2].done(), "one request at a time, and the canary is out"

    provider.turnstile.record_canary(is_up=False)
    await provider.clock.advance(61)
    assert known[2].result() is True


async def probe_fails_later(provider: Provider, wait_s: float) -> int:
    """The pass of whoever may probe next."""
    await provider.clock.advance(wait_s)
    return provider.turnstile.enter(provider.now, is_candidate=True)


async def test_a_canary_that_is_answered_lets_all_rows_go() -> None:
    provider = Provider()
    provider.open()
    waiters = [asyncio.ensure_future(provider.turnstile.wait(10_000 + row % 2)) for row in range(5)]
    await provider.clock.advance(61)
    ticket = provider.turnstile.enter(provider.now, is_candidate=True)
    provider.breaker.record_failure(ticket, 10_000, reached=True, now=provider.now)
    assert provider.turnstile.wants_canary(10_000)
    provider.turnstile.record_canary(is_up=True)
    await settle()

    assert [True, False, False, False, False] == [waiter.result() for waiter in waiters]
    assert "is back after 1 min 1 s" in provider.told[-1]


async def test_the_sentences_say_why_in_few_words() -> None:
    """When it goes down, and when the run stops."""
    provider = Provider()
    for row in (1, 2):
        ticket = provider.breaker.enter(provider.now)
        provider.breaker.record_failure(ticket, row, reached=False, now=provider.now, why="connection refused " * 20)
    waiter = asyncio.ensure_future(provider.turnstile.wait(3))
    await provider.clock.advance(MAX_OUTAGE_S)

    assert provider.told[0].startswith("provider p is down: connection refused connection")
    assert len(provider.told[0]) < 200
    waiter.cancel()
    probe = asyncio.ensure_future(provider.turnstile.wait(4))
    await settle()
    assert "(circuit_breaker.max_outage): connection refused" in str(probe.exception())
    assert "is base_url right?" in provider.told[0]
    assert "check base_url too; no row was lost" in (probe.exception().hint or "")


async def test_who_was_answered_before_does_not_ask_whether_the_address_is_right() -> None:
    provider = Provider()
    provider.breaker.record_success(provider.breaker.enter(provider.now), 0, provider.now)
    provider.open()

    assert "is down" in provider.told[0]
    assert "base_url" not in provider.told[0]


async def test_thousands_of_waiters_share_one_timer_and_a_pick_looks_at_few() -> None:
    """Also where most of them have given up."""
    provider = Provider()
    provider.open()
    waiters = [asyncio.ensure_future(provider.turnstile.wait(row)) for row in range(5_000)]
    await settle()
    assert 1 == provider.clock.sleepers
    for waiter in waiters[:4_999]:
        waiter.cancel()
    await provider.clock.advance(61)

    assert waiters[-1].result() is True

"""Taken and settled a turn at a time, a call costs what it costs by itself: to the token, and to the last digit."""

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batcher.core.contracts import CallError
from batcher.core.progress import Progress
from batcher.core.records import Request, Spend, Usage
from batcher.ledger.budget import Budget
from batcher.ledger.prices import Price
from batcher.ledger.worst_case import WorstCase
from batcher.limits.concurrency import Permits
from batcher.limits.estimate import TokenEstimator
from batcher.limits.rate import RequestRate
from batcher.limits.tokens import TokenBucket
from batcher.providers import allotment
from batcher.providers.allotment import Allotment
from batcher.providers.room import LimitSet, Room, Taken
from batcher.providers.wall import Wall
from batcher.testing.clock import ManualClock
from batcher.testing.fakes import request

PRICE = Price(Decimal("0.1"), Decimal("0.1"), Decimal("0.4"), source="job file")
CAP = Decimal(1_000)
MANY = 10 * allotment.CALLS_MIN


class Bench:
    """A room with every limit."""

    def __init__(self, *, cap_usd: Decimal = CAP, per_minute: int = 60_000_000, permits: int = 10_000) -> None:
        self.budget = Budget(cap_usd)
        self.worst_case = WorstCase.of_job(PRICE, model="m", params={"max_tokens": 16}, overhead_bytes=100)
        self.clock, self.progress = ManualClock(), Progress()
        self.permits, self.rate = Permits(permits), RequestRate(per_minute // 100)
        self.bucket = TokenBucket(per_minute, self.clock)
        self.room = Room(
            (LimitSet(self.permits, self.rate, self.bucket),),
            estimator=TokenEstimator(),
            output_max=16,
            wall=Wall(self.budget, self.worst_case),
            clock=self.clock,
            progress=self.progress,
        )

    @property
    def window_tokens(self) -> int:
        return self.bucket.meter._window_tokens

    async def begin(self, count: int, *, size: int = 100) -> list[tuple[Request, Taken | Allotment]]:
        """So many calls in one turn of the loop."""
        asked = [request(row, b"x" * size) for row in range(count)]
        took = [(one, self.room.try_take(one)) for one in asked]
        await asyncio.sleep(0)
        return [(one, taken) for one, taken in took if taken is not None]

    async def busy(self) -> list[tuple[Request, Taken | Allotment]]:
        """Two turns with many calls: those of the second are allotted."""
        return await self.begin(MANY) + await self.begin(MANY)

    def answer(self, call: tuple[Request, Taken | Allotment], spend: Spend) -> None:
        asked, taken = call
        self.room.settle(taken, asked, spend)
        self.room.release()


def spent(given: int = 90, output: int = 5) -> Spend:
    return Spend(1, Usage(given, 0, output), Decimal(given) / 10_000_000 + Decimal(output * 4) / 10_000_000)


@pytest.fixture
def few() -> Iterator[None]:
    """Two calls of a turn are many."""
    with mock.patch.object(allotment, "CALLS_MIN", 2):
        yield


def is_allotted(calls: list[tuple[Request, Taken | Allotment]]) -> list[bool]:
    return [isinstance(taken, Allotment) for _, taken in calls]


async def test_many_calls_of_one_turn_are_allotted_together_and_few_are_not() -> None:
    """The first turn tells how many there are; a turn with few ends it."""
    bench = Bench()
    assert not any(is_allotted(await bench.begin(MANY)))
    assert all(is_allotted(await bench.begin(MANY)))
    assert all(is_allotted(await bench.begin(2)))
    assert not any(is_allotted(await bench.begin(MANY)))


async def test_more_calls_than_the_turn_before_are_allotted_too() -> None:
    """A wave grows while limits are far."""
    bench = Bench(per_minute=600_000_000)
    await bench.begin(MANY)
    assert 10 * MANY == sum(is_allotted(await bench.begin(10 * MANY)))


async def test_a_turn_without_a_call_between_waves_changes_nothing() -> None:
    """Answers come in one turn, and the next calls begin in another."""
    bench = Bench()
    calls = await bench.begin(MANY)
    for call in calls:
        bench.answer(call, spent())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert all(is_allotted(await bench.begin(MANY)))


async def test_what_no_call_took_is_back_when_the_turn_ends() -> None:
    """Else the money of a turn with fewer calls would be held until the next one."""
    bench = Bench()
    first = await bench.begin(MANY)
    second = await bench.begin(3)
    assert all(is_allotted(second))
    for call in first + second:
        bench.answer(call, spent())
    await asyncio.sleep(0)
    cost_usd = spent().cost_usd
    assert cost_usd is not None
    assert (MANY + 3) * cost_usd == bench.budget.spent_usd == bench.budget.exposure_usd
    assert 95 * (MANY + 3) == bench.window_tokens
    assert (0, 0) == (bench.bucket.meter._unsettled, bench.permits.in_use)


async def test_an_allotted_call_reserves_its_worst_case_until_it_ends() -> None:
    """Not less than by itself, so the wall holds; at most as much as one of twice its size."""
    bench = Bench()
    await bench.busy()
    one_usd = bench.worst_case.usd_of(100)
    exposure_usd = bench.budget.exposure_usd - MANY * one_usd
    assert MANY * one_usd <= exposure_usd <= MANY * bench.worst_case.usd_of(200)


@pytest.mark.parametrize("size", [65, 100, 127])
async def test_an_allotted_call_reserves_the_tokens_that_it_is_expected_to_use(size: int) -> None:
    """Rows of one size would all be taken for the mean of their class: far too low at its upper end."""
    bench = Bench()
    await bench.begin(MANY, size=size)
    [*calls] = await bench.begin(MANY, size=size)
    assert {bench.room._estimator.estimate(size, 16)} == {tokens_of(taken) for _, taken in calls}


async def test_where_there_is_no_plenty_it_is_found_out_once_a_turn() -> None:
    """Near a limit each call is looked at by itself: a try for all of them each time would come on top."""
    one_usd = Bench().worst_case.usd_of(100)
    bench = Bench(cap_usd=one_usd * (3 * MANY))
    await bench.begin(MANY)
    with mock.patch.object(bench.budget, "try_allot", return_value=False) as tried:
        await bench.begin(MANY)
        assert 1 == tried.call_count
    bench = Bench(per_minute=600_000_000)
    await bench.begin(MANY)
    few = [True, *[False] * MANY]
    with mock.patch.object(bench.budget, "try_allot", side_effect=few) as tried:
        await bench.begin(10 * MANY)
        assert 2 == tried.call_count


async def test_calls_that_fail_are_settled_by_themselves() -> None:
    """Refused before it was served, cut on the way, given up: the budget and the tokens know which."""
    bench = Bench()
    calls = (await bench.busy())[MANY:]
    worst_usd = next(taken.worst_usd for _, taken in calls if isinstance(taken, Allotment))
    before, (refused, billed, cut, left, *others) = bench.window_tokens, calls
    tokens = next(taken.tokens for _, taken in calls if isinstance(taken, Allotment))
    bench.room.settle_failure(refused[1], refused[0], CallError("429", kind="rate_limited"))
    bill = spent(40, output=2)
    bench.room.settle_failure(billed[1], billed[0], CallError("500", kind="server", spend=bill))
    unknown = CallError("timeout", kind="timeout", is_billing_unknown=True)
    bench.room.settle_failure(cut[1], cut[0], unknown)
    bench.room.keep(left[1])
    assert bill.cost_usd == bench.budget.spent_usd
    assert 2 * worst_usd == bench.budget.held_usd == bench.progress.held_usd
    assert before - tokens + (42 - tokens) == bench.window_tokens
    assert all(is_allotted(others))


@pytest.mark.parametrize("spend", [Spend(1, None, None), Spend(1, Usage(9, 0, 1), None)], ids=["usage", "cost"])
async def test_an_answer_that_does_not_tell_what_it_cost_keeps_its_worst_case(spend: Spend) -> None:
    """As by itself: nobody knows the bill."""
    bench = Bench()
    call = (await bench.busy())[-1]
    bench.answer(call, spend)
    await asyncio.sleep(0)
    assert isinstance(call[1], Allotment)
    assert call[1].worst_usd == bench.budget.held_usd


async def test_a_provider_that_bills_more_than_the_worst_case_is_believed_to_do_so_again() -> None:
    """The next call reserves as much more, by itself."""
    bench = Bench()
    call = (await bench.busy())[-1]
    assert isinstance(call[1], Allotment)
    bench.answer(call, Spend(1, Usage(10, 0, 10), 3 * call[1].worst_usd))
    await asyncio.sleep(0)
    before_usd = bench.budget.exposure_usd
    assert not any(is_allotted(await bench.begin(1)))
    assert bench.budget.exposure_usd - before_usd >= 3 * bench.worst_case.usd_of(100)


async def test_near_the_wall_each_call_is_looked_at_by_itself() -> None:
    """What is reserved too much may not keep a call that fits from going."""
    one_usd = Bench().worst_case.usd_of(100)
    bench = Bench(cap_usd=one_usd * (3 * MANY))
    calls = [call for _ in range(4) for call in await bench.begin(MANY)]
    assert 3 * MANY == len(calls)
    assert not any(is_allotted(calls))


@pytest.mark.parametrize("per_minute", [6_000, 60_000, 600_000])
async def test_near_a_rate_each_call_is_looked_at_by_itself(per_minute: int) -> None:
    """Half of what may be burst is left to calls that come by themselves."""
    bench = Bench(per_minute=per_minute)
    calls = [call for _ in range(20) for call in await bench.begin(MANY)]
    assert len(calls) < 20 * MANY
    assert bench.bucket.meter.level >= -1.0
    allotted = [taken for _, taken in calls if isinstance(taken, Allotment)]
    assert sum(taken.tokens for taken in allotted) <= bench.bucket.meter.burst


@pytest.mark.usefixtures("few")
async def test_whoever_waits_for_tokens_goes_first() -> None:
    """What is allotted never passes a queue."""
    bench = Bench(per_minute=60_000)
    taken = bench.bucket.try_reserve(600)
    assert taken is not None
    waiting = asyncio.ensure_future(bench.bucket.reserve(10))
    await bench.begin(3)
    await asyncio.sleep(0)
    taken.settle(0)
    await asyncio.sleep(0)
    assert waiting.done()
    assert not any(is_allotted(await bench.begin(3)))


async def test_a_request_with_an_image_is_never_allotted() -> None:
    """Its worst case is more than its bytes."""
    bench = Bench()
    await bench.busy()
    image = b'[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/y.png"}}]}]'
    taken = bench.room.try_take(Request(row=1, messages=image))
    assert isinstance(taken, Taken)


@pytest.mark.usefixtures("few")
async def test_rates_that_change_on_the_way_take_what_was_taken_from_them() -> None:
    """A provider names its limit while calls are out: they are settled where they were taken."""
    bench = Bench()
    calls = await bench.begin(5) + await bench.begin(5)
    assert bench.room.teach(requests_per_minute=6_000, tokens_per_minute=600_000)
    more = await bench.begin(5) + await bench.begin(5)
    for call in calls + more:
        bench.answer(call, spent())
    await asyncio.sleep(0)
    taught = bench.room._taught_tokens
    assert taught is not None
    assert (95 * 20, 95 * 10) == (bench.window_tokens, taught.meter._window_tokens)
    assert (0, 0) == (bench.bucket.meter._unsettled, taught.meter._unsettled)


async def test_rates_that_are_named_again_end_no_allotment() -> None:
    """Providers name them with each answer."""
    bench = Bench()
    await bench.begin(MANY)
    first = bench.room.try_take(request(0, b"x" * 100))
    assert not bench.room.teach(requests_per_minute=None, tokens_per_minute=None)
    assert first is bench.room.try_take(request(1, b"x" * 100))


async def test_a_call_without_a_permit_takes_nothing() -> None:
    """All or nothing, as by itself."""
    bench = Bench(permits=MANY + 4)
    calls = await bench.begin(MANY)
    more = await bench.begin(MANY)
    assert 4 == len(more)
    for call in calls + more:
        bench.answer(call, spent())
    await asyncio.sleep(0)
    assert bench.budget.spent_usd == bench.budget.exposure_usd
    assert (0, 0) == (bench.permits.in_use, bench.bucket.meter._unsettled)


ENDS = ["answered", "billed", "unbilled", "unknown", "refused", "left"]


class Books:
    """A room, and beside it what its calls really used, counted one by one."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.out: list[tuple[Request, Taken | Allotment]] = []
        self.spent_usd, self.held_usd, self.tokens = Decimal(0), Decimal(0), 0

    def begin(self, sizes: list[int]) -> None:
        for row, size in enumerate(sizes):
            asked = request(row, b"x" * size)
            if (taken := self.bench.room.try_take(asked)) is not None:
                self.out.append((asked, taken))

    def end(self, at: int, how: str, given: int) -> None:
        asked, taken = self.out.pop(at % len(self.out))
        self._settle(asked, taken, how, spent(given=given))
        self.bench.room.release()
        if how in ("answered", "billed"):
            self.spent_usd += spent(given=given).cost_usd or 0
            self.tokens += given + 5
        elif how != "refused":
            self.tokens += tokens_of(taken)
        if how in ("unknown", "left"):
            self.held_usd += worst_of(taken)

    def _settle(self, asked: Request, taken: Taken | Allotment, how: str, spend: Spend) -> None:
        room = self.bench.room
        match how:
            case "answered":
                room.settle(taken, asked, spend)
            case "left":
                room.keep(taken)
            case "billed":
                room.settle_failure(taken, asked, CallError("500", kind="server", spend=spend))
            case "unbilled":
                room.settle_failure(taken, asked, CallError("500", kind="server"))
            case "refused":
                room.settle_failure(taken, asked, CallError("429", kind="rate_limited"))
            case _:
                cut = CallError("cut", kind="bad_response", spend=Spend(1, None, None), is_billing_unknown=True)
                room.settle_failure(taken, asked, cut)


@pytest.mark.usefixtures("few")
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    turns=st.lists(
        st.tuples(
            st.lists(st.sampled_from([40, 100, 900]), max_size=12),
            st.lists(st.tuples(st.integers(0, 99), st.sampled_from(ENDS), st.integers(1, 300)), max_size=12),
        ),
        max_size=12,
    )
)
def test_whatever_becomes_of_the_calls_the_books_are_exact(
    turns: list[tuple[list[int], list[tuple[int, str, int]]]],
) -> None:
    """Money to the last digit and tokens to the last one, when all calls have ended."""

    async def run() -> None:
        books = Books()
        for sizes, ends in turns:
            books.begin(sizes)
            for at, how, tokens in ends[: len(books.out)]:
                books.end(at, how, tokens)
            await asyncio.sleep(0)
        while books.out:
            books.end(0, "answered", 50)
        await asyncio.sleep(0)
        bench = books.bench
        assert (books.spent_usd, books.held_usd) == (bench.budget.spent_usd, bench.budget.held_usd)
        assert books.spent_usd + books.held_usd == bench.budget.exposure_usd
        assert books.tokens == bench.window_tokens
        assert (0, 0) == (bench.bucket.meter._unsettled, bench.permits.in_use)

    asyncio.run(run())


def worst_of(taken: Taken | Allotment) -> Decimal:
    if isinstance(taken, Allotment):
        return taken.worst_usd
    assert taken.hold is not None
    return taken.hold.worst_usd


def tokens_of(taken: Taken | Allotment) -> int:
    return taken.tokens if isinstance(taken, Allotment) else taken.reservations[0].estimate

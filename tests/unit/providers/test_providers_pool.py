"""Several keys: the least loaded is picked, refused ones are set aside, the last one refuses the job."""

import asyncio

import pytest

from batcher.core.contracts import CallError
from batcher.core.progress import Progress
from batcher.errors import RefusedError
from batcher.providers.gated import KeyRestsError
from batcher.providers.pool import Pool
from batcher.testing.clock import ManualClock, settle
from batcher.testing.fakes import FakeCaller, failure, reply, request


def make(*members: FakeCaller) -> tuple[Pool, list[str]]:
    told: list[str] = []
    return Pool(members, clock=ManualClock(), progress=Progress(), tell=told.append), told


async def test_the_least_loaded_key_is_picked() -> None:
    busy, free = FakeCaller(name="a", load=1.5), FakeCaller(name="b", load=0.2)
    pool, _ = make(busy, free)

    await pool.call(request())
    busy.load = 0.1
    await pool.call(request())

    assert (1, 1) == (len(busy.requests), len(free.requests))


@pytest.mark.parametrize("kind", ["auth", "quota"])
async def test_a_refused_key_is_set_aside_and_its_row_goes_on(kind) -> None:
    refused, good = FakeCaller([failure(kind)], name="key 1"), FakeCaller(name="key 2", load=9)
    pool, told = make(refused, good)

    answer = await pool.call(request())
    await pool.call(request(1))

    assert 2 == answer.spend.attempts, "the refused call is counted"
    assert (1, 2) == (len(refused.requests), len(good.requests))
    assert [f"key 1 is set aside: made to fail: {kind}"] == told


async def test_the_last_key_refuses_the_job_in_the_providers_words() -> None:
    pool, _ = make(FakeCaller([failure("auth")], name="key 1"), FakeCaller([failure("quota")], name="key 2"))

    with pytest.raises(RefusedError, match="key 2 was refused: made to fail: quota"):
        await pool.call(request())
    with pytest.raises(RefusedError):
        await pool.call(request(1))


async def test_calls_that_were_in_flight_when_their_key_was_set_aside_go_on_too() -> None:
    """A hundred refusals of one key set one key aside, once."""
    refused, good = FakeCaller([failure("auth")], name="key 1"), FakeCaller(name="key 2", load=9)
    pool, told = make(refused, good)

    answers = await asyncio.gather(*(pool.call(request(row)) for row in range(100)))

    assert 100 == len(answers) == len(good.requests)
    assert 1 == len(told)


async def test_other_failures_leave_the_key_and_carry_all_spend() -> None:
    pool, told = make(FakeCaller([failure("auth")], name="key 1"), FakeCaller([failure("server"), reply()], load=9))

    with pytest.raises(CallError) as caught:
        await pool.call(request())

    assert ("server", 2) == (caught.value.kind, caught.value.spend.attempts)
    assert "yes" == (await pool.call(request())).text
    assert 1 == len(told)


async def test_a_firewall_that_forbids_one_row_fails_that_row_and_not_the_job() -> None:
    """403 for the text of row 7 on a key that serves all others: the row is refused, the key goes on."""
    bench = Bench(FakeCaller(rows={7: [failure("auth")]}, name="key 1"))
    await bench.pool.call(request(1))

    poisoned = bench.start(7)
    await settle()
    await bench.pool.call(request(2))
    error = await bench.finish(poisoned)

    assert ("auth", 2) == (error.kind, error.spend.attempts)
    assert "yes" == (await bench.pool.call(request(3))).text
    assert [] == bench.told


async def test_a_forbidden_row_with_nobody_to_compare_it_with_is_told_from_its_key_by_a_canary() -> None:
    """The last row of a run, or the first: 403, and no other row shows whether it is the key."""
    bench = Bench(FakeCaller(rows={7: [failure("auth", status=403)]}, name="key 1"))

    error = await bench.finish(bench.start(7))

    assert ("auth", 2) == (error.kind, error.spend.attempts), "the canary is paid by the row"
    assert [7, -1] == [one.row for one in bench.members[0].requests]
    assert [] == bench.told


async def test_a_key_that_is_forbidden_refuses_the_job_after_one_canary() -> None:
    bench = Bench(FakeCaller([failure("auth", status=403)], name="key 1"))

    errors = [await bench.finish(task) for task in [bench.start(row) for row in range(10)]]

    assert all(isinstance(error, RefusedError) for error in errors)
    assert 1 == [one.row for one in bench.members[0].requests].count(-1)


@pytest.mark.parametrize("kind", ["rate_limited", "server", "timeout", "connection"])
async def test_a_canary_that_says_nothing_of_the_key_is_sent_again(kind) -> None:
    """A forbidden row meets a busy or a broken provider: that must not cost the last key, and so the run."""
    forbidden = failure("auth", status=403)
    bench = Bench(FakeCaller(rows={7: [forbidden], -1: [failure(kind), failure(kind), reply()]}, name="key 1"))

    error = await bench.finish(bench.start(7))

    assert ("auth", 6) == (error.kind, error.spend.attempts)
    assert [7, -1, 7, -1, 7, -1] == [one.row for one in bench.members[0].requests]
    assert "yes" == (await bench.pool.call(request(8))).text
    assert [] == bench.told


async def test_a_key_that_is_revoked_before_the_last_row_refuses_the_job() -> None:
    """The row must not end as failed: it is asked again when the key is mended."""
    bench = Bench(FakeCaller([reply(), failure("auth", status=401)], name="key 1"))
    await bench.pool.call(request(0))

    error = await bench.finish(bench.start(1))

    assert isinstance(error, RefusedError)
    assert 4 == len(bench.members[0].requests)


async def test_a_key_that_is_revoked_on_the_way_refuses_the_job_after_three_rows() -> None:
    bench = Bench(FakeCaller([reply(), failure("auth", status=401)], name="key 1"))
    await bench.pool.call(request(0))

    errors = [await bench.finish(task) for task in [bench.start(row) for row in range(1, 6)]]

    assert all(isinstance(error, RefusedError) for error in errors)


async def test_a_moment_of_401_costs_no_row() -> None:
    """Gateways refuse a good key for a moment; two rows that meet it are asked again."""
    blip = failure("auth")
    bench = Bench(FakeCaller(rows={1: [blip, reply("a")], 2: [blip, reply("b")]}))
    await bench.pool.call(request(0))

    replies = [await bench.finish(task) for task in [bench.start(1), bench.start(2)]]

    assert ["a", "b"] == [one.text for one in replies]
    assert [] == bench.told


async def test_a_row_leaves_a_key_that_rests_for_another() -> None:
    resting, free = Resting(name="key 1", rest_s=3600.0), FakeCaller(name="key 2", load=5.0)
    pool, _ = make(resting, free)

    answer = await pool.call(request())

    assert "yes" == answer.text
    assert (1, 1) == (resting.turned_away, len(free.requests))
    assert 0.0 == resting.rest_elsewhere_s()
    assert 3600.0 == free.rest_elsewhere_s()


class Resting(FakeCaller):
    """A key that sends its rows elsewhere, as a gate in a long pause does."""

    turned_away = 0

    async def call(self, request):
        self.turned_away += 1
        raise KeyRestsError


class Bench:
    """A pool on a clock of its own."""

    def __init__(self, *members: FakeCaller) -> None:
        self.clock, self.told, self.members = ManualClock(), [], members
        self.pool = Pool(members, clock=self.clock, progress=Progress(), tell=self.told.append)

    def start(self, row: int) -> "asyncio.Task":
        return asyncio.ensure_future(self.pool.call(request(row)))

    async def finish(self, task: "asyncio.Task"):
        while not task.done():
            await self.clock.advance(1.0)
        return (await asyncio.gather(task, return_exceptions=True))[0]

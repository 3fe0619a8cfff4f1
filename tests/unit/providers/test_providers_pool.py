"""Several keys: the least loaded is picked, refused ones are set aside, the last one refuses the job."""

import asyncio

import pytest

from batcher.core.contracts import CallError
from batcher.errors import RefusedError
from batcher.providers.pool import Pool
from batcher.testing.fakes import FakeCaller, failure, reply, request


def make(*members: FakeCaller) -> tuple[Pool, list[str]]:
    told: list[str] = []
    return Pool(members, tell=told.append), told


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

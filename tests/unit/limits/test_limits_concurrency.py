"""Permits: first in first out, resizable, safe to cancel."""

import asyncio

import pytest

from batcher.limits.concurrency import Permits, Places
from batcher.testing.clock import settle


async def test_no_more_than_the_number_are_out_and_waiters_go_in_order() -> None:
    """And a newcomer does not slip in between a release and the one it was for."""
    permits, order = Permits(2), []
    await permits.acquire()
    assert permits.try_acquire()

    async def ask(number: int) -> None:
        await permits.acquire()
        order.append(number)

    tasks = [asyncio.ensure_future(ask(number)) for number in range(3)]
    await settle()
    assert 3 == permits.waiting
    permits.release()
    assert not permits.try_acquire()
    await settle()
    assert [0] == order
    permits.release()
    permits.release()
    await settle()
    assert [0, 1, 2] == order
    assert (2, 0) == (permits.in_use, permits.waiting)
    assert all(task.done() for task in tasks)


async def test_growing_wakes_at_once_and_shrinking_keeps_the_next_releases() -> None:
    """Adaptive concurrency moves the number while calls are out."""
    permits = Permits(1)
    await permits.acquire()
    waiters = [asyncio.ensure_future(permits.acquire()) for _ in range(4)]
    await settle()
    permits.resize(3)
    await settle()
    assert [True, True, False, False] == [waiter.done() for waiter in waiters]
    permits.resize(1)
    permits.release()
    permits.release()
    await settle()
    assert [True, True, False, False] == [waiter.done() for waiter in waiters]
    permits.release()
    await settle()
    assert waiters[2].done()
    assert 1 == permits.in_use
    waiters[3].cancel()


async def test_a_permit_handed_over_to_a_cancelled_waiter_goes_on() -> None:
    """Released and cancelled in the same turn of the loop: the next one gets it."""
    permits = Permits(1)
    await permits.acquire()
    first, second = (asyncio.ensure_future(permits.acquire()) for _ in range(2))
    await settle()
    permits.release()
    first.cancel()
    await settle()
    assert first.cancelled()
    assert second.done()
    assert 1 == permits.in_use


async def test_cancelled_waiters_do_not_block_the_fast_path() -> None:
    """Whoever left the queue is no queue."""
    permits = Permits(1)
    await permits.acquire()
    waiters = [asyncio.ensure_future(permits.acquire()) for _ in range(3)]
    await settle()
    for waiter in waiters[::-1]:
        waiter.cancel()
    await settle()
    permits.release()
    assert permits.try_acquire()
    assert 0 == permits.waiting


async def test_a_permit_whose_waiters_all_gave_up_is_told() -> None:
    """Or it would stay free for ever, and the rows with it."""
    told: list[int] = []
    permits = Permits(1)
    await permits.acquire()
    waiters = [asyncio.create_task(permits.acquire()) for _ in range(3)]
    await settle()
    for waiter in waiters[::-1]:
        waiter.cancel()
    permits.when_free(lambda: told.append(permits.free()))
    permits.release()
    await settle()

    assert 1 == permits.free()
    assert told


async def test_a_permit_that_is_handed_over_is_no_news_and_one_that_is_added_is() -> None:
    told: list[int] = []
    permits = Permits(1)
    permits.when_free(lambda: told.append(permits.free()))
    await permits.acquire()
    waiter = asyncio.create_task(permits.acquire())
    await settle()
    permits.release()
    await waiter
    assert (0, []) == (permits.free(), told)
    permits.resize(3)
    permits.release()
    assert [2, 3] == told


async def test_places_are_what_the_job_and_its_keys_leave_together() -> None:
    shared, first, second = Permits(4), Permits(1), Permits(5)
    told: list[int] = []
    places = Places(shared, [first, second])
    places.when_free(lambda: told.append(places.free()))
    assert (4, 6) == (places.free(), Places(None, [first, second]).free())
    for permits in (shared, first, second):
        assert permits.try_acquire()
    assert 3 == places.free()
    shared.release()
    second.release()
    assert [4, 4] == told
    first.resize(2)
    assert 4 == places.free()


def test_a_release_too_many_is_a_fault() -> None:
    """It would let one more call through for ever."""
    permits = Permits(1)
    with pytest.raises(RuntimeError, match="nobody holds"):
        permits.release()
    with pytest.raises(ValueError, match="at least one"):
        permits.resize(0)

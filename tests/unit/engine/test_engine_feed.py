"""The hand-over of rows: bounded, nobody forgotten, nothing after a drop."""

import asyncio
import threading

from batcher.core.records import Row
from batcher.engine.feed import RowFeed
from batcher.testing.clock import settle
from batcher.testing.fakes import FakeSource


async def test_a_batch_that_comes_after_the_drop_is_dropped_too() -> None:
    """The thread that reads cannot be cancelled; what it brings is asked next time."""
    reading, go = threading.Event(), threading.Event()

    class SlowSource:
        def rows(self, start=0):
            reading.set()
            go.wait(10)
            yield [Row(0, {})]

    feed = RowFeed(SlowSource(), start=0, wanted=lambda row: True)
    read = asyncio.create_task(feed.read())
    await asyncio.to_thread(reading.wait, 10)
    feed.drop()
    go.set()
    await read

    assert await feed.next() is None
    assert feed.rows_total is None, "the end was not seen"


async def test_all_who_wait_are_let_go_at_the_end() -> None:
    feed = RowFeed(FakeSource(3), start=0, wanted=lambda row: True)
    takers = [asyncio.create_task(feed.next()) for _ in range(10)]
    await settle()
    await feed.read()

    rows = await asyncio.gather(*takers)
    assert [0, 1, 2] == sorted(row.index for row in rows if row is not None)


async def test_a_taker_that_was_cancelled_takes_nobodys_row() -> None:
    feed = RowFeed(FakeSource(2, batch=2), start=0, wanted=lambda row: True)
    takers = [asyncio.create_task(feed.next()) for _ in range(3)]
    await settle()
    takers[0].cancel()
    await settle()
    await feed.read()

    assert [0, 1] == [(await taker).index for taker in takers[1:]]


class FewPlaces:
    """Two calls at once, as permits count them."""

    def __init__(self, places: int) -> None:
        self.left, self.told = places, lambda: None

    def free(self) -> int:
        return self.left

    def when_free(self, told) -> None:
        self.told = told

    def give_back(self, count: int = 1) -> None:
        self.left += count
        self.told()


async def take(feed: RowFeed, places: FewPlaces, taken: list[int]) -> None:
    row = await feed.next()
    if row is not None:
        places.left -= 1
        taken.append(row.index)


async def test_rows_are_taken_in_hand_as_places_become_free() -> None:
    """A thousand workers with a row each would queue at the gate for a few places, and each row would cost more."""
    places, taken = FewPlaces(2), []
    feed = RowFeed(FakeSource(10), start=0, wanted=lambda row: True, places=places)
    takers = [asyncio.create_task(take(feed, places, taken)) for _ in range(8)]
    await settle()
    read = asyncio.create_task(feed.read())
    while len(taken) < 2:
        await asyncio.sleep(0)
    await settle()
    assert [0, 1] == taken

    places.give_back()
    await settle()
    assert [0, 1, 2] == taken
    places.give_back(3)
    await settle()
    assert [0, 1, 2, 3, 4, 5] == taken
    feed.drop()
    await asyncio.gather(read, *takers)


async def test_a_place_that_is_taken_again_at_once_calls_nobody() -> None:
    """Who ends a row mostly takes the next one in the same turn; calling another would put it into a queue."""
    places, taken = FewPlaces(1), []
    feed = RowFeed(FakeSource(10), start=0, wanted=lambda row: True, places=places)
    await feed.read()
    await take(feed, places, taken)
    idle = asyncio.create_task(take(feed, places, taken))
    await settle()

    places.give_back()
    await take(feed, places, taken)
    await settle()

    assert [0, 1] == taken
    assert not idle.done()
    places.give_back()
    await idle


async def test_idle_workers_are_let_go_when_the_rows_are_used_up() -> None:
    places, taken = FewPlaces(1), []
    feed = RowFeed(FakeSource(2), start=0, wanted=lambda row: True, places=places)
    await feed.read()
    await take(feed, places, taken)
    idle = [asyncio.create_task(take(feed, places, taken)) for _ in range(5)]
    await settle()
    assert not any(one.done() for one in idle)

    places.give_back()
    await asyncio.wait_for(idle[4], 5)
    places.give_back()
    assert await feed.next() is None
    await asyncio.wait_for(asyncio.gather(*idle), 5)
    assert [0, 1] == taken


async def test_idle_workers_are_let_go_when_the_run_stops() -> None:
    places, taken = FewPlaces(0), []
    feed = RowFeed(FakeSource(5), start=0, wanted=lambda row: True, places=places)
    await feed.read()
    idle = [asyncio.create_task(take(feed, places, taken)) for _ in range(3)]
    await settle()

    feed.drop()
    await asyncio.wait_for(asyncio.gather(*idle), 5)
    assert [] == taken


async def test_a_call_to_an_idle_worker_that_was_cancelled_goes_to_the_next() -> None:
    places, taken = FewPlaces(0), []
    feed = RowFeed(FakeSource(5), start=0, wanted=lambda row: True, places=places)
    await feed.read()
    idle = [asyncio.create_task(take(feed, places, taken)) for _ in range(2)]
    await settle()
    idle[1].cancel()

    places.give_back()
    await asyncio.wait_for(idle[0], 5)
    assert [0] == taken

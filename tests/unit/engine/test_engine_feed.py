"""The hand-over of rows: bounded, nobody forgotten, nothing after a drop."""

import asyncio
import threading

from batcher.core.records import Row
from batcher.engine.feed import RowFeed
from batcher.limits.concurrency import Permits, Places
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


async def test_a_row_is_had_at_once_only_where_a_call_could_begin() -> None:
    permits = Permits(1)
    feed = RowFeed(FakeSource(2), start=0, wanted=lambda row: True, places=Places(None, [permits]))
    assert feed.take() is None, "nothing is read yet"
    await feed.read()
    permits.try_acquire()
    assert feed.take() is None, "no place is free"
    permits.release()
    assert [0, 1] == [row.index for _ in range(2) if (row := feed.take()) is not None]
    assert feed.take() is None


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

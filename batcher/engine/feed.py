"""The rows still to be asked, pulled from the source as fast as the workers take them.

The source is read in a thread, one batch at a time, and only while the workers have taken most of
the batch before: a slow disk at the far end holds the reader back through the workers. Rows that need
no asking are dropped here, so the source never knows what is done.

A row is handed out where a call could begin with it. Otherwise its worker would wait in a queue at the
gate, and with a thousand spare workers each row would pass through that queue: half as much again as a row
costs without it (14 of 45 µs, measured). So workers wait here instead, without a row, and are called when a
place is free that nobody takes: its row waits out a backoff, or there are more places than before.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from batcher.core.contracts import Source
from batcher.core.records import Row


class Places(Protocol):
    """Where calls begin."""

    def free(self) -> int:
        """How many could begin now without waiting for a place."""
        ...

    def when_free(self, told: Callable[[], None]) -> None:
        """Call `told` whenever a place may have become free that nobody waits for."""
        ...


class RowFeed:
    """A bounded hand-over from one reader to many workers.

    Args:
        source: Where rows come from.
        start: The first row that may need asking; the source skips what is before it cheaply.
        wanted: Whether a row is to be asked; None where all are.
        rows_low: The reader fetches the next batch when fewer rows than this are waiting. At most
            this many plus one batch are held.
        places: Where rows go next; None hands out each row at once.
    """

    def __init__(
        self,
        source: Source,
        *,
        start: int,
        wanted: Callable[[int], bool] | None,
        rows_low: int = 512,
        places: Places | None = None,
    ) -> None:
        self._source = source
        self._start = start
        self._wanted = wanted
        self._rows_low = rows_low
        self._rows: deque[Row] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._places = places
        self._idle: list[asyncio.Future[None]] = []
        self._is_looking = False
        if places is not None:
            places.when_free(self._look_soon)
        self._hungry = asyncio.Event()
        self._is_finished = False
        self._end = start
        self.rows_total: int | None = None
        """Rows in the input, wanted or not; known once the source was read to its end."""

    async def read(self) -> None:
        """Pull batches until the source ends or `finish` is called.

        Raises:
            InputError: The source met a record it cannot read; rows before it were handed over.
        """
        batches = self._source.rows(self._start)
        try:
            while not self._is_finished:
                batch = await asyncio.to_thread(_next_batch, batches)
                if batch is None:
                    self.rows_total = self._end
                    break
                self._offer(batch)
                while len(self._rows) >= self._rows_low and not self._is_finished:
                    self._hungry.clear()
                    await self._hungry.wait()
        finally:
            self.finish()

    def finish(self) -> None:
        """No more rows come; workers that wait for one are let go once those already read are taken."""
        self._is_finished = True
        self._hungry.set()
        self._wake(len(self._waiting))
        if not self._rows:
            self._call(len(self._idle))

    def drop(self) -> None:
        """Forget the rows not yet taken: the run is stopping and they are asked next time."""
        self._rows.clear()
        self.finish()

    def take(self) -> Row | None:
        """The next row if a call could begin with it at once. None is no end: `next` waits, or tells it."""
        if self._rows and (self._places is None or self._places.free() > 0):
            return self._pop()
        return None

    async def next(self) -> Row | None:
        """The next row to ask, once a call could begin with it, or None when there are no more."""
        is_called = False
        while True:
            if not self._rows:
                if self._is_finished:
                    self._call(len(self._idle))
                    return None
                future = asyncio.get_running_loop().create_future()
                self._waiting.append(future)
                await future
            elif is_called:
                return self._pop()
            elif (row := self.take()) is not None:
                return row
            else:
                future = asyncio.get_running_loop().create_future()
                self._idle.append(future)
                await future
                is_called = True

    def _pop(self) -> Row:
        row = self._rows.popleft()
        if len(self._rows) < self._rows_low:
            self._hungry.set()
        return row

    def _offer(self, batch: Sequence[Row]) -> None:
        if self._is_finished:
            # `drop` came while the batch was being read: its rows are asked next time too.
            return
        self._end = batch[-1].index + 1
        wanted = self._wanted
        self._rows.extend(batch if wanted is None else [row for row in batch if wanted(row.index)])
        self._wake(len(self._rows))
        self._look_soon()

    def _look_soon(self) -> None:
        """A place is free. Who freed it mostly takes it again before this turn of the loop ends, so look after it."""
        if self._idle and not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._is_looking = False
        if self._places is not None:
            self._call(min(self._places.free(), len(self._rows)))

    def _call(self, count: int) -> None:
        """Call so many of the idle workers; the last to come is the first to go, its memory is still warm."""
        while count > 0 and self._idle:
            future = self._idle.pop()
            if not future.done():
                future.set_result(None)
                count -= 1

    def _wake(self, count: int) -> None:
        while count > 0 and self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                count -= 1


def _next_batch(batches: Iterator[Sequence[Row]]) -> Sequence[Row] | None:
    # A StopIteration cannot cross a future, so the end of the source is None.
    return next(batches, None)

"""The engine: rows through render, call, check and put, with a fixed number of tasks.

Promises: each row that was taken ends with exactly one `put`, or with none if the run stopped before
its answer came; nothing is taken faster than the disk keeps; on stop nothing new is sent, answers on
the wire are waited for up to `grace_s`, and what then remains is asked next time. The engine knows
nothing of HTTP, limits or files: all of that is behind the five contracts.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from batcher.clock import Clock
from batcher.core.contracts import Caller, CallError, Checker, Renderer, Sink, Source
from batcher.core.flight import Flight
from batcher.core.progress import Progress
from batcher.core.records import NOTHING_SPENT, Invalid, Outcome, Row
from batcher.engine.doom import DoomWatch
from batcher.engine.feed import Places, RowFeed
from batcher.engine.settle import settle_failure, settle_reply, settle_unasked
from batcher.errors import BatcherError, StoppedError, UsageError


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """How a run is worked through.

    `workers` is the most rows in hand at once, more than the calls in flight, so that rows that
    wait out a backoff hold up nobody. `asks_max` counts the first question too. `grace_s` bounds the
    wait for answers on the wire after a stop.
    """

    workers: int
    asks_max: int
    model: str
    provider: str
    grace_s: float = 10.0
    rows_low: int = 512


@dataclass(frozen=True, slots=True)
class Parts:
    """The five contracts as this run fills them."""

    source: Source
    renderer: Renderer
    caller: Caller
    checker: Checker
    sink: Sink


class Engine:
    """One pass over the rows that are wanted.

    `places` are those that the caller's calls take: rows are taken in hand as they become free. None takes as
    many rows as there are workers.
    """

    def __init__(
        self,
        parts: Parts,
        plan: EnginePlan,
        *,
        clock: Clock,
        progress: Progress,
        flight: Flight,
        start: int,
        wanted: Callable[[int], bool] | None,
        places: Places | None = None,
    ) -> None:
        self._parts = parts
        self._plan = plan
        self._clock = clock
        self._progress = progress
        self._flight = flight
        self._feed = RowFeed(parts.source, start=start, wanted=wanted, rows_low=plan.rows_low, places=places)
        self._doom = DoomWatch(is_first=progress.done == 0)
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._error: BatcherError | None = None

    def stop(self, error: BatcherError | None = None) -> None:
        """Take no more rows; `run` returns, or raises the first `error`, when the answers on the wire are in."""
        # A worker that finds the run stopping says so with a StoppedError; that is no news.
        is_news = not (self._stopping.is_set() and isinstance(error, StoppedError))
        if self._error is None and is_news:
            self._error = error
        self._flight.close()
        self._feed.drop()
        self._stopping.set()

    def hurry(self) -> None:
        """After `stop`: do not wait for the answers on the wire either; they are asked, and paid, again."""
        self._hurrying.set()

    @property
    def rows_total(self) -> int | None:
        """Rows in the input, wanted or not; known once the source was read to its end."""
        return self._feed.rows_total

    async def run(self) -> None:
        """Work until every wanted row has its outcome, or until `stop`.

        Raises:
            BatcherError: What ended the run early: `RefusedError`, `StorageError`, `InputError`, `StoppedError`.
        """
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read())
            workers = [group.create_task(self._work()) for _ in range(self._plan.workers)]
            drain = group.create_task(self._drain(workers))
            await asyncio.wait([reader, *workers])
            drain.cancel()
        if not self._stopping.is_set():
            # Also where the input broke off: the rows before the break are finished.
            for held in self._doom.flush():
                await self._parts.sink.put(held)
        if self._error is not None:
            raise self._error

    async def _read(self) -> None:
        try:
            await self._feed.read()
            if self._feed.rows_total is not None:
                self._progress.rows_total = self._feed.rows_total
                self._progress.rows_total_is_exact = True
        except BatcherError as error:
            # Rows before the broken record are finished; the run ends when they are.
            if self._error is None:
                self._error = error

    async def _work(self) -> None:
        feed, sink, flight = self._feed, self._parts.sink, self._flight
        this = asyncio.current_task()
        try:
            while (row := feed.take() or await feed.next()) is not None:
                outcome = await self._ask(row)
                for kept in self._doom.release(outcome):
                    await sink.put(kept)
                flight.leave(this)
        except BatcherError as error:
            self.stop(error)
        finally:
            flight.leave(this)

    async def _ask(self, row: Row) -> Outcome:
        """Ask for one row until its answer is valid, its asks are used up, or its call failed for good."""
        parts, plan = self._parts, self._plan
        try:
            first = request = parts.renderer.render(row)
        except UsageError as error:
            # One row that cannot be said must not hold up a million that can.
            return settle_unasked(row, error, now_s=self._clock.now(), provider=plan.provider, model=plan.model)
        spend = NOTHING_SPENT
        asks = 1
        while True:
            try:
                reply = await parts.caller.call(request)
            except CallError as error:
                now_s = self._clock.now()
                return settle_failure(
                    request, error, spend + error.spend, now_s=now_s, provider=plan.provider, model=plan.model
                )
            spend = reply.spend if spend is NOTHING_SPENT else spend + reply.spend
            verdict = parts.checker.check(request, reply)
            if type(verdict) is Invalid and verdict.again is not None and asks < plan.asks_max:
                # Always from the first request: only the latest fault is explained, so prompts do not grow.
                asks += 1
                # An answer that is no answer is not worth waiting for when the run stops.
                self._flight.leave()
                request = parts.renderer.again(first, verdict.answer, verdict.again)
                continue
            return settle_reply(request, reply, verdict, spend, now_s=self._clock.now(), model=plan.model)

    async def _drain(self, workers: list[asyncio.Task[None]]) -> None:
        """After a stop: drop the rows that wait, give those on the wire `grace_s`, then drop them too."""
        await self._stopping.wait()
        for worker in workers:
            if worker not in self._flight:
                worker.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._plan.grace_s):
                await self._hurrying.wait()
        for worker in workers:
            worker.cancel()

"""The journal: every outcome, on disk before its slot is freed.

`put` collects what one turn of the event loop brings and writes it to the log in one call: that survives
`kill -9`. A background task syncs the log some milliseconds after a write: that survives a power cut. A
full log is replaced by a new one and sealed into an Arrow segment in a thread.

There are two kinds of trouble. When the disk cannot keep room ahead, or a log cannot be sealed, the run
should stop, but what is in flight still fits into the room that was reserved. When a write or a sync
failed, nothing more is taken: after a failed sync nobody knows what the disk holds, so the journal does
not pretend that a second one made it good.

One process at a time may have a journal open; the run's lock sees to that.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

import pyarrow as pa

from batcher.clock import Clock
from batcher.core.records import Outcome
from batcher.errors import JournalError, StorageError
from batcher.journal.frames import frame
from batcher.journal.merge import Run, merged_batches
from batcher.journal.openlog import LogStore, OpenLog, sync_and_close
from batcher.journal.recovery import Recovered, RecoveryFacts, recover
from batcher.journal.rowset import RowSet
from batcher.journal.segment import Segment
from batcher.journal.tally import Counts, Spent
from batcher.storage.durable import Disk

_MIB = 1 << 20

T = TypeVar("T")


class Journal:
    """Keeps the `Sink` contract, and knows which rows are done. Made by `open`; used on one event loop."""

    def __init__(
        self,
        store: LogStore,
        recovered: Recovered,
        log: OpenLog,
        threads: ThreadPoolExecutor,
        *,
        clock: Clock,
        log_bytes_max: int,
        sync_every_s: float,
        unsynced_bytes_max: int,
    ) -> None:
        self._store, self._clock = store, clock
        self._log_bytes_max, self._unsynced_bytes_max = log_bytes_max, unsynced_bytes_max
        self._sync_every_s = sync_every_s
        self._recovered, self._tally = recovered, recovered.tally
        self._segments: list[Segment] = recovered.segments
        self._log = log
        self._retired: list[OpenLog] = []  # full, not yet synced and closed
        self._unsealed: list[OpenLog] = []  # synced and closed, no segment yet
        self._pending: list[tuple[bytes, Outcome, asyncio.Future[None]]] = []
        self._refusal: BaseException | None = None
        self._trouble: BaseException | None = None
        self.troubled = asyncio.Event()
        self.on_kept: Callable[[Sequence[Outcome]], None] = lambda _: None  # told of a write before its puts return
        self._is_dirty, self._is_full, self._has_room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._has_room.set()
        self._unsynced_bytes, self._is_closed, self._sync_lock = 0, False, asyncio.Lock()
        self._threads, self._loop = threads, asyncio.get_running_loop()
        self._syncing = self._loop.create_task(self._sync_forever())
        self._rotating = self._loop.create_task(self._rotate_forever())
        for task in (self._syncing, self._rotating):
            task.add_done_callback(self._task_ended)

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        disk: Disk,
        clock: Clock,
        job_fingerprint: str,
        log_bytes_max: int = 4 * _MIB,
        sync_every_s: float = 0.05,
        unsynced_bytes_max: int = 64 * _MIB,
        reserve_bytes: int = 4 * _MIB,
    ) -> Self:
        """The journal of a run, with everything that earlier processes left in it.

        Args:
            directory: The run's `journal/`; made where it is not there.
            disk: Where it is written.
            clock: Times the syncs.
            job_fingerprint: Stands in every file; another job's journal is refused.
            log_bytes_max: A log of this size is sealed, which takes about as much memory as the log has grown to:
                with twice this much (or 1 MiB more) in the open one, `put` waits for the one that is being sealed.
            sync_every_s: A sync begins so long after a write: half of the promised 100 ms, to end within them.
            unsynced_bytes_max: With more than this not yet synced, `put` waits for the sync.
            reserve_bytes: Room kept ahead, for the answers in flight when the disk gets full.

        Raises:
            JournalError: A file is damaged, foreign or of an unknown version; it is named.
            StorageError: The disk has no room for the reserve, or refused something else.
        """
        store = LogStore(directory, disk, job_fingerprint, reserve_bytes)

        def recover_and_open() -> tuple[Recovered, OpenLog]:
            found = recover(directory, fingerprint=job_fingerprint, disk=disk)
            return found, store.open(found.sequence, found.log_bytes)

        threads = ThreadPoolExecutor(2, thread_name_prefix="journal")
        try:
            recovered, log = await asyncio.get_running_loop().run_in_executor(threads, recover_and_open)
        except BaseException:
            threads.shutdown(wait=False)
            raise
        return cls(
            store,
            recovered,
            log,
            threads,
            clock=clock,
            log_bytes_max=log_bytes_max,
            sync_every_s=sync_every_s,
            unsynced_bytes_max=unsynced_bytes_max,
        )

    @property
    def done(self) -> RowSet:
        """The rows that have an outcome; never to be changed from outside."""
        return self._tally.done

    @property
    def recovery(self) -> RecoveryFacts:
        """What had to be mended when it was opened."""
        return self._recovered.facts

    @property
    def spent_before(self) -> Mapping[tuple[str | None, str | None], Spent]:
        """What the outcomes found at opening used, by provider and asked model."""
        return self._recovered.spending

    @property
    def trouble(self) -> BaseException | None:
        """Why no more rows should be taken, or None. `troubled` is set together with it."""
        return self._trouble

    def counts(self) -> Counts:
        """How many rows stand where, now."""
        return self._tally.counts()

    def failed_rows(self) -> Iterator[int]:
        """The rows whose latest outcome is failed or invalid, ascending."""
        return self._tally.wrong_rows()

    def ask_again(self) -> int:
        """Take the failed and invalid rows out of `done`, so that each may be put once more; how many they are.

        Only for this process: until its new outcome is put, the old one stands on disk.
        """
        return self._tally.remove_wrong()

    async def put(self, outcome: Outcome) -> None:
        """See `Sink`. Cancelling the wait does not take the outcome back.

        Raises:
            StorageError: The disk refused it, or an earlier one; the outcome is not kept.
            JournalError: The row has an outcome already, or a number in it has no place in 64 bits.
        """
        if not self._has_room.is_set():
            await self._has_room.wait()
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)
        if self._is_closed:
            raise JournalError("the journal is closed")
        framed = frame(outcome)
        if not self._tally.add_new(outcome):
            raise JournalError(f"row {outcome.row} has an outcome already; a second one was put")
        if not self._pending:
            self._loop.call_soon(self._flush)
        kept = self._loop.create_future()
        self._pending.append((framed, outcome, kept))
        await kept

    async def close(self) -> None:
        """Write, sync and seal what is open. What cannot be sealed stays a log, just as good; `trouble` says so.

        Raises:
            StorageError: A write or sync failed, now or before: what was put last may not be on the disk.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._flush()
        self._has_room.set()
        self._is_full.set()
        await asyncio.wait([self._rotating])
        async with self._sync_lock:  # no sync is in a thread now, so the task waits where it can be cancelled
            self._syncing.cancel()
        await asyncio.wait([self._syncing])
        try:
            self._retired.append(self._log)
            if self._refusal is None:
                await self._sync()
                await self._seal_all()
        except (StorageError, JournalError) as error:
            self._report(error)
        finally:
            for log in self._retired:  # only after a refusal
                with contextlib.suppress(StorageError):
                    log.close()
            self._threads.shutdown(wait=False)
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)

    def merged(self, rows: int, *, batch_rows_max: int = 65_536) -> Iterator[pa.RecordBatch]:
        """One record a row from 0 up to `rows`, in row order, with the columns of `OUTCOME_SCHEMA`.

        A row's latest outcome stands, with the attempts, tokens and costs of all of its outcomes. Blocking, in
        bounded memory, and only for a closed journal.

        Raises:
            JournalError: A row has no outcome, there are rows beyond, or a segment is damaged.
        """
        if not self._is_closed:
            raise JournalError("the journal must be closed before it is merged")
        runs = [Run(segment.row_min, segment.row_max, segment.batches) for segment in self._segments]
        for log in self._unsealed:
            runs.extend(self._store.runs(log))
        return merged_batches(runs, rows, batch_rows_max=batch_rows_max, scratch=self._store.directory)

    def _flush(self) -> None:
        """Write what this turn of the loop has brought, and let those who wait for it go on."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        chunk = b"".join([framed for framed, _, _ in pending])
        try:
            self._keep_room(len(chunk))
            self._log.append(chunk)
        except StorageError as error:
            self._refuse(error)
            for _, outcome, kept in pending:
                self._tally.remove(outcome.row)
                if not kept.done():
                    kept.set_exception(error)
            return
        self._unsynced_bytes += len(chunk)
        self._is_dirty.set()
        if self._log.size_bytes >= self._log_bytes_max:
            self._is_full.set()
        self._look_for_room()
        for _, _, kept in pending:
            if not kept.done():
                kept.set_result(None)
        try:
            self.on_kept([outcome for _, outcome, _ in pending])
        except Exception as fault:  # noqa: BLE001  # of any kind: nothing more is taken while the books are wrong
            self._refuse(fault)

    def _look_for_room(self) -> None:
        """Let `put` wait while the disk is behind: with its syncs, or with sealing, which reads a log whole."""
        is_behind = self._unsynced_bytes > self._unsynced_bytes_max
        if self._trouble is None and not self._is_closed:  # else no log is replaced any more
            is_behind |= self._log.size_bytes >= self._log_bytes_max + max(self._log_bytes_max, _MIB)
        if is_behind and self._refusal is None:
            self._has_room.clear()
        else:
            self._has_room.set()

    def _keep_room(self, append_bytes: int) -> None:
        if self._trouble is not None:
            return  # the room that is left is for what is in flight
        try:
            self._log.keep_room(append_bytes)
        except StorageError as error:
            self._report(error)

    async def _sync_forever(self) -> None:
        while self._refusal is None:
            await self._is_dirty.wait()
            await self._clock.sleep(self._sync_every_s)
            await self._sync()

    async def _sync(self) -> None:
        """Sync what was written up to now, and close the logs that take no more. A failure is kept in `_refusal`."""
        async with self._sync_lock:
            self._is_dirty.clear()
            covered_bytes = self._unsynced_bytes
            retired, self._retired = self._retired, []
            written = retired if self._log in retired else [*retired, self._log]
            try:
                await self._in_thread(sync_and_close, written, retired)
            except StorageError as error:
                self._retired = retired
                self._refuse(error)
                return
            self._unsealed.extend(retired)
            self._unsynced_bytes -= covered_bytes
            self._look_for_room()

    async def _rotate_forever(self) -> None:
        """Replace and seal each log that gets full. One at a time: until then the open log grows to twice its size."""
        try:
            while True:
                await self._is_full.wait()
                self._is_full.clear()
                if self._is_closed or self._refusal is not None:
                    return
                fresh = await self._in_thread(self._store.open, self._log.sequence + 1)
                self._retired.append(self._log)
                self._log = fresh
                self._look_for_room()
                await self._sync()
                await self._seal_all()
        except (StorageError, JournalError) as error:
            self._report(error)

    async def _seal_all(self) -> None:
        """Seal what is synced and closed."""
        while self._refusal is None and self._unsealed:
            log = self._unsealed[0]
            segment = await self._in_thread(self._store.seal, log)
            self._unsealed.pop(0)
            if segment is not None:
                self._segments.append(segment)
            await self._in_thread(self._store.remove, log)

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await self._loop.run_in_executor(self._threads, work, *args)

    def _report(self, trouble: BaseException) -> None:
        """Say that no more rows should be taken."""
        if self._trouble is None:
            self._trouble = trouble
        self.troubled.set()
        self._look_for_room()

    def _refuse(self, error: BaseException) -> None:
        """Take nothing more."""
        if self._refusal is None:
            self._refusal = error
        self._report(error)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._refuse(fault)

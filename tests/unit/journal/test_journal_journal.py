"""The journal as the engine sees it: put, done, trouble, close, again."""

import asyncio
import errno
import threading
from decimal import Decimal
from pathlib import Path

import pytest

from batcher.core.records import Outcome
from batcher.errors import JournalError, StorageError
from batcher.journal.journal import Journal
from batcher.storage.durable import Disk, LocalDisk, storage_error
from batcher.testing.clock import ManualClock
from batcher.testing.disk import FaultyDisk


def outcome(row: int, **fields) -> Outcome:
    return Outcome(row, "ok", **{"answer": f"answer {row}", "attempts": 1, "cost_usd": Decimal("0.1"), **fields})


def failed(row: int, kind="server") -> Outcome:
    return Outcome(row, "failed", error_kind=kind, attempts=3, cost_usd=Decimal(0))


async def opened(directory: Path, disk: Disk | None = None, **options) -> Journal:
    options = {"clock": ManualClock(), "job_fingerprint": "f1", "reserve_bytes": 1000, **options}
    return await Journal.open(directory / "journal", disk=disk or LocalDisk(), **options)


async def put_all(journal: Journal, outcomes) -> None:
    await asyncio.gather(*map(journal.put, outcomes))


async def answers(directory: Path, rows: int) -> list[str | None]:
    journal = await opened(directory)
    await journal.close()
    return [record["answer"] for batch in journal.merged(rows) for record in batch.to_pylist()]


async def abandon(journal: Journal) -> None:
    """Leave the journal as `kill -9` would, but for threads that are in the middle of something."""
    for task in (journal._syncing, journal._rotating):
        task.cancel()
    await asyncio.wait([journal._syncing, journal._rotating])
    await asyncio.to_thread(journal._threads.shutdown)


async def rows_left(directory: Path) -> list[int]:
    """The rows that a new process finds."""
    journal = await opened(directory)
    await journal.close()
    return list(journal.done)


def files(directory: Path) -> list[str]:
    return sorted(path.name[:6] + path.suffix for path in (directory / "journal").iterdir())


async def until(condition) -> None:
    """Let the loop and the journal's threads work until the condition holds; fails by the test's timeout."""
    while not condition():
        await asyncio.sleep(0.001)


async def test_what_was_put_is_there_after_close_and_reopen(tmp_path) -> None:
    """The simplest promise."""
    journal = await opened(tmp_path)
    await put_all(journal, [outcome(2), outcome(0), outcome(1)])
    await journal.close()

    assert ["000001.arrow"] == files(tmp_path)
    assert ["answer 0", "answer 1", "answer 2"] == await answers(tmp_path, 3)


async def test_the_puts_of_one_turn_are_one_write(tmp_path) -> None:
    """A thousand answers at once cost one call of the system, not a thousand."""
    disk = FaultyDisk(LocalDisk())
    journal = await opened(tmp_path, disk, reserve_bytes=1_000_000)
    before = disk.operations.count("append")

    await put_all(journal, map(outcome, range(1000)))

    assert 1 == disk.operations.count("append") - before
    await journal.close()


async def test_a_put_is_in_the_file_when_it_returns(tmp_path) -> None:
    """That is what survives `kill -9`: no close, no sync."""
    journal = await opened(tmp_path)
    await journal.put(outcome(0, answer="here it is"))

    assert b"here it is" in (tmp_path / "journal/000001.log").read_bytes()
    await journal.close()


async def test_a_second_outcome_of_a_row_is_an_error(tmp_path) -> None:
    """In the same turn, later, and after a reopening: it is the fault of the caller."""
    journal = await opened(tmp_path)
    first, second = await asyncio.gather(
        journal.put(outcome(0)), journal.put(outcome(0, answer="again")), return_exceptions=True
    )
    assert first is None
    assert isinstance(second, JournalError)
    await journal.close()

    journal = await opened(tmp_path)
    with pytest.raises(JournalError, match="row 0 has an outcome already"):
        await journal.put(outcome(0))
    await journal.close()
    assert ["answer 0"] == await answers(tmp_path, 1)


async def test_a_cancelled_put_is_kept_all_the_same(tmp_path) -> None:
    """Cancelling the wait must neither lose the answer nor disturb the others of its group."""
    journal = await opened(tmp_path)
    kept: list[list[int]] = []
    journal.on_kept = lambda outcomes: kept.append([outcome.row for outcome in outcomes])
    puts = [asyncio.create_task(journal.put(outcome(row))) for row in range(3)]
    await asyncio.sleep(0)
    puts[1].cancel()
    results = await asyncio.gather(*puts, return_exceptions=True)

    assert [None, asyncio.CancelledError, None] == [r if r is None else type(r) for r in results]
    assert 3 == len(journal.done)
    # The books follow the journal and not those who put: what it cost would be paid by nobody otherwise.
    assert [[0, 1, 2]] == kept
    await journal.close()
    assert ["answer 0", "answer 1", "answer 2"] == await answers(tmp_path, 3)


async def test_a_fault_in_the_books_takes_nothing_more_and_loses_nothing(tmp_path) -> None:
    """Nobody waits for the callback in which they are kept: it must be told to those who put."""

    def broken(outcomes) -> None:
        raise ZeroDivisionError

    journal = await opened(tmp_path)
    journal.on_kept = broken
    await journal.put(outcome(0))
    with pytest.raises(ZeroDivisionError):
        await journal.put(outcome(1))
    with pytest.raises(ZeroDivisionError):
        await journal.close()
    assert 1 == len(journal.done)


async def test_a_write_is_synced_within_its_time(tmp_path) -> None:
    """The sync begins `sync_every_s` after the first write, and one sync covers all that came until then."""
    disk, clock = FaultyDisk(LocalDisk()), ManualClock()
    journal = await opened(tmp_path, disk, clock=clock, sync_every_s=0.05)
    before = disk.operations.count("sync")
    await journal.put(outcome(0))
    await until(lambda: clock.sleepers)
    await journal.put(outcome(1))

    await clock.advance(0.04)
    assert 0 == disk.operations.count("sync") - before
    await clock.advance(0.02)
    await until(lambda: disk.operations.count("sync") - before == 1)

    await journal.put(outcome(2))
    await abandon(journal)
    disk.power_cut()
    assert [0, 1] == await rows_left(tmp_path)
    assert clock.monotonic() == 1_000.06


async def test_more_unsynced_bytes_than_allowed_make_put_wait(tmp_path) -> None:
    """A disk that cannot keep up slows the run down instead of filling the memory."""
    clock = ManualClock()
    journal = await opened(tmp_path, clock=clock, unsynced_bytes_max=100, sync_every_s=0.05)
    await journal.put(outcome(0, answer="x" * 200))
    late = asyncio.create_task(journal.put(outcome(1)))
    await until(lambda: clock.sleepers)
    assert not late.done()

    await clock.advance(0.06)

    await asyncio.wait_for(late, 5)
    await journal.close()


async def test_a_full_log_is_sealed_while_puts_go_on(tmp_path) -> None:
    """Segments appear as the run goes, the log goes after its segment, and nothing is lost between."""
    journal = await opened(tmp_path, log_bytes_max=300)
    for start in range(0, 60, 10):
        await put_all(journal, map(outcome, range(start, start + 10)))
        wanted = start // 10 + 1
        await until(lambda wanted=wanted: len(journal._segments) == wanted)
    await until(lambda: files(tmp_path) == [*(f"00000{number}.arrow" for number in range(1, 7)), "000007.log"])
    await journal.close()

    assert [f"answer {row}" for row in range(60)] == await answers(tmp_path, 60)
    assert not list((tmp_path / "journal").glob("*.log"))


class SlowToSeal(LocalDisk):
    """No segment is written before `let_go`; after it, each as `ends` says."""

    def __init__(self, ends: OSError | None = None) -> None:
        self.let_go, self._ends = threading.Event(), ends

    def durable_write(self, target, write) -> None:
        assert self.let_go.wait(30)
        if self._ends is not None:
            raise storage_error(self._ends, target)
        super().durable_write(target, write)


async def fill(journal: Journal, answer: str) -> list[asyncio.Task[None]]:
    """Put rows until one has to wait; all of them, the last one unfinished."""
    puts: list[asyncio.Task[None]] = []
    while not puts or puts[-1].done():
        puts.append(asyncio.create_task(journal.put(outcome(len(puts), answer=answer))))
        await asyncio.wait(puts[-1:], timeout=1)
        assert len(puts) < 40, "the log grows without end while another is sealed"
    return puts


@pytest.mark.parametrize("ends", [None, OSError(errno.EIO, "gone")])
async def test_answers_faster_than_sealing_make_put_wait(tmp_path, ends) -> None:
    """Memory stays bounded: a log is sealed as a whole. Where sealing fails, what is in flight is still taken."""
    disk = SlowToSeal(ends)
    journal = await opened(tmp_path, disk, log_bytes_max=500_000)
    puts = await fill(journal, "x" * 200_000)
    assert max(log.size_bytes for log in (journal._log, *journal._unsealed)) < 2_000_000

    disk.let_go.set()

    await asyncio.wait_for(puts[-1], 5)
    await until(lambda: journal.trouble is not None or not journal._unsealed)
    assert (journal.trouble is None) == (ends is None)
    await asyncio.wait_for(put_all(journal, [outcome(len(puts) + more, answer="x" * 200_000) for more in range(20)]), 5)
    await journal.close()
    assert list(range(len(puts) + 20)) == await rows_left(tmp_path)


async def test_a_disk_that_fills_up_stops_the_run_before_an_answer_is_lost(tmp_path) -> None:
    """The trouble is told while the room for what is in flight is still there."""
    disk = FaultyDisk(LocalDisk(), room_bytes=20_000)
    journal = await opened(tmp_path, disk, reserve_bytes=5_000)
    row = 0
    while not journal.troubled.is_set():
        await journal.put(outcome(row, answer="x" * 100))
        row += 1
    assert isinstance(journal.trouble, StorageError)
    assert "disk is full" in str(journal.trouble)

    in_flight = range(row, row + 20)  # 20 answers of about 200 bytes fit into 5,000
    await put_all(journal, (outcome(number, answer="y" * 100) for number in in_flight))
    await journal.close()

    assert row + 20 == len(await answers(tmp_path, row + 20))


async def test_a_journal_that_cannot_be_sealed_stays_a_log(tmp_path) -> None:
    """`close` on a full disk: the log is as good as a segment, for results and for a resume."""
    disk = FaultyDisk(LocalDisk(), room_bytes=3_000)
    journal = await opened(tmp_path, disk, reserve_bytes=500)
    await put_all(journal, (outcome(row) for row in range(10)))
    await journal.close()

    assert isinstance(journal.trouble, StorageError)
    assert ["000001.log"] == files(tmp_path)
    assert 10 == sum(map(len, journal.merged(10)))
    assert [f"answer {row}" for row in range(10)] == await answers(tmp_path, 10)


async def test_no_room_at_all_is_told_before_anything_is_sent(tmp_path) -> None:
    """`open` itself fails when the reserve has no room."""
    with pytest.raises(StorageError, match="disk is full"):
        await opened(tmp_path, FaultyDisk(LocalDisk(), room_bytes=500))


async def test_a_failed_write_is_told_to_all_of_its_group_and_later(tmp_path) -> None:
    """Nobody takes an answer for kept that is not, and `done` says so too."""
    disk = FaultyDisk(LocalDisk(), fail_at=5, error_number=errno.EIO)
    journal = await opened(tmp_path, disk)
    journal.on_kept = lambda outcomes: pytest.fail(f"{len(outcomes)} are booked and not kept")
    assert ["open_log", "reserve", "append", "sync"] == disk.operations

    results = await asyncio.gather(journal.put(outcome(0)), journal.put(outcome(1)), return_exceptions=True)

    assert [StorageError, StorageError] == [type(result) for result in results]
    assert 0 == len(journal.done)
    assert journal.troubled.is_set()
    with pytest.raises(StorageError):
        await journal.put(outcome(2))
    with pytest.raises(StorageError):
        await journal.close()
    assert [] == await rows_left(tmp_path)


async def test_after_a_failed_sync_nothing_is_taken(tmp_path) -> None:
    """A second sync would succeed and prove nothing: the kernel may have dropped what it could not write."""
    disk, clock = FaultyDisk(LocalDisk(), fail_at=6, error_number=errno.EIO), ManualClock()
    journal = await opened(tmp_path, disk, clock=clock)
    await journal.put(outcome(0))
    await until(lambda: clock.sleepers)
    await clock.advance(1)
    await journal.troubled.wait()

    assert "sync" == disk.operations[-1]
    with pytest.raises(StorageError):
        await journal.put(outcome(1))
    with pytest.raises(StorageError):
        await journal.close()
    assert "sync" == disk.operations[5]
    assert 6 == len(disk.operations)


async def test_a_fault_in_the_background_is_not_lost(tmp_path, monkeypatch) -> None:
    """A journal whose sync died must not go on taking outcomes."""
    clock = ManualClock()
    journal = await opened(tmp_path, clock=clock)

    async def broken_sleep(wait_s: float) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(clock, "sleep", broken_sleep)
    await journal.put(outcome(0))
    await journal.troubled.wait()

    with pytest.raises(ZeroDivisionError):
        await journal.put(outcome(1))
    with pytest.raises(ZeroDivisionError):
        await journal.close()


async def test_failed_rows_are_done_until_they_are_asked_again(tmp_path) -> None:
    """Resume leaves them alone, retry asks them, and their spend is added to the new one's."""
    journal = await opened(tmp_path)
    invalid = Outcome(3, "invalid", answer="?", error_kind="invalid_answer", attempts=2, cost_usd=Decimal("0.2"))
    await put_all(journal, [outcome(0), failed(1), failed(2, kind=None), invalid, outcome(4, answer="")])
    await journal.close()

    journal = await opened(tmp_path)
    counts = journal.counts()
    assert (2, 1, 2, 1, 5) == (counts.ok, counts.invalid, counts.failed, counts.empty, counts.done)
    assert {"server": 1, "unknown": 1, "invalid_answer": 1} == counts.failures
    assert [1, 2, 3] == list(journal.failed_rows())

    assert 3 == journal.ask_again()
    assert [0, 4] == list(journal.done)
    assert (2, 0, {}) == (journal.counts().ok, journal.counts().failed, journal.counts().failures)
    await put_all(journal, [outcome(1), failed(3)])
    with pytest.raises(JournalError):
        await journal.put(outcome(1))
    await journal.close()

    journal = await opened(tmp_path)
    assert [2, 3] == list(journal.failed_rows())
    assert 5 == len(journal.done)
    spent = journal.spent_before[None, None]
    assert (7, Decimal("0.5")) == (spent.outcomes, spent.cost_usd)
    await journal.close()
    [batch] = journal.merged(5)
    assert [1, 4, 3, 5, 1] == batch.column("attempts").to_pylist()
    assert ["ok", "ok", "failed", "failed", "ok"] == batch.column("status").to_pylist()


async def test_the_sums_are_by_provider_and_model_from_log_and_segment_alike(tmp_path) -> None:
    """What a resumed ledger starts from; unknown costs are counted, never 0."""
    spends = [
        {"provider": "a", "asked_model": "m", "input_tokens": 5, "cached_tokens": 1, "cost_usd": Decimal("1E-30")},
        {"provider": "a", "asked_model": "m", "output_tokens": 7, "reasoning_tokens": 2, "cost_usd": Decimal(1)},
        {"provider": "a", "asked_model": "n", "cost_usd": None},
        {"provider": "b", "asked_model": "m", "cost_usd": Decimal("0.10")},
        {"provider": "b", "asked_model": "m", "cost_usd": Decimal("0.10")},
    ]
    journal = await opened(tmp_path)
    await put_all(journal, [outcome(row, **spend) for row, spend in enumerate(spends)])
    await abandon(journal)
    from_log = await opened(tmp_path)
    await from_log.close()
    from_segment = await opened(tmp_path)
    await from_segment.close()

    assert from_log.spent_before == from_segment.spent_before
    one = from_segment.spent_before["a", "m"]
    assert (2, 2, 5, 1, 7, 2, 0) == (
        one.outcomes,
        one.attempts,
        one.input_tokens,
        one.cached_tokens,
        one.output_tokens,
        one.reasoning_tokens,
        one.cost_unknown,
    )
    assert Decimal("1.000000000000000000000000000001") == one.cost_usd
    assert (1, Decimal(0)) == (
        from_segment.spent_before["a", "n"].cost_unknown,
        from_segment.spent_before["a", "n"].cost_usd,
    )
    assert Decimal("0.2") == from_segment.spent_before["b", "m"].cost_usd


async def test_closing_twice_is_closing_once_and_ends_puts(tmp_path) -> None:
    """A `finally` may close what a stop has closed; a late put is told."""
    journal = await opened(tmp_path)
    await journal.put(outcome(0))
    with pytest.raises(JournalError, match="must be closed"):
        journal.merged(1)
    await journal.close()
    await journal.close()

    with pytest.raises(JournalError, match="closed"):
        await journal.put(outcome(1))


async def test_an_empty_journal_leaves_no_file(tmp_path) -> None:
    """A run that was stopped before its first answer."""
    await (await opened(tmp_path)).close()
    assert [] == files(tmp_path)

"""The journal under a disk that fails, power that goes and a process that is killed."""

import asyncio
import json
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from batcher.core.records import Outcome
from batcher.errors import StorageError
from batcher.journal.journal import Journal
from batcher.storage.durable import Disk, LocalDisk
from batcher.testing.clock import ManualClock
from batcher.testing.disk import FaultyDisk

ROWS = 60


def outcome(row: int) -> Outcome:
    """Every seventh row fails; what a row answers can be told from its number."""
    if row % 7 == 3:
        return Outcome(row, "failed", error_kind="server", attempts=1)
    return Outcome(row, "ok", answer=f"answer {row} " * 5, attempts=1)


async def opened(directory: Path, disk: Disk | None = None, **options) -> Journal:
    options = {"clock": ManualClock(), "sync_every_s": 0, "log_bytes_max": 2000, "reserve_bytes": 2000, **options}
    return await Journal.open(directory, disk=disk or LocalDisk(), job_fingerprint="f", **options)


async def abandon(journal: Journal) -> None:
    """Leave the journal as `kill -9` would, but for threads that are in the middle of something."""
    tasks = [journal._syncing, journal._rotating]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await asyncio.to_thread(journal._threads.shutdown)


async def put_missing(journal: Journal, rows: int, acknowledged: set[int]) -> None:
    """Put what is missing, ten at a time, and note what the journal has taken."""

    async def put(row: int) -> None:
        await journal.put(outcome(row))
        acknowledged.add(row)

    missing = list(journal.done.missing(rows))
    for start in range(0, len(missing), 10):
        async with asyncio.TaskGroup() as group:
            for row in missing[start : start + 10]:
                group.create_task(put(row))
        await asyncio.sleep(0.001)  # so that syncs and sealing come between


async def check_whole(directory: Path, rows: int) -> None:
    """A new process finds every row once, as it was put."""
    journal = await opened(directory)
    assert rows == len(journal.done)
    await journal.close()
    records = [record for batch in journal.merged(rows) for record in batch.to_pylist()]
    assert [outcome(row).answer for row in range(rows)] == [record["answer"] for record in records]
    assert [1] * rows == [record["attempts"] for record in records]


@pytest.mark.parametrize("lasts", [False, True], ids=["once", "for-good"])
@pytest.mark.parametrize("mode", ["fail", "short"])
async def test_whichever_operation_fails_no_acknowledged_row_is_lost(tmp_path, mode, lasts) -> None:
    """The n-th operation fails for n = 1, 2, 3 … until a run passes untouched; the next process goes on each time."""
    number = 0
    while True:
        number += 1
        directory = tmp_path / str(number)
        disk = FaultyDisk(LocalDisk(), fail_at=number, mode=mode, lasts=lasts)
        acknowledged: set[int] = set()
        journal = None
        try:
            journal = await opened(directory, disk)
            await put_missing(journal, ROWS, acknowledged)
            await journal.close()
            assert ROWS == sum(map(len, journal.merged(ROWS)))
        except* StorageError:
            if journal is not None:
                await abandon(journal)

        survivor = await opened(directory)
        assert acknowledged <= set(survivor.done)
        await put_missing(survivor, ROWS, acknowledged)
        await survivor.close()
        await check_whole(directory, ROWS)
        if not disk.has_failed:
            assert number > 20
            return


@pytest.mark.parametrize("mode", ["fail", "short"])
async def test_whichever_operation_of_a_recovery_fails_the_next_one_mends_it(tmp_path, mode) -> None:
    """Opening after a crash writes too: it may fail anywhere and lose nothing."""
    number = 0
    while True:
        number += 1
        directory = tmp_path / str(number)
        full = FaultyDisk(LocalDisk(), fail_at=5 + ROWS)
        journal = await opened(directory, full, log_bytes_max=700)
        journal._rotating.cancel()
        await put_missing(journal, ROWS, set())
        await abandon(journal)
        # A second log beside the first, as when a process dies between opening the one and sealing the other.
        journal._store.open(2).close()

        disk = FaultyDisk(LocalDisk(), fail_at=number, mode=mode)
        try:
            await abandon(await opened(directory, disk))
        except StorageError:
            assert disk.has_failed
        await check_whole(directory, ROWS)
        if not disk.has_failed:
            assert number > 4
            return


@pytest.mark.parametrize("seed", range(8))
async def test_a_power_cut_loses_nothing_that_was_synced(tmp_path, seed) -> None:
    """Blocks not yet synced are written in any order, or not: what is left is read, and nothing is taken for damage."""
    chance = random.Random(seed)
    disk, clock = FaultyDisk(LocalDisk()), ManualClock()
    journal = await opened(tmp_path, disk, clock=clock, sync_every_s=1, log_bytes_max=1 << 20, reserve_bytes=1 << 16)
    synced_rows = chance.randrange(1, 200)
    await put_missing(journal, synced_rows, set())
    syncs = disk.operations.count("sync")
    await clock.advance(1)
    while disk.operations.count("sync") == syncs:
        await asyncio.sleep(0.001)
    await put_missing(journal, 600, set())
    await abandon(journal)
    disk.power_cut(chance if seed else None)

    survivor = await opened(tmp_path)
    assert synced_rows <= survivor.done.first_missing()
    if not seed:
        assert synced_rows == len(survivor.done)
    await put_missing(survivor, 600, set())
    await survivor.close()
    await check_whole(tmp_path, 600)


CHILD = textwrap.dedent("""
    import asyncio, os, sys
    from pathlib import Path
    from batcher.clock import SystemClock
    from batcher.journal.journal import Journal
    from batcher.storage.durable import LocalDisk
    sys.path.insert(0, sys.argv[2])
    from test_faults_journal import outcome

    async def main():
        journal = await Journal.open(
            Path(sys.argv[1]), disk=LocalDisk(), clock=SystemClock(), job_fingerprint="f",
            log_bytes_max=30_000, sync_every_s=0.001, reserve_bytes=4096,
        )
        missing = journal.done.missing(int(sys.argv[3]))
        async def worker():
            for row in missing:
                await journal.put(outcome(row))
                os.write(1, b"%d\\n" % row)
        await asyncio.gather(*(worker() for _ in range(20)))
        await journal.close()

    asyncio.run(main())
""")


async def test_after_sigkill_every_acknowledged_row_is_there(tmp_path) -> None:
    """A real process, killed for real at seeded moments, some of them in the middle of sealing."""
    chance = random.Random(3)
    rows = 12_000
    acknowledged: set[int] = set()
    for _ in range(4):
        command = [sys.executable, "-c", CHILD, str(tmp_path), str(Path(__file__).parent), str(rows)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            for _ in range(chance.randrange(1, 2000)):
                acknowledged.add(int(child.stdout.readline()))
            child.send_signal(signal.SIGKILL)
            # What it wrote before it died counts; the last line may be cut.
            acknowledged.update(map(int, child.stdout.read().split(b"\n")[:-1]))
        assert -signal.SIGKILL == child.returncode

        # The segments are read where they lie; the open log is left as it was killed, but for its tail.
        survivor = await opened(tmp_path, log_bytes_max=1 << 30)
        assert acknowledged <= set(survivor.done)
        await abandon(survivor)
    await put_missing(survivor := await opened(tmp_path, log_bytes_max=1 << 30), rows, acknowledged)
    await survivor.close()
    await check_whole(tmp_path, rows)


FULL_DISK_CHILD = textwrap.dedent("""
    import asyncio, json, resource, sys
    from pathlib import Path
    from batcher.clock import SystemClock
    from batcher.journal.journal import Journal
    from batcher.storage.durable import LocalDisk
    sys.path.insert(0, sys.argv[2])
    from test_faults_journal import outcome

    async def main():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        journal = await Journal.open(
            Path(sys.argv[1]), disk=LocalDisk(), clock=SystemClock(), job_fingerprint="f", reserve_bytes=20_000,
        )
        row = 0
        while not journal.troubled.is_set():
            await journal.put(outcome(row))
            row += 1
        await asyncio.gather(*(journal.put(outcome(row + late)) for late in range(100)))
        await journal.close()
        print(json.dumps([row + 100, str(journal.trouble)]))

    asyncio.run(main())
""")


async def test_a_real_file_size_limit_stops_in_time(tmp_path) -> None:
    """The system's own refusal, not a made one: the hundred rows in flight still fit."""
    command = [sys.executable, "-c", FULL_DISK_CHILD, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    rows, trouble = json.loads(done.stdout)

    assert "the file may not grow further (file size limit)" in trouble
    await check_whole(tmp_path, rows)

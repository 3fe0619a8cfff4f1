"""The journal against kills, power cuts, disks that refuse, and flipped bits, in any order.

`test_props_journal.py` holds that what is put comes back; this holds what survives. Each put costs another power
of two, so the sum of the costs that a new process finds says which puts it has, each of them once.
"""

import asyncio
import random
import shutil
import tempfile
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from batcher.core.records import Outcome
from batcher.errors import JournalError, StorageError
from batcher.journal.journal import Journal
from batcher.journal.tally import EXACT
from batcher.storage.durable import LocalDisk
from batcher.testing.clock import ManualClock
from batcher.testing.disk import FaultyDisk

ROWS = 30
STATUSES = ["ok", "ok", "invalid", "failed"]


@dataclass
class Put:
    row: int
    status: str
    was_taken: bool = False
    was_synced: bool = False


class JournalModel(RuleBasedStateMachine):
    """The model is the list of all puts, in order."""

    @initialize(log_bytes_max=st.sampled_from([300, 1_500, 1_000_000]))
    def begin(self, log_bytes_max: int) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.log_bytes_max = log_bytes_max
        self.runner = asyncio.Runner()
        self.puts: dict[int, Put] = {}
        self.serial = 0
        self.open()

    def teardown(self) -> None:
        if not hasattr(self, "journal"):
            return
        self.restart_after_close()
        self.put([(row, "ok") for row in self.journal.done.missing(ROWS)])
        self.runner.run(self.journal.close())
        statuses = [record["status"] for batch in self.journal.merged(ROWS) for record in batch.to_pylist()]
        assert [put.status for _, put in sorted(self.latest().items())] == statuses
        self.runner.close()
        shutil.rmtree(self.directory)

    def open(self) -> None:
        self.disk = FaultyDisk(LocalDisk())
        self.clock = ManualClock()

        async def opened() -> Journal:
            return await Journal.open(
                self.directory, disk=self.disk, clock=self.clock, job_fingerprint="f",
                log_bytes_max=self.log_bytes_max, reserve_bytes=4_000, sync_every_s=0.05,
            )  # fmt: skip

        self.journal = self.runner.run(opened())

    def abandon(self) -> None:
        """As `kill -9`, but for threads that are in the middle of something."""

        async def abandoned() -> None:
            tasks = [self.journal._syncing, self.journal._rotating]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await asyncio.to_thread(self.journal._threads.shutdown)

        self.runner.run(abandoned())

    def latest(self) -> dict[int, Put]:
        return {put.row: put for put in self.puts.values()}

    def reopen(self, must_survive: set[int], may_survive: set[int]) -> None:
        """A new process: which puts it finds is the new model."""
        self.open()
        total = Decimal(0)
        for spent in self.journal.spent_before.values():
            total = EXACT.add(total, spent.cost_usd)
        found = {serial for serial in self.puts if int(total) >> serial & 1}
        assert sum(1 << serial for serial in found) == total, "an outcome is there twice, or was never put"
        assert must_survive <= found <= may_survive
        self.puts = {serial: put for serial, put in self.puts.items() if serial in found}
        for put in self.puts.values():
            put.was_taken = put.was_synced = True  # opening syncs what it found
        latest = self.latest()
        assert sorted(latest) == list(self.journal.done)
        wrong = sorted(row for row, put in latest.items() if put.status != "ok")
        assert wrong == list(self.journal.failed_rows())

    def taken(self) -> set[int]:
        return {serial for serial, put in self.puts.items() if put.was_taken}

    def put(self, wanted: list[tuple[int, str]], cancel: bool = False) -> None:
        made = []
        for row, status in wanted:
            self.serial += 1
            self.puts[self.serial] = Put(row, status)
            made.append(Outcome(row, status, answer="ตอบ trả lời 回答", cost_usd=Decimal(1 << self.serial)))  # type: ignore[arg-type]
        first = self.serial - len(made) + 1

        async def put_all() -> None:
            tasks = [asyncio.ensure_future(self.journal.put(outcome)) for outcome in made]
            await asyncio.sleep(0)
            if cancel:
                for task in tasks:
                    task.cancel()
            for serial, ended in enumerate(await asyncio.gather(*tasks, return_exceptions=True), start=first):
                if isinstance(ended, BaseException) and not isinstance(ended, asyncio.CancelledError | StorageError):
                    raise ended
                self.puts[serial].was_taken = ended is None

        self.runner.run(put_all())

    @rule(rows=st.sets(st.integers(0, ROWS - 1), min_size=1, max_size=6), seed=st.integers(0, 99), cancel=st.booleans())
    def put_new_rows(self, rows: set[int], seed: int, cancel: bool) -> None:
        chance = random.Random(seed)
        new = [(row, chance.choice(STATUSES)) for row in sorted(rows) if row not in self.journal.done]
        self.put(new, cancel=cancel and seed % 4 == 0)

    @rule(seed=st.integers(0, 99))
    def ask_again(self, seed: int) -> None:
        chance = random.Random(seed)
        wrong = list(self.journal.failed_rows())
        assert len(wrong) == self.journal.ask_again()
        self.put([(row, chance.choice(STATUSES)) for row in wrong])

    @rule()
    def sync(self) -> None:
        """50 ms pass: what was put before is synced when the sync is through."""
        taken = self.taken()
        if not self.journal._is_dirty.is_set():
            return

        async def synced() -> None:
            before = self.disk.operations.count("sync")
            await self.clock.advance(0.06)
            async with asyncio.timeout(10):
                while self.disk.operations.count("sync") == before or self.journal._sync_lock.locked():
                    await asyncio.sleep(0.001)

        self.runner.run(synced())
        if self.journal._refusal is None:
            for serial in taken:
                self.puts[serial].was_synced = True

    @rule()
    def let_it_seal(self) -> None:
        self.runner.run(asyncio.sleep(0.003))

    @rule()
    def kill(self) -> None:
        self.abandon()
        self.reopen(self.taken(), set(self.puts))

    @rule(seed=st.none() | st.integers(0, 1000))
    def cut_the_power(self, seed: int | None) -> None:
        """What was not synced is lost, or some blocks of it are."""
        self.abandon()
        self.disk.power_cut(None if seed is None else random.Random(seed))
        self.reopen({serial for serial, put in self.puts.items() if put.was_synced}, set(self.puts))

    @rule(
        ahead=st.integers(1, 4),
        mode=st.sampled_from(["fail", "short"]),
        rows=st.sets(st.integers(0, ROWS - 1), min_size=1, max_size=6),
    )
    def let_the_disk_refuse(self, ahead: int, mode: str, rows: set[int]) -> None:
        """Once refused nothing more is taken, and the next process finds what was taken before."""
        self.disk._fail_at, self.disk._mode, self.disk._lasts = len(self.disk.operations) + ahead, mode, True  # type: ignore[assignment]
        for row in sorted(rows):
            if row not in self.journal.done:
                self.put([(row, "ok")])
        self.abandon()
        self.reopen(self.taken(), set(self.puts))

    @rule()
    def restart_after_close(self) -> None:
        self.runner.run(self.journal.close())
        assert not list(self.directory.glob("*.log"))
        self.reopen(self.taken(), set(self.puts))

    @rule(pick=st.integers(0, 99), at=st.floats(0, 0.9999), bit=st.integers(0, 7))
    def flip_a_bit_of_a_segment(self, pick: int, at: float, bit: int) -> None:
        """It is named; once it is moved away its own puts are gone, and no others."""
        self.restart_after_close()
        segments = [segment.path for segment in self.journal._segments]
        self.abandon()
        if not segments:
            self.reopen(set(self.puts), set(self.puts))
            return
        victim = segments[pick % len(segments)]
        with pa.ipc.open_file(victim) as reader:
            inside = {int(Decimal(cost)).bit_length() - 1 for cost in reader.read_all()["cost_usd"].to_pylist()}
        content = bytearray(victim.read_bytes())
        content[int(at * len(content))] ^= 1 << bit
        victim.write_bytes(content)

        with pytest.raises(JournalError, match=f"segment {victim.name[:6]} does not match its name; move it away"):
            self.open()
        victim.unlink()
        others = set(self.puts) - inside
        self.reopen(others, others)


TestJournalModel = JournalModel.TestCase
TestJournalModel.settings = settings(
    max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

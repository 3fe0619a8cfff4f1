"""The journal equals the set of puts, whatever is done to it in whatever order."""

import asyncio
import os
import shutil
import tempfile
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from batcher.core.records import Outcome
from batcher.journal.journal import Journal
from batcher.storage.durable import LocalDisk
from batcher.testing.clock import ManualClock

TEXTS = st.text(max_size=30) | st.sampled_from(["", "\0" * 40, "x" * 700, "สวัสดี", "\ufffd"])
COUNTS = st.none() | st.integers(0, 2**40)
COSTS = st.none() | st.decimals(0, 1000, allow_nan=False, places=12) | st.just(Decimal("1E-60"))


def outcomes(row: int) -> st.SearchStrategy[Outcome]:
    return st.builds(
        Outcome,
        row=st.just(row),
        status=st.sampled_from(["ok", "ok", "invalid", "failed"]),
        answer=st.none() | TEXTS,
        reasoning=st.none() | TEXTS,
        error_kind=st.sampled_from([None, "server", "invalid_answer"]),
        provider=st.sampled_from([None, "a", "b"]),
        asked_model=st.sampled_from([None, "m"]),
        attempts=st.integers(0, 9),
        input_tokens=COUNTS,
        output_tokens=COUNTS,
        cost_usd=COSTS,
        latency_ms=st.none() | st.floats(0, 1e9),
    )


class JournalMachine(RuleBasedStateMachine):
    """The model is a list of outcomes for each row; the journal lives on a real disk with tiny logs."""

    @initialize(log_bytes_max=st.sampled_from([200, 2_000, 1_000_000]))
    def begin(self, log_bytes_max: int) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.log_bytes_max = log_bytes_max
        self.runner = asyncio.Runner()
        self.put: dict[int, list[Outcome]] = {}
        self.journal = self.runner.run(self.opened())

    def teardown(self) -> None:
        if not hasattr(self, "journal"):
            return
        self.runner.run(self.journal.close())
        rows = max(self.put, default=-1) + 1
        self.reopen()
        missing = list(self.journal.done.missing(rows))
        self.put_outcomes([Outcome(row, "ok", answer="filled in") for row in missing])
        self.runner.run(self.journal.close())
        merged = [record for batch in self.journal.merged(rows) for record in batch.to_pylist()]
        assert [self.expected(row) for row in range(rows)] == [seen(record) for record in merged]
        self.runner.close()
        shutil.rmtree(self.directory)

    async def opened(self) -> Journal:
        return await Journal.open(
            self.directory,
            disk=LocalDisk(),
            clock=ManualClock(),
            job_fingerprint="f",
            log_bytes_max=self.log_bytes_max,
            reserve_bytes=5000,
        )

    async def abandoned(self) -> None:
        """As `kill -9`, but for threads that are in the middle of something."""
        tasks = [self.journal._syncing, self.journal._rotating]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.to_thread(self.journal._threads.shutdown)

    def reopen(self) -> None:
        self.journal = self.runner.run(self.opened())
        self.check()

    def check(self) -> None:
        """`done`, the counts and the failed rows are those of the model."""
        latest = [records[-1] for _, records in sorted(self.put.items())]
        counts = self.journal.counts()
        assert [one.row for one in latest] == list(self.journal.done)
        assert [one.row for one in latest if one.status != "ok"] == list(self.journal.failed_rows())
        assert sum(one.status == "ok" for one in latest) == counts.ok
        assert sum(one.status == "ok" and not one.answer for one in latest) == counts.empty
        assert sum(one.status == "invalid" for one in latest) == counts.invalid
        spent = self.journal.spent_before.values()
        every = [one for records in self.put.values() for one in records]
        assert sum(one.attempts for one in every) == sum(sums.attempts for sums in spent)
        assert sum(one.cost_usd is None for one in every) == sum(sums.cost_unknown for sums in spent)

    def put_outcomes(self, records: list[Outcome]) -> None:
        async def put_all() -> None:
            await asyncio.gather(*map(self.journal.put, records))

        self.runner.run(put_all())
        for one in records:
            self.put.setdefault(one.row, []).append(one)

    @rule(data=st.data(), rows=st.sets(st.integers(0, 40), max_size=8))
    def put_new_rows(self, data: st.DataObject, rows: set[int]) -> None:
        self.put_outcomes([data.draw(outcomes(row)) for row in sorted(rows) if row not in self.journal.done])

    @rule(data=st.data(), chosen=st.sets(st.integers(0, 40)))
    def retry(self, data: st.DataObject, chosen: set[int]) -> None:
        wrong = list(self.journal.failed_rows())
        assert len(wrong) == self.journal.ask_again()
        self.put_outcomes([data.draw(outcomes(row)) for row in wrong if row in chosen])
        self.close_and_reopen()

    @rule()
    def let_it_work(self) -> None:
        async def turns() -> None:
            for _ in range(5):
                await asyncio.sleep(0.001)

        self.runner.run(turns())

    @rule()
    def close_and_reopen(self) -> None:
        self.runner.run(self.journal.close())
        self.reopen()

    @rule(garbage=st.binary(max_size=200))
    def kill_and_reopen(self, garbage: bytes) -> None:
        """Killed in the middle of an append: a part of a frame is behind the last one."""
        self.runner.run(self.abandoned())
        log = self.journal._log
        with log.path.open("r+b") as file:
            file.seek(log.size_bytes)
            file.write(garbage)
        self.reopen()

    @precondition(lambda self: self.log_bytes_max > 10_000)
    @rule(cut=st.integers(0, 3000))
    def lose_the_tail(self, cut: int) -> None:
        """The log ends at any byte: the last puts are gone, in order, and no other."""
        self.runner.run(self.abandoned())
        log = self.journal._log
        os.truncate(log.path, max(log.size_bytes - cut, 0))
        self.journal = self.runner.run(self.opened())
        kept_count = sum(sums.outcomes for sums in self.journal.spent_before.values())
        # Only a retry puts a row twice, and it seals its log; so what is lost here are the rows put last.
        for row in list(self.put)[kept_count - sum(len(records) - 1 for records in self.put.values()) :]:
            del self.put[row]
        self.check()

    def expected(self, row: int) -> dict:
        records = self.put[row]
        merged = seen({name: getattr(records[-1], name) for name in records[-1].__struct_fields__})
        for name in ("input_tokens", "output_tokens"):
            counts = [getattr(one, name) for one in records if getattr(one, name) is not None]
            merged[name] = sum(counts) if counts else None
        costs = [one.cost_usd for one in records]
        merged["cost_usd"] = None if None in costs else sum(map(Fraction, costs))
        merged["attempts"] = sum(one.attempts for one in records)
        return merged


def seen(record: dict) -> dict:
    """A record with the cost as an exact number, however it is written."""
    cost = record["cost_usd"]
    return {**record, "cost_usd": None if cost is None else Fraction(Decimal(cost))}


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

"""Every sink passes the suite."""

from decimal import Decimal
from pathlib import Path

from sink_suite import SinkSuite

from batcher.clock import SystemClock
from batcher.core.records import Outcome
from batcher.journal.journal import Journal
from batcher.storage.durable import LocalDisk


class TestJournal(SinkSuite):
    """The journal, read back by its results' way, which wants every row: the others are filled in."""

    async def make(self, directory: Path) -> Journal:
        return await Journal.open(directory, disk=LocalDisk(), clock=SystemClock(), job_fingerprint="f")

    async def kept(self, sink: Journal, directory: Path) -> list[Outcome]:
        await sink.close()
        found = await self.make(directory)
        kept = set(found.done)
        rows = max(kept, default=-1) + 1
        for row in list(found.done.missing(rows)):
            await found.put(Outcome(row, "ok"))
        await found.close()
        records = [record for batch in found.merged(rows) for record in batch.to_pylist()]
        return [
            Outcome(**record | {"cost_usd": None if record["cost_usd"] is None else Decimal(record["cost_usd"])})
            for record in records
            if record["row"] in kept
        ]

"""What every sink keeps. A new one joins with a subclass that makes it and reads it back:

class TestJournal(SinkSuite):
    async def make(self, directory): return await Journal.open(directory, ...)
    async def kept(self, sink, directory): ...
"""

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batcher.core.contracts import Sink
from batcher.core.records import Outcome
from batcher.errors import BatcherError

OUTCOMES = [
    Outcome(0, "ok", answer="hoàn tiền 退款 🙂", label="billing", attempts=1, cost_usd=Decimal("0.0000125")),
    Outcome(2, "invalid", answer="", error_kind="invalid_answer", error="no label", attempts=2),
    Outcome(1, "failed", error_kind="timeout", error="no answer in 60 s", attempts=5, cost_usd=Decimal(0)),
]


class SinkSuite:
    """Subclass, name it Test..., and give `make` and `kept`."""

    async def make(self, directory: Path) -> Any:
        """An empty sink that keeps outcomes under `directory`."""
        raise NotImplementedError

    async def kept(self, sink: Any, directory: Path) -> list[Outcome]:
        """What is on disk now, by row, as another process would find it; `sink` is not used after it."""
        raise NotImplementedError

    async def test_what_was_put_is_kept(self, tmp_path: Path) -> None:
        """Every field of every status, in row order, whatever the order of the puts."""
        sink: Sink = await self.make(tmp_path)
        for outcome in OUTCOMES:
            await sink.put(outcome)
        assert sorted(OUTCOMES, key=lambda outcome: outcome.row) == await self.kept(sink, tmp_path)

    async def test_puts_at_the_same_time_are_all_kept(self, tmp_path: Path) -> None:
        """Hundreds of workers put at once."""
        sink: Sink = await self.make(tmp_path)
        outcomes = [Outcome(row, "ok", answer=str(row)) for row in range(500)]
        await asyncio.gather(*map(sink.put, reversed(outcomes)))
        assert outcomes == await self.kept(sink, tmp_path)

    async def test_a_cancelled_put_disturbs_no_other(self, tmp_path: Path) -> None:
        """The others are kept once; the cancelled one is kept once or not at all."""
        sink: Sink = await self.make(tmp_path)
        puts = [asyncio.create_task(sink.put(outcome)) for outcome in OUTCOMES]
        await asyncio.sleep(0)
        puts[0].cancel()
        await asyncio.gather(*puts, return_exceptions=True)
        kept = await self.kept(sink, tmp_path)
        assert sorted(OUTCOMES[1:], key=lambda outcome: outcome.row) == [one for one in kept if one.row != 0]
        assert len(kept) in {2, 3}

    async def test_a_row_has_one_outcome(self, tmp_path: Path) -> None:
        """A second one is an error of the caller's, and the first stands."""
        sink: Sink = await self.make(tmp_path)
        await sink.put(OUTCOMES[0])
        with pytest.raises(BatcherError):
            await sink.put(Outcome(0, "ok", answer="another"))
        assert OUTCOMES[:1] == await self.kept(sink, tmp_path)

"""Calls whose rows have no outcome are on the books of every process, and the hint at the wall can be typed."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from batcher.assemble.books import UNFINISHED, Purse, book, raise_hint
from batcher.assemble.stack import endpoint_of
from batcher.config.load import load_job
from batcher.config.model import Job
from batcher.core.progress import Progress
from batcher.core.records import Outcome, Spend, Usage
from batcher.errors import JournalError
from batcher.journal.journal import Journal
from batcher.ledger.ledger import Ledger, Totals
from batcher.runs.runfile import RunFile

RUN_FILE = RunFile(
    job="งาน",
    state="running",
    started_at=datetime(2026, 11, 22, tzinfo=UTC),
    updated_at=datetime(2026, 11, 22, tzinfo=UTC),
    job_path="/srv/jobs/งาน.yaml",
    base_directory="/srv/jobs",
    pid=1,
    host="nachts",
)
CALL = Spend(1, Usage(100, 40, 20, 5), Decimal("0.0000103"))


class EmptyJournal:
    def __init__(self) -> None:
        self.spent_before: dict[Any, Any] = {}


async def no_pledge(_: Decimal) -> None: ...


def a_job(folder: Path, more: str = "") -> Job:
    (folder / "rows.jsonl").write_text('{"text": "ใช่"}\n', encoding="utf-8")
    job = folder / "งาน.yaml"
    job.write_text(
        "input: rows.jsonl\nprompt: '{{ text }}'\nmodel: gpt-4.1-nano\n"
        f"provider: {{base_url: 'http://127.0.0.1:9/v1'}}\n{more}",
        encoding="utf-8",
    )
    return load_job(job, environ={}).job


async def process(job: Job, run_file: RunFile, *, calls: int, outcomes: int) -> tuple[Purse, Totals]:
    """One process of a run: so many calls ended, so many rows of one call each were journalled."""
    ledger, progress = Ledger(), Progress()
    purse = Purse(job, endpoint_of(job.sole_provider, job), ledger, progress)
    purse.open(run_file, cast(Journal, EmptyJournal()), no_pledge, hint="")
    purse.begin()
    before = ledger.total().calls
    for _ in range(calls):
        progress.calls.add(CALL)
    kept = [
        Outcome(
            row, "ok", provider=job.sole_provider.name, asked_model="gpt-4.1-nano", attempts=1, input_tokens=100,
            cached_tokens=40, output_tokens=20, reasoning_tokens=5, cost_usd=CALL.cost_usd,
        )
        for row in range(outcomes)
    ]  # fmt: skip
    book(kept, ledger, purse.budget, progress)
    await purse.close()
    total = ledger.total()
    assert outcomes == progress.ok
    # What is shown is what is booked, the calls of unfinished rows among it.
    assert (total.calls, total.input_tokens, total.output_tokens, total.cost_usd) == (
        before + progress.attempts, 100 * before + progress.input_tokens, 20 * before + progress.output_tokens,
        before * CALL.cost_usd + progress.cost_usd,
    )  # fmt: skip
    return purse, ledger.total()


@pytest.mark.parametrize("budget", ["", "params: {max_tokens: 9}\nbudget: {usd: 1}\n"])
async def test_calls_of_unfinished_rows_are_on_the_ledger_of_each_process(tmp_path: Path, budget: str) -> None:
    """A row that was asked twice when the run stopped has been paid twice, budget or not, and for good."""
    job = a_job(tmp_path, budget)
    purse, total = await process(job, RUN_FILE, calls=5, outcomes=3)
    assert Totals(3, 5, 500, 200, 100, 25, Decimal("0.0000515")) == total
    assert Totals(0, 2, 200, 80, 40, 10, Decimal("0.0000206")) == purse.unfinished

    kept = msgspec.structs.replace(
        RUN_FILE, totals={UNFINISHED: msgspec.json.decode(msgspec.json.encode(purse.unfinished.to_json()))}
    )
    purse, total = await process(job, kept, calls=4, outcomes=1)
    assert Totals(0, 5, 500, 200, 100, 25, Decimal("0.0000515")) == purse.unfinished
    # Its journal was empty: what the first process journalled is not counted here.
    assert replace(purse.unfinished, rows=1, calls=6, input_tokens=600, cached_tokens=240, output_tokens=120,
                   reasoning_tokens=30, cost_usd=Decimal("0.0000618")) == total  # fmt: skip
    if purse.budget is not None:
        # What this process paid beyond its outcomes is settled by the gate's holds, of which there were none here.
        assert Decimal("0.0000206") == purse.budget.spent_usd


@pytest.mark.parametrize(
    "kept", [{}, [], {"calls": 1}, Totals().to_json() | {"calls": "1"}, Totals().to_json() | {"cost_usd": "x"}]
)
def test_books_that_were_tampered_with_are_not_guessed(tmp_path: Path, kept: Any) -> None:
    """What a run has spent is known or it is not."""
    job = a_job(tmp_path)
    purse = Purse(job, endpoint_of(job.sole_provider, job), Ledger(), Progress())
    broken = msgspec.structs.replace(RUN_FILE, totals={UNFINISHED: kept})
    with pytest.raises(JournalError, match="so what was spent is not known"):
        purse.open(broken, cast(Journal, EmptyJournal()), no_pledge, hint="")


def test_the_hint_at_the_wall_is_the_command_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has all that the run was begun with, or it would begin another."""
    monkeypatch.chdir(tmp_path)
    job = a_job(tmp_path, "")
    run_file = msgspec.structs.replace(RUN_FILE, job_path=str(tmp_path / "งาน.yaml"))
    run = tmp_path / "runs" / "งาน" / "2026-11-22T02-00-00Z-7f3a"

    assert "raise budget.usd in งาน.yaml, then `batcher run งาน.yaml` goes on" == raise_hint(
        job, run_file, run, {}, is_retry=False
    )

    limited = job.model_copy(update={"input": job.input.model_copy(update={"limit": 300})})
    run_file = msgspec.structs.replace(run_file, variables={"lời": "ซื้อ $HOME"})
    elsewhere = tmp_path / "đêm qua" / "งาน" / run.name
    assert (
        "raise budget.usd in งาน.yaml, then `batcher run งาน.yaml --runs 'đêm qua' --limit 300 --var 'lời=ซื้อ $HOME'` "
        f"and `batcher retry 'đêm qua/งาน/{run.name}'` go on"
    ) == raise_hint(limited, run_file, elsewhere, {"BATCHER_RUNS": "runs"}, is_retry=True)

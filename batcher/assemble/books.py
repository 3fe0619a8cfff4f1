"""What a run has done and spent: counters, ledger and, where the job has one, the budget.

All of it starts from what the journal holds and is booked when the journal has kept an outcome. Calls for a
row without an outcome (it was asked again, or tried again, when the run stopped) are in no journal: their sums
are kept in `run.json`, and booked from there.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from batcher.assemble.stack import Endpoint, endpoint_of, price_of
from batcher.config.model import Job
from batcher.core.progress import Calls, Progress
from batcher.core.records import Outcome
from batcher.errors import JournalError
from batcher.journal.journal import Journal
from batcher.journal.tally import Counts
from batcher.ledger.budget import Budget, Pledge
from batcher.ledger.ledger import Ledger, Totals
from batcher.ledger.pledged import BudgetState, reopened
from batcher.ledger.worst_case import check_budget, output_bound
from batcher.observe.text import clean
from batcher.runs.runfile import RunFile
from batcher.sources.source import InputFacts

_SHELL_SAFE = re.compile(r"(?:[\w@%+=:,./-]|[^\x00-\xa0\s])+")

UNFINISHED = "unfinished"
"""The part of `run.json`'s totals that is of calls whose rows have no outcome, or one with an unknown cost."""


def book(outcomes: Sequence[Outcome], ledger: Ledger, budget: Budget | None, progress: Progress) -> None:
    """Book on the ledger, the counters and the budget what the journal has kept."""
    progress.count(outcomes)
    _count_spending(progress, ledger.add(outcomes))
    if budget is not None:
        budget.journalled(*[outcome.cost_usd for outcome in outcomes])


def refuse_unpriced(job: Job, *, at: datetime) -> None:
    """Refuse a job with a budget whose calls have no known price. Blocking, as `price_of` is.

    Raises:
        JobError: See `check_budget`.
    """
    if job.budget is None:
        return
    provider = job.sole_provider
    endpoint = endpoint_of(provider, job)
    check_budget(price_of(provider, endpoint, at=at), model=endpoint.model, params=job.params)


def take_over(journal: Journal, facts: InputFacts, progress: Progress, ledger: Ledger) -> Counts:
    """Start the counters and the ledger from what earlier processes did; how many rows stand where."""
    counts = journal.counts()
    progress.ok, progress.invalid, progress.failed = counts.ok, counts.invalid, counts.failed
    progress.empty, progress.rows_before = counts.empty, counts.done
    progress.failures.update(counts.failures)
    progress.rows_total = facts.rows if facts.rows is not None else facts.rows_estimate or None
    progress.rows_total_is_exact = facts.rows is not None
    for (provider, model), spent in journal.spent_before.items():
        totals = Totals(
            rows=spent.outcomes,
            calls=spent.attempts,
            input_tokens=spent.input_tokens,
            cached_tokens=spent.cached_tokens,
            output_tokens=spent.output_tokens,
            reasoning_tokens=spent.reasoning_tokens,
            cost_usd=spent.cost_usd,
            rows_cost_unknown=spent.cost_unknown,
        )
        ledger.add_totals(totals, provider=provider, model=model)
    total = ledger.total()
    progress.attempts, progress.cost_usd = total.calls, total.cost_usd
    progress.input_tokens, progress.output_tokens = total.input_tokens, total.output_tokens
    progress.rows_cost_unknown = total.rows_cost_unknown
    return counts


def shown(path: str | Path) -> str:
    """A path as the user would type it: from the current directory, where it is below that."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def raise_hint(job: Job, run_file: RunFile, run: Path, environ: Mapping[str, str], *, is_retry: bool) -> str:
    """How to go on with a run whose budget is used up, as it can be typed.

    Args:
        job: See `run_command`, as for the next three.
        run_file: Of the run.
        run: Its directory.
        environ: Of this process.
        is_retry: Rows were being asked again: `batcher run` alone would leave those as they are.
    """
    command = run_command(job, run_file, run, environ)
    goes_on = f"{command} and `batcher retry {_quoted(shown(run))}` go on" if is_retry else f"{command} goes on"
    return clean(f"raise budget.usd in {shown(run_file.job_path)}, then {goes_on}")


def run_command(job: Job, run_file: RunFile, run: Path, environ: Mapping[str, str]) -> str:
    """`batcher run` for the job of a run, between backticks, as it can be typed.

    Args:
        job: Names the row limit that the run was begun with, if any.
        run_file: Of the run: its job file and variables.
        run: Its directory.
        environ: Says where `batcher run` looks for runs by itself.
    """
    path, runs = shown(run_file.job_path), run.parent.parent
    is_usual = runs.absolute() == Path(environ.get("BATCHER_RUNS") or "runs").absolute()
    words = ["batcher", "run", path]
    words += [] if is_usual else ["--runs", shown(runs)]
    words += [] if job.input.limit is None else ["--limit", str(job.input.limit)]
    for name, value in run_file.variables.items():
        words += ["--var", f"{name}={value}"]
    return clean(f"`{' '.join(map(_quoted, words))}`")


def _quoted(word: str) -> str:
    """The word for a shell, in quotes only where it needs them: letters of other languages do not."""
    return word if _SHELL_SAFE.fullmatch(word) else shlex.quote(word)


class Purse:
    """What a run has spent and may spend, the calls among it whose rows have no outcome."""

    def __init__(self, job: Job, endpoint: Endpoint, ledger: Ledger, progress: Progress) -> None:
        self._job, self._endpoint = job, endpoint
        self._ledger, self._progress = ledger, progress
        self._before: Totals | None = None
        self.budget: Budget | None = None
        self.unfinished = Totals()

    def open(self, run_file: RunFile, journal: Journal, pledge: Pledge, *, hint: str) -> None:
        """Take over what earlier processes left in `run.json`, before the ledger is summed up.

        `hint` says how to go on when the budget is used up.

        Raises:
            JournalError: That is not what was written.
        """
        before = reopened(BudgetState.from_json(run_file.budget))
        kept = run_file.totals.get(UNFINISHED)
        self.unfinished = _read_totals(kept) if kept is not None else Totals(cost_usd=before.unfinished_usd)
        before = replace(before, unfinished_usd=self.unfinished.cost_usd)
        self._book(self.unfinished)
        if self._job.budget is not None:
            spent_usd = sum((spent.cost_usd for spent in journal.spent_before.values()), Decimal(0))
            advice = output_bound(self._endpoint.model, self._job.params).advice
            self.budget = Budget(
                self._job.budget.usd, spent_usd, before=before, pledge=pledge, advice=advice, hint=hint
            )
            self._progress.budget_usd, self._progress.held_usd = self._job.budget.usd, self.budget.held_usd

    def begin(self) -> None:
        """All that was before is on the ledger now; from here on it grows by outcomes."""
        self._before = self._ledger.total()

    async def close(self) -> None:
        """No call is out any more."""
        if self.budget is not None:
            await self.budget.close()
        if self._before is not None:
            self._progress.calls.sum_up()
            unfinished = _totals(self._progress.calls).minus(_of_calls(self._ledger.total().minus(self._before)))
            self._before = None
            self._book(unfinished)
            _count_spending(self._progress, unfinished)
            self.unfinished.add(unfinished)

    def _book(self, unfinished: Totals) -> None:
        if unfinished != Totals():
            self._ledger.add_totals(unfinished, provider=self._job.sole_provider.name, model=self._endpoint.model)


def _count_spending(progress: Progress, spent: Totals) -> None:
    progress.attempts += spent.calls
    progress.input_tokens += spent.input_tokens
    progress.output_tokens += spent.output_tokens
    progress.cost_usd += spent.cost_usd
    progress.rows_cost_unknown += spent.rows_cost_unknown


def _totals(calls: Calls) -> Totals:
    return Totals(
        calls=calls.count,
        input_tokens=calls.input_tokens,
        cached_tokens=calls.cached_tokens,
        output_tokens=calls.output_tokens,
        reasoning_tokens=calls.reasoning_tokens,
        cost_usd=calls.cost_usd,
    )


def _of_calls(totals: Totals) -> Totals:
    """The same without its rows."""
    return replace(totals, rows=0, rows_cost_unknown=0)


def _read_totals(kept: Any) -> Totals:
    """What `Totals.to_json` gave, without rows."""
    counts = [one.name for one in fields(Totals) if one.name != "cost_usd"]
    try:
        totals = Totals(**{name: kept[name] for name in counts}, cost_usd=Decimal(kept["cost_usd"]))
        if all(type(kept[name]) is int for name in counts) and totals.cost_usd.is_finite():
            return totals
    except (TypeError, KeyError, ValueError, InvalidOperation):
        pass
    raise JournalError(
        f"run.json: its section totals.{UNFINISHED} is not what was written, so what was spent is not known",
        hint="restore run.json from a backup, or start again with `batcher run --fresh`",
    )

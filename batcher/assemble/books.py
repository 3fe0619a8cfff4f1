"""What a run has done and spent: counters, ledger and, where the job has one, the budget.

All of it starts from what the journal holds and is booked when the journal has kept an outcome.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

from batcher.assemble.stack import Endpoint, endpoint_of, price_of
from batcher.config.model import Job
from batcher.core.progress import Progress
from batcher.core.records import Outcome
from batcher.journal.journal import Journal
from batcher.journal.tally import Counts
from batcher.ledger.budget import Budget, Pledge
from batcher.ledger.ledger import Ledger, Totals
from batcher.ledger.pledged import BudgetState, reopened
from batcher.ledger.worst_case import check_budget, output_bound
from batcher.sources.source import InputFacts


class BookingSink:
    """Puts outcomes into the journal, and books on the ledger and the budget what the journal has kept."""

    def __init__(self, journal: Journal, ledger: Ledger, budget: Budget | None) -> None:
        self._journal = journal
        self._ledger = ledger
        self._budget = budget

    async def put(self, outcome: Outcome) -> None:
        """See `Sink`."""
        await self._journal.put(outcome)
        self._ledger.add(outcome)
        if self._budget is not None:
            self._budget.journalled(outcome.cost_usd)


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


class Purse:
    """What a run has spent and may spend.

    Calls that were paid for a row without an outcome (it was asked again, or tried again, when the run
    stopped) stand in no outcome's cost: they are kept beside the journal, and booked on the ledger from there.
    """

    def __init__(self, job: Job, endpoint: Endpoint, ledger: Ledger, progress: Progress) -> None:
        self._job, self._endpoint = job, endpoint
        self._ledger, self._progress = ledger, progress
        self.budget: Budget | None = None

    def open(self, kept: Mapping[str, str] | None, journal: Journal, pledge: Pledge) -> None:
        """Take over what earlier processes left in `run.json`, before the ledger is summed up.

        Raises:
            JournalError: That is not what was written.
        """
        before = reopened(BudgetState.from_json(kept))
        self._book(before.unfinished_usd)
        if self._job.budget is not None:
            spent_usd = sum((spent.cost_usd for spent in journal.spent_before.values()), Decimal(0))
            advice = output_bound(self._endpoint.model, self._job.params).advice
            self.budget = Budget(self._job.budget.usd, spent_usd, before=before, pledge=pledge, advice=advice)

    async def close(self) -> None:
        """No call is out any more."""
        if self.budget is not None:
            await self.budget.close()
            self._book(self.budget.unfinished_usd)

    def _book(self, cost_usd: Decimal) -> None:
        if cost_usd:
            totals = Totals(cost_usd=cost_usd)
            self._ledger.add_totals(totals, provider=self._job.sole_provider.name, model=self._endpoint.model)
            self._progress.cost_usd += cost_usd

"""What a run is doing right now: counters that the parts raise and the display reads.

One mutable object per run, touched only on the event loop. It is a view, never a truth: the journal
is the truth, and a resumed run starts its counters from it.
"""

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from batcher.core.records import Outcome, Spend

WaitReason = Literal["breaker", "retry_after", "rate_limit", "concurrency", "budget", "backoff", "disk"]


@dataclass(slots=True)
class Wait:
    """How many rows wait for one reason, and since when (monotonic seconds) anyone has."""

    rows: int = 0
    since_s: float | None = None


@dataclass(slots=True)
class Calls:
    """Sums over the calls that ended in this process, whether their row has an outcome or not; known costs only."""

    count: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal = Decimal(0)

    def add(self, spend: Spend) -> None:
        """Count what one call used."""
        self.count += spend.attempts
        usage = spend.usage
        if usage is not None:
            self.input_tokens += usage.input
            self.cached_tokens += usage.cached
            self.output_tokens += usage.output
            self.reasoning_tokens += usage.reasoning
        if spend.cost_usd:
            self.cost_usd += spend.cost_usd


@dataclass(slots=True)
class Progress:
    """Counters of one run.

    `rows_total` is None while it is not known; `rows_total_is_exact` is False for an estimate.
    `rows_before` were done when this process started, so rates count only what came after.
    Costs: `cost_usd` is the sum of the known ones, `rows_cost_unknown` counts the rest. `budget_usd` is the
    job's, None without one, and `held_usd` what it holds for calls whose bill nobody knows. `calls` stands for
    itself: no journal knows of a call whose row was not finished. `down_since_s` (monotonic seconds) is None while
    the provider is up, and `latest_outage_s` what the latest outage lasted once it is over.
    """

    rows_total: int | None = None
    rows_total_is_exact: bool = False
    rows_before: int = 0
    ok: int = 0
    invalid: int = 0
    failed: int = 0
    empty: int = 0
    attempts: int = 0
    in_flight: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    rows_cost_unknown: int = 0
    budget_usd: Decimal | None = None
    held_usd: Decimal = Decimal(0)
    calls: Calls = field(default_factory=Calls)
    failures: Counter[str] = field(default_factory=Counter)
    attempt_failures: Counter[str] = field(default_factory=Counter)
    waits: dict[WaitReason, Wait] = field(default_factory=dict)
    down_since_s: float | None = None
    latest_outage_s: float | None = None
    note: str | None = None

    @property
    def done(self) -> int:
        """Rows that have an outcome, those of earlier processes included."""
        return self.ok + self.invalid + self.failed

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        if outcome.status == "ok":
            self.ok += 1
            if not outcome.answer:
                self.empty += 1
        else:
            if outcome.status == "invalid":
                self.invalid += 1
            else:
                self.failed += 1
            self.failures[outcome.error_kind or "unknown"] += 1
        self.attempts += outcome.attempts
        self.input_tokens += outcome.input_tokens or 0
        self.output_tokens += outcome.output_tokens or 0
        if outcome.cost_usd is None:
            self.rows_cost_unknown += 1
        else:
            self.cost_usd += outcome.cost_usd

    def wait_begin(self, reason: WaitReason, now_s: float) -> None:
        """One more row waits for `reason`."""
        wait = self.waits.get(reason)
        if wait is None:
            wait = self.waits[reason] = Wait()
        if wait.rows == 0:
            wait.since_s = now_s
        wait.rows += 1

    def wait_end(self, reason: WaitReason) -> None:
        """One row less waits for `reason`."""
        wait = self.waits[reason]
        wait.rows -= 1
        if wait.rows == 0:
            wait.since_s = None

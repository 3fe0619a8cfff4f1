"""What a run is doing right now: counters that the parts raise and the display reads.

One mutable object per run, touched only on the event loop. It is a view, never a truth: the journal
is the truth, and a resumed run starts its counters from it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from operator import attrgetter
from typing import Literal

from batcher.core.records import Outcome, Spend

WaitReason = Literal["breaker", "retry_after", "rate_limit", "concurrency", "budget", "backoff", "disk"]

_ANSWER = attrgetter("answer")
_SPENDS_MAX = 256
"""So many calls are summed up together."""


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

    _new: list[Spend] = field(default_factory=list, repr=False)

    def add(self, spend: Spend) -> None:
        """Count what one call used; the sums have it after `sum_up`."""
        self._new.append(spend)
        if len(self._new) >= _SPENDS_MAX:
            self.sum_up()

    def sum_up(self) -> None:
        """Bring the sums up to now. Once in many calls: to add each up by itself costs four times as much."""
        new, self._new = self._new, []
        usages = [spend.usage for spend in new if spend.usage is not None]
        self.count += sum([spend.attempts for spend in new])
        self.input_tokens += sum([usage.input for usage in usages])
        self.cached_tokens += sum([usage.cached for usage in usages])
        self.output_tokens += sum([usage.output for usage in usages])
        self.reasoning_tokens += sum([usage.reasoning for usage in usages])
        self.cost_usd += sum([spend.cost_usd for spend in new if spend.cost_usd], Decimal(0))


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

    def count(self, outcomes: Sequence[Outcome]) -> None:
        """Count rows that ended; many at once cost little each. What they used is not counted here."""
        wrong = [outcome for outcome in outcomes if outcome.status != "ok"]
        invalid = sum([outcome.status == "invalid" for outcome in wrong])
        self.ok += len(outcomes) - len(wrong)
        self.invalid += invalid
        self.failed += len(wrong) - invalid
        if not all(map(_ANSWER, outcomes)):
            self.empty += sum([not outcome.answer and outcome.status == "ok" for outcome in outcomes])
        for outcome in wrong:
            self.failures[outcome.error_kind or "unknown"] += 1

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

"""What a run has cost, by provider and model: a fold over outcomes.

The journal is the truth and this is its sum: it starts empty, is fed every outcome once, and after a
resume it is fed the sums of the rows that were there. A cost that is not known is counted, not guessed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from operator import attrgetter
from typing import Any

from batcher.core.records import Outcome

_NAMES = attrgetter("provider", "asked_model", "model")
_COST = attrgetter("cost_usd")
_COUNTS = tuple(
    map(attrgetter, ("attempts", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"))
)  # in the order of `Totals`


@dataclass(slots=True)
class Totals:
    """Sums over rows. `cost_usd` is that of the rows whose cost is known; `rows_cost_unknown` counts the rest.

    `cached_tokens` are part of `input_tokens` and `reasoning_tokens` of `output_tokens`.
    """

    rows: int = 0
    calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    rows_cost_unknown: int = 0

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> "Totals":
        """The sums over outcomes; many at once cost a few operations of the interpreter each."""
        calls, given, cached, output, reasoning = (sum(filter(None, map(count, outcomes))) for count in _COUNTS)
        # Not `count(None)`: to compare a Decimal with None takes as long as all else here.
        costs = [cost for cost in map(_COST, outcomes) if cost is not None]
        cost_usd = sum(costs, Decimal(0))
        return cls(len(outcomes), calls, given, cached, output, reasoning, cost_usd, len(outcomes) - len(costs))

    def add(self, other: "Totals") -> None:
        """Add the other's sums to these."""
        self.rows += other.rows
        self.calls += other.calls
        self.input_tokens += other.input_tokens
        self.cached_tokens += other.cached_tokens
        self.output_tokens += other.output_tokens
        self.reasoning_tokens += other.reasoning_tokens
        self.cost_usd += other.cost_usd
        self.rows_cost_unknown += other.rows_cost_unknown

    def minus(self, other: "Totals") -> "Totals":
        """What is in these sums and not in the other's."""
        return Totals(*(getattr(self, one.name) - getattr(other, one.name) for one in fields(self)))

    def to_json(self) -> dict[str, Any]:
        """For `run.json`: money as a decimal string, and None if there are rows and no cost is known."""
        is_known = self.rows == 0 or self.rows_cost_unknown < self.rows
        return {
            "rows": self.rows,
            "calls": self.calls,
            "input_tokens": self.input_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "reasoning_tokens": self.reasoning_tokens,
            "cost_usd": format(self.cost_usd, "f") if is_known else None,
            "rows_cost_unknown": self.rows_cost_unknown,
        }


Account = tuple[str | None, str | None]
"""Provider and model; None for a row that no provider was asked for, or that names none."""


class Ledger:
    """Sums by provider and model, and over all.

    Rows are booked on the model the job asked for: the one a provider says it used is often longer
    and changes overnight. Touched on the event loop only.
    """

    def __init__(self) -> None:
        self._accounts: dict[Account, Totals] = {}

    def add(self, outcomes: Sequence[Outcome]) -> Totals:
        """Book outcomes and give their sums. It is for the caller to book each once."""
        added = Totals()
        names = set(map(_NAMES, outcomes))
        for name in names:
            provider, asked_model, model = name
            totals = Totals.of(outcomes if len(names) == 1 else [one for one in outcomes if _NAMES(one) == name])
            self.add_totals(totals, provider=provider, model=asked_model or model)
            added.add(totals)
        return added

    def add_totals(self, totals: Totals, *, provider: str | None, model: str | None) -> None:
        """Book sums of rows that were there before, so that a resume of a million rows adds once an account."""
        self._accounts.setdefault((provider, model), Totals()).add(totals)

    def accounts(self) -> Iterable[tuple[Account, Totals]]:
        """Each provider and model with its sums, sorted by name."""
        return sorted(self._accounts.items(), key=lambda item: (item[0][0] or "", item[0][1] or ""))

    def total(self) -> Totals:
        """The sums over all accounts."""
        total = Totals()
        for totals in self._accounts.values():
            total.add(totals)
        return total

    def to_json(self) -> dict[str, Any]:
        """For `run.json`: `{"total": {...}, "accounts": [{"provider", "model", ...}]}`."""
        accounts = [
            {"provider": provider, "model": model} | totals.to_json() for (provider, model), totals in self.accounts()
        ]
        return {"total": self.total().to_json(), "accounts": accounts}

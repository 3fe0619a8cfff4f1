"""Sums by provider and model."""

from decimal import Decimal

from batcher.core.records import Outcome
from batcher.ledger.ledger import Ledger, Totals


def outcome(
    row: int, *, provider: str | None = "main", model: str | None = "nano", cost: str | None = "0.01"
) -> Outcome:
    return Outcome(
        row,
        "ok",
        provider=provider,
        asked_model=model,
        model="nano-2025-04-14",
        attempts=2,
        input_tokens=100,
        cached_tokens=40,
        output_tokens=20,
        reasoning_tokens=5,
        cost_usd=None if cost is None else Decimal(cost),
    )


def test_rows_are_booked_on_the_model_that_was_asked_for() -> None:
    """The provider's own name for it changes overnight."""
    ledger = Ledger()
    for row in range(3):
        ledger.add([outcome(row)])
    ledger.add([outcome(3, provider="other", cost="0.5")])
    assert {
        "total": {
            "rows": 4,
            "calls": 8,
            "input_tokens": 400,
            "cached_tokens": 160,
            "output_tokens": 80,
            "reasoning_tokens": 20,
            "cost_usd": "0.53",
            "rows_cost_unknown": 0,
        },
        "accounts": [
            {"provider": "main", "model": "nano"} | Totals(3, 6, 300, 120, 60, 15, Decimal("0.03")).to_json(),
            {"provider": "other", "model": "nano"} | Totals(1, 2, 100, 40, 20, 5, Decimal("0.5")).to_json(),
        ],
    } == ledger.to_json()


def test_an_unknown_cost_is_counted_and_never_zero() -> None:
    """All unknown is null; some unknown is the known sum and how many are not in it."""
    ledger = Ledger()
    assert "0" == ledger.to_json()["total"]["cost_usd"]
    ledger.add([outcome(0, cost=None)])
    assert (None, 1) == (ledger.to_json()["total"]["cost_usd"], ledger.total().rows_cost_unknown)
    ledger.add([outcome(1, cost="0.01")])
    assert ("0.01", 1) == (ledger.to_json()["total"]["cost_usd"], ledger.total().rows_cost_unknown)


def test_a_row_without_provider_or_tokens_is_booked_too() -> None:
    """A row that failed before any call has an outcome like every other."""
    ledger = Ledger()
    ledger.add([Outcome(0, "failed", error_kind="connection", cost_usd=Decimal(0))])
    assert [{"provider": None, "model": None} | Totals(rows=1).to_json()] == ledger.to_json()["accounts"]


def test_small_money_is_written_without_an_exponent() -> None:
    """'1E-7' is read as text by half of all spreadsheets."""
    ledger = Ledger()
    ledger.add([outcome(0, cost="0.0000001")])
    assert "0.0000001" == ledger.to_json()["total"]["cost_usd"]


def test_sums_of_a_resumed_run_are_booked_at_once() -> None:
    """A resume of a million rows adds once an account."""
    whole, resumed = Ledger(), Ledger()
    for row in range(10):
        whole.add([outcome(row, cost=None if row % 3 == 0 else "0.001")])
    resumed.add_totals(Totals(9, 18, 900, 360, 180, 45, Decimal("0.006"), 3), provider="main", model="nano")
    resumed.add([outcome(9, cost=None)])
    assert whole.to_json() == resumed.to_json()

"""Spend, progress and flight: small sums that everything stands on."""

import asyncio
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.core.contracts import CallError
from batcher.core.flight import Flight
from batcher.core.progress import Progress
from batcher.core.records import NOTHING_SPENT, Outcome, Spend, Usage
from batcher.errors import BatcherError, ExitCode, StoppedError

USAGES = st.builds(Usage, *[st.integers(0, 10**6)] * 4)
SPENDS = st.builds(
    Spend, st.integers(0, 9), st.none() | USAGES, st.none() | st.decimals(0, 100, allow_nan=False, places=7)
)


@given(SPENDS, SPENDS, SPENDS)
def test_spends_add_up_in_any_order(a: Spend, b: Spend, c: Spend) -> None:
    assert a + NOTHING_SPENT == a == NOTHING_SPENT + a
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)


@given(SPENDS, SPENDS)
def test_one_unknown_cost_makes_the_sum_unknown(a: Spend, b: Spend) -> None:
    """Never 0, never half a sum."""
    assert ((a + b).cost_usd is None) == (a.cost_usd is None or b.cost_usd is None)


def test_progress_counts_each_outcome_once() -> None:
    progress = Progress()
    progress.add(Outcome(0, "ok", answer="a", attempts=2, input_tokens=10, output_tokens=3, cost_usd=Decimal("0.5")))
    progress.add(Outcome(1, "ok", answer="", attempts=1, cost_usd=Decimal("0.1")))
    progress.add(Outcome(2, "invalid", answer="b", error_kind="invalid_answer", attempts=1))
    progress.add(Outcome(3, "failed", error_kind="timeout", attempts=5, cost_usd=Decimal(0)))

    assert (2, 1, 1, 1, 4, 9) == (
        progress.ok, progress.invalid, progress.failed, progress.empty, progress.done, progress.attempts,
    )  # fmt: skip
    assert (10, 3, Decimal("0.6"), 1) == (
        progress.input_tokens, progress.output_tokens, progress.cost_usd, progress.rows_cost_unknown,
    )  # fmt: skip
    assert {"invalid_answer": 1, "timeout": 1} == progress.failures


def test_a_wait_is_dated_from_the_first_who_waits() -> None:
    progress = Progress()
    progress.wait_begin("breaker", 5.0)
    progress.wait_begin("breaker", 9.0)
    progress.wait_end("breaker")
    assert (1, 5.0) == (progress.waits["breaker"].rows, progress.waits["breaker"].since_s)
    progress.wait_end("breaker")
    assert (0, None) == (progress.waits["breaker"].rows, progress.waits["breaker"].since_s)


@pytest.mark.parametrize(("kind", "costs"), [("rate_limited", False), ("server", True), ("bad_request", True)])
def test_only_a_rate_limit_and_another_shape_cost_no_try(kind, costs: bool) -> None:
    assert costs is CallError("x", kind=kind).costs_try
    assert not CallError("x", kind=kind, is_reshaped=True).costs_try


async def test_a_flight_knows_the_tasks_on_board() -> None:
    flight = Flight()
    task = asyncio.current_task()
    flight.leave()
    flight.board()
    flight.board()
    assert (1, True) == (len(flight), task in flight)
    flight.leave()
    assert (0, False) == (len(flight), task in flight)
    given_back: list[str] = []
    flight.hold(flight.board(), lambda: given_back.append("place"))
    flight.leave(task)
    flight.leave(task)
    assert ["place"] == given_back
    flight.close()
    with pytest.raises(StoppedError):
        flight.board()


def test_every_error_has_an_exit_code_of_the_contract() -> None:
    def tree(cls: type[BatcherError]) -> list[type[BatcherError]]:
        return [cls, *(one for child in cls.__subclasses__() for one in tree(child))]

    assert {int(cls.exit_code) for cls in tree(BatcherError)} <= set(ExitCode) == set(range(8))

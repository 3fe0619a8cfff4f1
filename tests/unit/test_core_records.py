"""Spend, progress and flight: small sums that everything stands on."""

import asyncio
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.core.contracts import CallError
from batcher.core.flight import Flight
from batcher.core.progress import Calls, Progress
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
    progress.count([Outcome(0, "ok", answer="a"), Outcome(1, "ok", answer="")])
    progress.count([Outcome(2, "invalid", answer="b", error_kind="invalid_answer"), Outcome(3, "failed")])
    progress.count([Outcome(4, "failed", error_kind="timeout"), Outcome(5, "ok", answer="c")])

    assert (3, 1, 2, 1, 6) == (progress.ok, progress.invalid, progress.failed, progress.empty, progress.done)
    assert {"invalid_answer": 1, "unknown": 1, "timeout": 1} == progress.failures


def test_calls_are_summed_up_exactly_however_many_there_are() -> None:
    """Those without usage or cost count as calls."""
    calls = Calls()
    for number in range(1000):
        calls.add(Spend(1, Usage(number, 1, 2, 3), Decimal("0.001")))
    calls.add(Spend(2, None, None))
    calls.count += 1
    for _ in range(2):
        calls.sum_up()
    assert (1003, 499_500, 1000, 2000, 3000, Decimal("1.000")) == (
        calls.count, calls.input_tokens, calls.cached_tokens, calls.output_tokens, calls.reasoning_tokens,
        calls.cost_usd,
    )  # fmt: skip


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

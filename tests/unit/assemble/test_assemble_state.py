"""What `run.json` says, and the stack that a job's words make."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from batcher.assemble.books import book
from batcher.assemble.stack import Stack
from batcher.assemble.state import updated_run_file
from batcher.core.progress import Progress
from batcher.core.records import Outcome
from batcher.ledger.ledger import Ledger
from batcher.runs.runfile import RunFile

NOW_S = 1_700_000_000.0
DAY = datetime(2023, 11, 14, tzinfo=UTC)
BEGUN = RunFile(
    job="tickets", state="running", started_at=DAY, updated_at=DAY, job_path="/j.yaml", base_directory="/", pid=1,
    host="h", versions={}, variables={}, fingerprints={"job": {"a": 1}, "input": {}},
)  # fmt: skip


def updated(*outcomes: Outcome, state="running", **fields):
    progress, ledger = fields.pop("progress", None) or Progress(), Ledger()
    book(outcomes, ledger, None, progress)
    return updated_run_file(BEGUN, state=state, progress=progress, ledger=ledger, now_s=NOW_S, **fields)


def test_counts_and_sums_agree_with_the_outcomes() -> None:
    run = updated(
        Outcome(
            0, "ok", answer="a", attempts=2, input_tokens=7, cost_usd=Decimal("0.1"), provider="p", asked_model="m"
        ),
        Outcome(1, "failed", error_kind="timeout", attempts=5, cost_usd=Decimal(0), provider="p", asked_model="m"),
    )

    assert {"rows": 2, "done": 2, "ok": 1, "invalid": 0, "failed": 1, "empty": 0} == run.counts
    assert (7, "0.1", {"timeout": 1}) == (run.totals["calls"], run.totals["cost_usd"], run.totals["failures"])
    assert [("p", "m", 2)] == [(one["provider"], one["model"], one["rows"]) for one in run.ledger]


def test_an_unknown_cost_is_not_zero() -> None:
    assert updated(Outcome(0, "ok", answer="a", attempts=1)).totals["cost_usd"] is None


def test_rows_are_the_inputs_where_they_are_known() -> None:
    assert 500 == updated(Outcome(0, "ok"), progress=Progress(rows_total=500)).counts["rows"]


@pytest.mark.parametrize("state", ["running", "stopped", "failed", "finished"])
def test_only_a_finished_run_has_an_end(state) -> None:
    run = updated(state=state, exit_code=3, reason="because")

    assert (state == "finished") == (run.finished_at is not None)
    assert (3, "because", NOW_S) == (run.exit_code, run.reason, run.updated_at.timestamp())
    assert BEGUN.fingerprints == run.fingerprints


def test_a_run_file_is_not_changed_but_made_anew() -> None:
    updated(Outcome(0, "ok"))
    assert not BEGUN.counts


@pytest.mark.parametrize(("concurrency", "workers"), [(1, 17), (32, 48), (50, 75), (10_000, 11_024)])
def test_more_rows_are_in_hand_than_calls_in_flight(concurrency: int, workers: int) -> None:
    """Rows that wait out a backoff must not keep calls from being made."""
    assert workers == Stack(None, (), concurrency, None).workers

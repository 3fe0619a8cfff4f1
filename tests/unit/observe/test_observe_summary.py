"""The last lines of a run."""

from collections import Counter
from decimal import Decimal

import pytest

from batcher.core.progress import Progress
from batcher.observe.summary import State, Total, summary_lines

RUN = "runs/tickets/2026-11-21T02-00-00Z-7f3a"
MAIN = ("main", "gpt-x")


def lines(
    progress: Progress,
    state: State = "finished",
    totals: dict[tuple[str, str], Total] | None = None,
    elapsed_s: float = 100.0,
) -> list[str]:
    totals = {MAIN: Total(10_120, 1_234_567, 45_678, Decimal("1.234"))} if totals is None else totals
    return summary_lines(progress, totals, state=state, elapsed_s=elapsed_s, job_name="tickets", run=RUN)


def test_a_clean_run_is_short() -> None:
    """Nothing went wrong, nothing is left to do."""
    progress = Progress(rows_total=10_000, rows_total_is_exact=True, ok=10_000)

    assert [
        "tickets: finished, 10,000 rows in 1 min 40 s (100 rows/s)",
        "rows: 10,000 ok",
        "calls: 10,120 for 10,000 rows",
        "tokens: 1,234,567 in, 45,678 out",
        "cost: $1.23",
    ] == lines(progress)


def test_failed_rows_are_told_even_where_the_success_rule_holds() -> None:
    """Exit code 0 with 37 failed rows is no reason to be silent about them."""
    progress = Progress(ok=9_958, invalid=5, failed=37, failures=Counter(rate_limited=31, refused=6, invalid_answer=5))

    told = lines(progress)

    assert "rows: 9,958 ok, 5 invalid, 37 failed" in told
    assert [
        "warning: 37 of 10,000 rows failed (31 rate limit, 6 refused)",
        "warning: 5 of 10,000 rows are invalid",
        f"hint: `batcher retry {RUN}` asks the failed and invalid rows again",
    ] == told[-3:]


def test_where_the_rule_does_not_hold_it_is_an_error() -> None:
    """Exit code 3 comes with the word error."""
    told = lines(Progress(ok=0, failed=1, failures=Counter(auth=1)), "not_success")

    assert "tickets: finished, but the job's success rule does not hold, 1 row in 1 min 40 s (0.6 rows/min)" == told[0]
    assert [
        "error: 1 of 1 row failed (1 key refused)",
        f"hint: `batcher retry {RUN}` asks the failed row again",
    ] == told[-2:]


def test_mixed_kinds_are_not_pinned_on_the_wrong_rows() -> None:
    """Truncated may be a failed or an invalid row; the line does not pretend to know."""
    told = lines(Progress(ok=1, invalid=2, failed=1, failures=Counter(invalid_answer=1, truncated=1, timeout=1)))

    assert "warning: 1 of 4 rows failed" in told
    assert "warning: 2 of 4 rows are invalid (failed or invalid: 1 invalid answer, 1 timeout, 1 truncated)" in told


def test_a_resumed_run_counts_its_own_rows_for_the_rate() -> None:
    """Of a million rows, 500 now: the rate is theirs."""
    progress = Progress(rows_total=2_000, rows_total_is_exact=False, rows_before=1_000, ok=1_500)

    told = lines(progress, "stopped")

    assert (
        "tickets: stopped before the end, 1,500 of ≈2,000 rows done, 500 of them now in 1 min 40 s (5.0 rows/s)"
        == told[0]
    )
    assert f"hint: `batcher resume {RUN}` goes on from here; no row that is done is asked again" == told[-1]


def test_a_run_with_nothing_left_to_do_says_so() -> None:
    """Run again after the end, it asks nothing and costs nothing."""
    told = lines(Progress(rows_total=5, rows_total_is_exact=True, rows_before=5, ok=5), totals={}, elapsed_s=0.2)

    assert ["tickets: finished, 5 rows, none of them now (0.2 s)", "rows: 5 ok"] == told


@pytest.mark.parametrize(
    ("costs", "told"),
    [
        ([Decimal("0.0004")], "cost: $0.0004"),
        ([Decimal(0)], "cost: $0"),
        ([None], "cost: unknown for p0/m0"),
        ([Decimal("0.5"), None], "cost: $0.50 and the unknown cost of p1/m1"),
    ],
)
def test_an_unknown_cost_is_named(costs: list[Decimal | None], told: str) -> None:
    """Never 0, and with the model whose price is missing."""
    totals = {(f"p{i}", f"m{i}"): Total(1, 10, 5, cost) for i, cost in enumerate(costs)}

    assert told in lines(Progress(ok=2), totals=totals)


def test_several_models_are_listed() -> None:
    """Who took what, with cached and reasoning tokens as parts of the sums."""
    totals = {
        ("b", "big"): Total(1, 100, 50, None, cached_tokens=40, reasoning_tokens=30),
        ("a", "small"): Total(2, 10, 5, Decimal("0.1")),
    }

    told = lines(Progress(ok=3), totals=totals)

    assert "tokens: 110 in (40 cached), 55 out (30 reasoning)" in told
    assert "  a/small: 2 calls, 10 in, 5 out, $0.10" in told
    assert "  b/big: 1 call, 100 in (40 cached), 50 out (30 reasoning), cost unknown" in told


def test_empty_answers_are_told() -> None:
    """They are ok rows, and yet rarely what anyone wanted."""
    assert "rows: 10 ok; 1 ok answer is empty" in lines(Progress(ok=10, empty=1))
    assert "rows: 10 ok; 2 ok answers are empty" in lines(Progress(ok=10, empty=2))


@pytest.mark.parametrize("state", ["budget", "refused", "fault", "stopped"])
def test_a_run_that_did_not_end_says_how_to_go_on(state: State) -> None:
    """Whatever stopped it, the answers so far are there and the way on is named; before the first row, too."""
    told = lines(Progress(rows_total=10), state, totals={}, elapsed_s=0.0)

    assert told[0].startswith("tickets: stopped")
    assert told[0].endswith(", 0 of ≈10 rows done in 0.0 s")
    assert told[-1].startswith("hint: ")


def test_names_cannot_break_the_lines() -> None:
    """A job's name and a model's are free text."""
    told = summary_lines(
        Progress(ok=1),
        {("p\x1b[2J", "m\nn"): Total(1, 1, 1, None)},
        state="finished",
        elapsed_s=1.0,
        job_name="ตั๋ว\r\x1b]0;x\x07",
        run=RUN,
    )

    assert told[0].startswith("ตั๋ว: finished")
    assert not set("".join(told)) & set("\x1b\r\n\x07")


def reasoned(progress: Progress, *, reasons: list[str], said: set[str], mend: str | None = None) -> list[str]:
    return summary_lines(
        progress,
        {},
        state="not_success",
        elapsed_s=1.0,
        job_name="tickets",
        run=RUN,
        notes=["labels: ชำระเงิน 90 %, kỹ thuật 10 %"],
        reasons=reasons,
        said=said,
        mend=mend,
    )


def test_what_a_reason_tells_is_not_told_again() -> None:
    """One line for each thing; what is within the rule is a warning, and what to type next stands last."""
    progress = Progress(ok=923, invalid=40, failed=37, failures=Counter(rate_limited=37, invalid_answer=40))
    reason = "37 of 1,000 rows failed (3.7 %: 37 rate limit); success.failed allows 1 %"

    assert [
        "rows: 923 ok, 40 invalid, 37 failed",
        "labels: ชำระเงิน 90 %, kỹ thuật 10 %",
        "warning: 40 of 1,000 rows are invalid",
        f"error: {reason}",
        f"hint: `batcher retry {RUN}` asks the failed and invalid rows again",
    ] == reasoned(progress, reasons=[reason], said={"failed"})[1:]


def test_what_mends_an_error_is_said_before_what_to_type_next() -> None:
    told = reasoned(Progress(failed=1), reasons=["no"], said={"failed"}, mend="raise it")

    assert ["error: no", "hint: raise it", f"hint: `batcher retry {RUN}` asks the failed row again"] == told[-3:]


def test_a_success_rule_that_fails_on_good_rows_has_nothing_to_retry() -> None:
    """Drift or sameness: every row is ok, and asking again would not change it."""
    told = reasoned(Progress(ok=10), reasons=["labels drifted by 0.58"], said=set())

    assert "error: labels drifted by 0.58" == told[-1]


def test_a_part_that_is_unknown_does_not_hide_the_part_that_is_known() -> None:
    """One row of ten thousand without a bill is no reason to say nothing of the others'."""
    progress = Progress(ok=10_000, cost_usd=Decimal("1.2"), rows_cost_unknown=1)

    told = lines(progress, totals={MAIN: Total(10_000, 1, 1, None)})

    assert "cost: $1.20 and the unknown cost of 1 row" in told


def test_what_is_held_for_unknown_bills_is_told() -> None:
    """A provider may bill calls that timed out: whoever compares the invoice knows by how much."""
    told = lines(Progress(ok=10_000, cost_usd=Decimal("1.234"), held_usd=Decimal("0.25")))

    assert "cost: $1.23; $0.25 is held for calls whose bill is not known" in told


def test_a_used_up_budget_has_one_hint() -> None:
    """Two hints that say the same in other words are read as two things to do."""
    told = summary_lines(
        Progress(ok=1), {}, state="budget", elapsed_s=1.0, job_name="tickets", run=RUN,
        reasons=["the budget of $1 is used up"], mend="raise budget.usd, then `batcher run job.yaml` goes on",
    )  # fmt: skip

    assert [
        "error: the budget of $1 is used up",
        "hint: raise budget.usd, then `batcher run job.yaml` goes on",
    ] == told[-2:]

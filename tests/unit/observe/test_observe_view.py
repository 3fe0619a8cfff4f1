"""One look at a run: phrases, the plain line, the JSON fields, and when a provider counts as down."""

import json
from collections import Counter
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

import pytest

from batcher.core.progress import Progress
from batcher.observe.view import (
    Meter,
    View,
    budget_phrase,
    cost_phrase,
    cost_projected,
    failures_phrase,
    progress_fields,
    progress_line,
    rows_phrase,
    wait_phrases,
)
from batcher.testing.clock import ManualClock

VIEW = View(job_name="tickets", now_s=500.0, now_unix_s=1_795_000_000.0, elapsed_s=30.0, rows_per_s=410.2, left_s=93.0)


def running() -> Progress:
    return Progress(
        rows_total=50_000,
        rows_total_is_exact=True,
        ok=11_997,
        failed=3,
        failures=Counter(timeout=2, refused=1),
        cost_usd=Decimal("0.0123"),
    )


def test_the_line_says_it_all() -> None:
    """The whole run in one line that needs no line before it."""
    assert (
        "tickets: 12,000 of 50,000 rows (24 %), 410 rows/s, 3 failed (2 timeout, 1 refused), $0.0123,"
        " about 1 min 33 s left"
    ) == progress_line(running(), VIEW)


def test_the_line_says_what_the_budget_is_and_what_it_holds() -> None:
    """How near the wall is, the bills that nobody knows among it, is asked at 3 a.m."""
    progress = running()
    progress.budget_usd = Decimal(10)
    assert ", $0.0123 of $10 budget, about" in progress_line(progress, VIEW)

    progress.held_usd = Decimal("0.5")
    assert " of $10 budget (and $0.50 held for unknown bills)" == budget_phrase(progress)
    fields = progress_fields(progress, VIEW)
    assert (10.0, 0.5) == (fields["budget_usd"], fields["held_usd"])


@pytest.mark.parametrize(
    ("cap", "shown"), [("0.5", "$0.50"), ("1E+3", "$1,000"), ("0.0123456", "$0.0123456"), ("2.50", "$2.50")]
)
def test_a_cap_is_shown_to_its_last_digit(cap: str, shown: str) -> None:
    """A rounded cap is another cap."""
    assert f" of {shown} budget" == budget_phrase(Progress(budget_usd=Decimal(cap)))


def test_the_first_line_says_that_calls_are_out() -> None:
    """Two seconds after the start nothing is answered, and that is no fault."""
    progress = Progress(rows_total=5, rows_total_is_exact=False, in_flight=5)

    line = progress_line(progress, replace(VIEW, rows_per_s=0.0, left_s=None))

    assert "tickets: 0 of ≈5 rows (0 %), 0 rows/s, 5 in flight, $0" == line


def test_the_line_says_what_holds_the_run_up() -> None:
    """Rows that do not move need a reason, and since when."""
    progress = running()
    for _ in range(812):
        progress.wait_begin("retry_after", 488.0)
    progress.wait_begin("concurrency", 10.0)

    line = progress_line(progress, VIEW)

    assert line.endswith(", waiting: 812 for Retry-After, since 12 s; 1 for a free slot")


def test_a_provider_that_is_down_is_named_with_its_hour() -> None:
    """At night the hour tells more than a duration; both are there."""
    view = replace(VIEW, down_since_s=500.0 - 720, left_s=None)
    since = datetime.fromtimestamp(VIEW.now_unix_s - 720).astimezone()

    assert f"provider is down since {since:%H:%M} (12 min)" in progress_line(running(), view)


@pytest.mark.parametrize(
    ("progress", "phrase"),
    [
        (Progress(rows_total=1, rows_total_is_exact=True), "0 of 1 row (0 %)"),
        (Progress(rows_total=10, rows_total_is_exact=True, ok=10), "10 of 10 rows (100 %)"),
        (Progress(rows_total=1000, ok=120), "120 of ≈1,000 rows (12 %)"),
        (Progress(rows_total=100, ok=120), "120 rows"),
        (Progress(ok=1), "1 row"),
        (Progress(rows_total=0, rows_total_is_exact=True), "0 of 0 rows (100 %)"),
    ],
)
def test_an_unknown_total_is_not_made_up(progress: Progress, phrase: str) -> None:
    """An estimate is marked, and dropped when it turns out too small."""
    assert phrase == rows_phrase(progress)


@pytest.mark.parametrize(
    ("failed", "invalid", "kinds", "phrase"),
    [
        (0, 0, {}, ""),
        (3, 0, {"timeout": 2, "refused": 1}, "3 failed (2 timeout, 1 refused)"),
        (0, 5, {"invalid_answer": 5}, "5 invalid"),
        (0, 5, {"invalid_answer": 4, "truncated": 1}, "5 invalid (4 invalid answer, 1 truncated)"),
        (2, 5, {"timeout": 2, "invalid_answer": 5}, "2 failed (2 timeout), 5 invalid"),
        (
            2,
            5,
            {"timeout": 2, "invalid_answer": 4, "truncated": 1},
            "2 failed, 5 invalid (4 invalid answer, 2 timeout, 1 truncated)",
        ),
    ],
)
def test_kinds_stand_with_the_rows_they_belong_to(
    failed: int, invalid: int, kinds: dict[str, int], phrase: str
) -> None:
    """One counter holds the kinds of failed and invalid rows; they are told apart only where that is certain."""
    assert phrase == failures_phrase(Progress(failed=failed, invalid=invalid, failures=Counter(kinds)))


def test_an_unknown_cost_is_never_nothing() -> None:
    """P5: unknown is said, in whole and in part, from the first second on."""
    assert "cost unknown (no price for qwen-max)" == cost_phrase(Progress(), unpriced="qwen-max")
    assert "cost unknown" == cost_phrase(Progress(ok=3, rows_cost_unknown=3))
    assert "$0.50 and the unknown cost of 1 row" == cost_phrase(
        Progress(ok=3, rows_cost_unknown=1, cost_usd=Decimal("0.5"))
    )
    assert "$0" == cost_phrase(Progress(ok=3))


def test_cost_is_projected_only_where_it_is_known() -> None:
    """Half the rows cost half the money; with unknown prices or a few rows nothing is promised."""
    half = Progress(rows_total=200, ok=100, cost_usd=Decimal("0.10"))

    assert Decimal("0.2") == cost_projected(half, VIEW)
    assert cost_projected(half, replace(VIEW, unpriced="x")) is None
    assert cost_projected(Progress(rows_total=200, ok=100, rows_cost_unknown=1), VIEW) is None
    assert cost_projected(Progress(rows_total=200, ok=19), VIEW) is None
    assert cost_projected(Progress(ok=100), VIEW) is None
    assert cost_projected(Progress(rows_total=100, ok=100), VIEW) is None


def test_json_fields_hold_the_same_numbers() -> None:
    """A machine reads what a person reads; unknown is null."""
    progress = running()
    progress.wait_begin("backoff", 498.0)
    fields = progress_fields(progress, replace(VIEW, unpriced=None))

    assert fields == json.loads(json.dumps(fields))
    assert (12_000, 50_000, True) == (fields["rows_done"], fields["rows_total"], fields["rows_total_is_exact"])
    assert (0.0123, 410.2, 93.0) == (fields["cost_usd"], fields["rows_per_s"], fields["left_s"])
    assert {"timeout": 2, "refused": 1} == fields["failures"]
    assert {"backoff": {"rows": 1, "wait_s": 2.0}} == fields["waits"]
    assert progress_fields(Progress(), replace(VIEW, unpriced="x"))["cost_usd"] is None


def test_waits_come_most_first_and_empty_ones_not_at_all() -> None:
    """A reason that nobody waits for any more is no reason."""
    progress = Progress()
    progress.wait_begin("backoff", 1.0)
    progress.wait_end("backoff")
    progress.wait_begin("disk", 498.0)
    for _ in range(2):
        progress.wait_begin("rate_limit", 1.0)

    assert ["2 for the rate limit", "1 for the disk, since 2 s"] == wait_phrases(progress, VIEW)


def meter(progress: Progress, clock: ManualClock, **kwargs: str) -> Meter:
    return Meter(progress, "tickets", clock, mask=lambda text: text.replace("hunter2", "***"), **kwargs)


async def test_no_time_left_is_promised_during_an_outage() -> None:
    """Nobody knows when a provider comes back."""
    clock, progress = ManualClock(), Progress(rows_total=1000)
    watch = meter(progress, clock)
    progress.ok = 100
    await clock.advance(10)
    assert 90.0 == watch.look().left_s

    progress.down_since_s = clock.monotonic()

    assert watch.look().left_s is None


async def test_a_resumed_run_is_as_fast_as_this_process() -> None:
    """Rows of earlier processes are done, but were not done now."""
    clock, progress = ManualClock(), Progress(rows_total=2000, rows_before=1000, ok=1000)
    watch = meter(progress, clock)
    progress.ok = 1100
    await clock.advance(10)

    view = watch.look()

    assert (10.0, 10.0, 90.0) == (view.rows_per_s, view.rows_per_s_overall, view.left_s)


def test_names_and_notes_are_masked_and_cleaned() -> None:
    """A note may carry a provider's words, a job's name whatever its author typed."""
    progress = Progress(note="stopping:\x1b[2J key hunter2\nrefused")
    view = Meter(progress, "a\x1b]0;x\x07b", ManualClock(), mask=lambda text: text.replace("hunter2", "***")).look()

    assert ("ab", "stopping: key *** refused") == (view.job_name, view.note)

"""The live frame: no line too wide, nothing lost in narrow terminals."""

from collections import Counter
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.core.progress import Progress
from batcher.observe.display import frame
from batcher.observe.text import cells, clean
from batcher.observe.view import View

VIEW = View(
    job_name="tickets",
    now_s=500.0,
    now_unix_s=1_795_000_000.0,
    elapsed_s=30.0,
    rows_per_s=410.0,
    rows_per_s_overall=300.0,
    left_s=93.0,
    failures_recent={"rate_limited": 31, "server": 4},
)


def busy() -> Progress:
    progress = Progress(
        rows_total=50_000,
        rows_total_is_exact=True,
        ok=11_997,
        failed=3,
        in_flight=200,
        input_tokens=1_234_567,
        output_tokens=45_678,
        failures=Counter(timeout=2, refused=1),
        cost_usd=Decimal("0.0123"),
    )
    for _ in range(812):
        progress.wait_begin("retry_after", 488.0)
    return progress


def shown(progress: Progress, view: View, width: int = 80, height: int = 24) -> list[str]:
    return [line.plain for line in frame(progress, view, width=width, height=height)]


def test_a_frame_holds_everything() -> None:
    """Rows, speed, calls, time, cost now and in the end, tokens, failures, attempts, waits."""
    assert [
        "tickets  ━━━━━━━━━───────────────────────────────  24 %",
        "12,000 of 50,000 rows · 410 rows/s (300 rows/s overall) · 200 in flight",
        "about 1 min 33 s left · 30 s so far",
        "$0.0123 of about $0.0513 · 1,234,567 tokens in, 45,678 out",
        "3 failed (2 timeout, 1 refused)",
        "attempts failed in the last minute: 31 rate limit, 4 server error",
        "waiting: 812 for Retry-After, since 12 s",
    ] == shown(busy(), VIEW)


@pytest.mark.parametrize(
    ("budget", "line"),
    [
        ("10", "$0.0123 of $10 budget · 1,234,567 tokens in, 45,678 out"),
        ("0.05", "$0.0123 of $0.05 budget · the whole job would cost about $0.0513"),
    ],
)
def test_a_budget_is_shown_and_what_will_not_fit_it(budget: str, line: str) -> None:
    """A job that will stop at its budget at 4 a.m. is better raised at midnight."""
    progress = busy()
    progress.budget_usd = Decimal(budget)

    assert line in shown(progress, VIEW)


def test_forty_columns_lose_nothing() -> None:
    """Phrases move to the next line as a whole."""
    assert [
        "tickets  ━━━━━───────────────────  24 %",
        "12,000 of 50,000 rows",
        "410 rows/s (300 rows/s overall)",
        "200 in flight · about 1 min 33 s left",
        "30 s so far",
        "$0.0123 of about $0.0513",
        "1,234,567 tokens in, 45,678 out",
        "3 failed (2 timeout, 1 refused)",
        "attempts failed in the last minute:",
        "31 rate limit, 4 server error",
        "waiting: 812 for Retry-After, since",
        "12 s",
    ] == shown(busy(), VIEW, width=40)


@pytest.mark.parametrize("name", ["工单分类" * 20, "ตั๋วลูกค้าที่น้ำท่วม" * 5, "hỗ trợ khách hàng " * 6, "👨‍👩‍👧‍👦" * 30, ""])
@pytest.mark.parametrize("width", [1, 2, 5, 20, 40, 80, 200])
def test_no_line_reaches_the_last_column(name: str, width: int) -> None:
    """A line that wraps would leave a ghost of itself four times a second."""
    view = replace(VIEW, job_name=clean(name), note=clean(name), down_since_s=1.0, unpriced=clean(name) or None)

    assert all(cells(line) <= max(1, width - 1) for line in shown(busy(), view, width=width, height=100))


@given(st.text(max_size=300), st.integers(1, 120), st.integers(1, 30))
def test_any_note_fits_any_terminal(note: str, width: int, height: int) -> None:
    """Whatever a provider says, the frame stays within the terminal."""
    lines = shown(busy(), replace(VIEW, note=clean(note)), width=width, height=height)

    assert len(lines) <= max(1, height - 1)
    assert all(cells(line) <= max(1, width - 1) for line in lines)


def test_an_unknown_total_has_no_bar_and_no_share() -> None:
    """A bar of nothing known would be a lie."""
    lines = shown(Progress(ok=10), replace(VIEW, left_s=None))

    assert "tickets" == lines[0]
    assert lines[1].startswith("10 rows · ")


def test_an_unknown_price_is_said() -> None:
    """From the first frame on."""
    assert "cost unknown (no price for qwen-max)" in shown(Progress(), replace(VIEW, unpriced="qwen-max"))


def test_markup_in_a_name_is_text() -> None:
    """rich's own markup is not obeyed in what people and providers say."""
    assert shown(Progress(), replace(VIEW, job_name="[red]a[/red]"))[0].startswith("[red]a[/red]")

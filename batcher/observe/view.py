"""One look at a run: what `Progress` counts, with the rates and times that belong to this moment.

`Meter` is asked a few times a second and remembers; `View` is what it saw. `progress_line` says it in
one plain line, `progress_fields` in the fields of a JSON line; both are pure, and so are the phrases that
the live display shares with them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from batcher.clock import Clock
from batcher.core.progress import Progress, WaitReason
from batcher.observe.human import counted, dollars, duration, kinds, rate, share, thousands
from batcher.observe.pace import RATE_WINDOW_S, Rate, Recent
from batcher.observe.text import clean

_WAIT_WORDS: dict[WaitReason, str] = {
    "breaker": "for the provider to come back",
    "retry_after": "for Retry-After",
    "rate_limit": "for the rate limit",
    "concurrency": "for a free slot",
    "budget": "for room in the budget",
    "backoff": "to try again",
    "disk": "for the disk",
}
# The others are the normal state of a busy run: since when they lasted tells nothing.
_WAITS_WITH_SINCE: frozenset[WaitReason] = frozenset({"retry_after", "disk"})
_PROJECT_AFTER_ROWS = 20


@dataclass(frozen=True, slots=True)
class View:
    """What `Progress` cannot say alone. Moments named `_s` are monotonic, as in `Progress.waits`."""

    job_name: str
    now_s: float
    now_unix_s: float
    elapsed_s: float = 0.0
    rows_per_s: float | None = None
    rows_per_s_overall: float | None = None
    left_s: float | None = None
    failures_recent: Mapping[str, int] = field(default_factory=dict)
    down_since_s: float | None = None
    latest_outage_s: float | None = None
    unpriced: str | None = None
    note: str = ""


class Meter:
    """Makes views of one run, from its start on.

    Args:
        mask: Takes secrets out of text.
        unpriced: The model that has no known price, if that is so.
        window_s: How much of the past the shown rate speaks of.
    """

    def __init__(
        self,
        progress: Progress,
        job_name: str,
        clock: Clock,
        *,
        mask: Callable[[str], str],
        unpriced: str | None = None,
        window_s: float = RATE_WINDOW_S,
    ) -> None:
        now_s = clock.monotonic()
        self._progress, self._clock, self._window_s = progress, clock, window_s
        self._mask = mask
        self._job_name = clean(mask(job_name))
        self._unpriced = clean(mask(unpriced)) if unpriced else None
        self._started_s = now_s
        self._rate = Rate(now_s, progress.rows_before)
        self._recent = Recent(now_s, progress.attempt_failures)

    def look(self) -> View:
        """The run as it is now."""
        progress, now_s = self._progress, self._clock.monotonic()
        self._rate.add(now_s, progress.done)
        left, down_since_s = rows_left(progress), progress.down_since_s
        return View(
            job_name=self._job_name,
            now_s=now_s,
            now_unix_s=self._clock.now(),
            elapsed_s=now_s - self._started_s,
            rows_per_s=self._rate.per_s(self._window_s),
            rows_per_s_overall=self._rate.overall(),
            # Nobody knows when a provider comes back.
            left_s=self._rate.left_s(left) if left is not None and down_since_s is None else None,
            failures_recent=self._recent.add(now_s, progress.attempt_failures),
            down_since_s=down_since_s,
            latest_outage_s=progress.latest_outage_s,
            unpriced=self._unpriced,
            note=clean(self._mask(progress.note)) if progress.note else "",
        )


def rows_left(progress: Progress) -> int | None:
    """Rows still to do; None where the total is unknown, or an estimate that was passed already."""
    total = progress.rows_total
    if total is None or (progress.done >= total and not progress.rows_total_is_exact):
        return None
    return max(0, total - progress.done)


def cost_projected(progress: Progress, view: View) -> Decimal | None:
    """What the whole job will cost if it goes on as it went; None while that cannot be said."""
    left = rows_left(progress)
    if not left or view.unpriced or progress.rows_cost_unknown or progress.done < _PROJECT_AFTER_ROWS:
        return None
    return progress.cost_usd * (progress.done + left) / progress.done


def cost_phrase(progress: Progress, *, unpriced: str | None = None) -> str:
    """`$0.0123`, or what is not known of it; an unknown cost is never shown as nothing."""
    if progress.cost_usd == 0 and (unpriced or progress.rows_cost_unknown):
        return f"cost unknown (no price for {unpriced})" if unpriced else "cost unknown"
    known = dollars(progress.cost_usd)
    if progress.rows_cost_unknown:
        return f"{known} and the unknown cost of {counted(progress.rows_cost_unknown, 'row')}"
    return known


def budget_phrase(progress: Progress) -> str:
    """` of $10 budget`, with what it holds beside the cost; empty where the job has none."""
    if progress.budget_usd is None:
        return ""
    whole, point, cents = format(progress.budget_usd.normalize(), "f").partition(".")
    held = f" (and {dollars(progress.held_usd)} held for unknown bills)" if progress.held_usd else ""
    return f" of ${int(whole):,}{point}{cents:{'0<2' if point else ''}} budget{held}"


def rows_phrase(progress: Progress) -> str:
    """`12,000 of 50,000 rows (24 %)`, `12,000 of ≈50,000 rows (24 %)`, `12,000 rows`."""
    left = rows_left(progress)
    if left is None:
        return counted(progress.done, "row")
    total = progress.done + left
    about = "" if progress.rows_total_is_exact else "≈"
    return f"{thousands(progress.done)} of {about}{counted(total, 'row')} ({share(progress.done, total)})"


def failures_phrase(progress: Progress) -> str:
    """`3 failed (2 timeout, 1 refused), 5 invalid`; empty where every row went well."""
    by_kind = dict(progress.failures)
    if by_kind.get("invalid_answer") == progress.invalid:
        del by_kind["invalid_answer"]
    told = f" ({kinds(by_kind)})" if by_kind else ""
    if not progress.failed:
        return f"{progress.invalid:,} invalid{told}" if progress.invalid else ""
    if not progress.invalid:
        return f"{progress.failed:,} failed{told}"
    if "invalid_answer" not in by_kind and sum(by_kind.values()) == progress.failed:
        return f"{progress.failed:,} failed{told}, {progress.invalid:,} invalid"
    return f"{progress.failed:,} failed, {progress.invalid:,} invalid{told}"


def down_phrase(view: View) -> str:
    """`provider is down since 02:13 (12 min)`; empty while it is up."""
    if view.down_since_s is None:
        return ""
    lasted_s = max(0.0, view.now_s - view.down_since_s)
    since = datetime.fromtimestamp(view.now_unix_s - lasted_s).astimezone()
    return f"provider is down since {since:%H:%M} ({duration(lasted_s)})"


def wait_phrases(progress: Progress, view: View) -> list[str]:
    """`812 for Retry-After, since 12 s`, most rows first."""
    waits = sorted(progress.waits.items(), key=lambda pair: -pair[1].rows)
    phrases = []
    for reason, wait in waits:
        if wait.rows <= 0:
            continue
        phrase = f"{wait.rows:,} {_WAIT_WORDS.get(reason, 'for ' + reason)}"
        if reason in _WAITS_WITH_SINCE and wait.since_s is not None:
            phrase += f", since {duration(max(0.0, view.now_s - wait.since_s))}"
        phrases.append(phrase)
    return phrases


def progress_line(progress: Progress, view: View) -> str:
    """A run in one line that needs no line before it."""
    retry_after = progress.waits.get("retry_after")
    waits = wait_phrases(progress, view)
    is_held_up = view.down_since_s is not None or (retry_after is not None and retry_after.rows > 0)
    parts = [
        rows_phrase(progress),
        rate(view.rows_per_s) if view.rows_per_s is not None else "",
        f"{progress.in_flight:,} in flight" if progress.done == progress.rows_before else "",
        failures_phrase(progress),
        cost_phrase(progress, unpriced=view.unpriced) + budget_phrase(progress),
        f"about {duration(view.left_s)} left" if view.left_s and view.left_s >= 1.0 else "",
        down_phrase(view),
        f"waiting: {'; '.join(waits)}" if is_held_up and waits else "",
        view.note,
    ]
    return f"{view.job_name}: " + ", ".join(part for part in parts if part)


def progress_fields(progress: Progress, view: View) -> dict[str, Any]:
    """The same numbers for a JSON line; what is unknown is null, never 0."""
    projected = cost_projected(progress, view)
    is_cost_unknown = progress.cost_usd == 0 and bool(view.unpriced or progress.rows_cost_unknown)
    return {
        "job": view.job_name,
        "rows_done": progress.done,
        "rows_total": progress.rows_total,
        "rows_total_is_exact": progress.rows_total_is_exact,
        "rows_before": progress.rows_before,
        "rows_ok": progress.ok,
        "rows_invalid": progress.invalid,
        "rows_failed": progress.failed,
        "rows_empty": progress.empty,
        "in_flight": progress.in_flight,
        "attempts": progress.attempts,
        "rows_per_s": _rounded(view.rows_per_s),
        "rows_per_s_overall": _rounded(view.rows_per_s_overall),
        "elapsed_s": _rounded(view.elapsed_s),
        "left_s": _rounded(view.left_s),
        "input_tokens": progress.input_tokens,
        "output_tokens": progress.output_tokens,
        "cost_usd": None if is_cost_unknown else float(progress.cost_usd),
        "cost_usd_projected": None if projected is None else float(projected),
        "rows_cost_unknown": progress.rows_cost_unknown,
        "budget_usd": None if progress.budget_usd is None else float(progress.budget_usd),
        "held_usd": float(progress.held_usd),
        "failures": dict(progress.failures),
        "attempt_failures": dict(progress.attempt_failures),
        "waits": {
            reason: {"rows": wait.rows, "wait_s": _rounded(view.now_s - (wait.since_s or view.now_s))}
            for reason, wait in progress.waits.items()
            if wait.rows > 0
        },
        "provider_down_s": _rounded(view.now_s - view.down_since_s) if view.down_since_s is not None else None,
        "note": view.note or None,
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)

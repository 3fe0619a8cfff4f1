"""The last lines of a run: how many rows ended how, what it took, and what to do next. Pure.

An `error:` line means that the exit code is not 0, and each thing has one: what a reason tells is not told
again. A `warning:` says what went wrong within what the job's `success` rule allows. What a run cost is said
to be unknown, in part or whole, where it is. The last line is what to type next.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, assert_never

from batcher.core.progress import Progress
from batcher.observe.human import counted, dollars, duration, kinds, rate, thousands
from batcher.observe.text import clean
from batcher.observe.view import cost_phrase, rows_left

State = Literal["finished", "not_success", "stopped", "budget", "refused", "fault"]
"""How a run ended: exit codes 0, 3, 4, 5, 6 and 1, in this order."""

_HEADS: dict[State, str] = {
    "finished": "finished",
    "not_success": "finished, but the job's success rule does not hold",
    "stopped": "stopped before the end",
    "budget": "stopped by the budget",
    "refused": "stopped, the provider refused the job",
    "fault": "stopped by a fault in batcher",
}


@dataclass(frozen=True, slots=True)
class Total:
    """What one model of one provider was asked and took. `cost_usd` is None where it is unknown."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal | None
    cached_tokens: int = 0
    reasoning_tokens: int = 0


def summary_lines(
    progress: Progress,
    totals: Mapping[tuple[str, str], Total],
    *,
    state: State,
    elapsed_s: float,
    job_name: str,
    run: str,
    again: str = "`batcher run`",
    notes: Sequence[str] = (),
    reasons: Sequence[str] = (),
    said: Collection[str] = (),
    mend: str | None = None,
) -> list[str]:
    """The lines for stderr after a run, without line breaks.

    Args:
        progress: The counts of the whole run, earlier processes included.
        totals: The ledger's sums by provider and model.
        state: How the run ended.
        elapsed_s: How long this process ran; the rate counts only its rows.
        job_name: As the job says it.
        run: What the hints name: the run directory as the user would type it. Must be one word.
        again: The command that runs the job again, between backticks.
        notes: What else there is to know of the answers, a line each.
        reasons: Why the exit code is not 0, a sentence each.
        said: Of `failed` and `invalid`, the counts that the reasons tell already.
        mend: What the error that ended the run says to do.
    """
    name = clean(job_name)
    lines = [f"{name}: {_HEADS[state]}, {_done(progress)}{_took(progress, elapsed_s)}"]
    if progress.done:
        lines.append(f"rows: {_endings(progress)}")
    lines += notes
    lines += _work(progress, totals)
    # Once the reasons are given, what they leave out is within the rule.
    word = "warning" if state == "finished" or (state == "not_success" and reasons) else "error"
    lines += _problems(progress, word, said)
    lines += [f"error: {reason}" for reason in reasons]
    # A budget's own hint names the command.
    hints = [mend, "" if state == "budget" and mend else _hint(progress, state, clean(run), again)]
    return lines + [f"hint: {hint}" for hint in hints if hint]


def _done(progress: Progress) -> str:
    left = rows_left(progress)
    if not left:
        return counted(progress.done, "row")
    about = "" if progress.rows_total_is_exact else "≈"
    return f"{thousands(progress.done)} of {about}{counted(progress.done + left, 'row')} done"


def _took(progress: Progress, elapsed_s: float) -> str:
    rows = progress.done - progress.rows_before
    if rows <= 0:
        return f", none of them now ({duration(elapsed_s)})" if progress.done else f" in {duration(elapsed_s)}"
    now = f", {thousands(rows)} of them now" if progress.rows_before else ""
    speed = f" ({rate(rows / elapsed_s)})" if elapsed_s >= 1.0 else ""
    return f"{now} in {duration(elapsed_s)}{speed}"


def _endings(progress: Progress) -> str:
    parts = [f"{progress.ok:,} ok"]
    if progress.invalid:
        parts.append(f"{progress.invalid:,} invalid")
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    empty = f"; {counted(progress.empty, 'ok answer')} {'is' if progress.empty == 1 else 'are'} empty"
    return ", ".join(parts) + (empty if progress.empty else "")


def _work(progress: Progress, totals: Mapping[tuple[str, str], Total]) -> list[str]:
    """Calls, tokens and cost; by provider and model where there are several."""
    if not totals:
        return []
    calls = sum(total.calls for total in totals.values())
    per_row = f" for {counted(progress.done, 'row')}" if progress.done else ""
    lines = [
        f"calls: {thousands(calls)}{per_row}",
        f"tokens: {_tokens(list(totals.values()))}",
        f"cost: {_cost_in_all(progress, totals)}",
    ]
    if len(totals) > 1:
        lines += [
            f"  {clean(provider)}/{clean(model)}: {counted(total.calls, 'call')}, {_tokens([total])}, "
            + ("cost unknown" if total.cost_usd is None else dollars(total.cost_usd))
            for (provider, model), total in sorted(totals.items())
        ]
    return lines


def _tokens(totals: list[Total]) -> str:
    cached = sum(total.cached_tokens for total in totals)
    reasoning = sum(total.reasoning_tokens for total in totals)
    told_in = f"{sum(total.input_tokens for total in totals):,} in" + (f" ({cached:,} cached)" if cached else "")
    told_out = f"{sum(total.output_tokens for total in totals):,} out" + (
        f" ({reasoning:,} reasoning)" if reasoning else ""
    )
    return f"{told_in}, {told_out}"


def _cost_in_all(progress: Progress, totals: Mapping[tuple[str, str], Total]) -> str:
    """The sum, how many rows it leaves out, and what was held for calls whose bill nobody knows."""
    is_part_known = progress.rows_cost_unknown > 0 and progress.cost_usd > 0
    cost = cost_phrase(progress) if is_part_known else _cost(totals)
    if not progress.held_usd:
        return cost
    return f"{cost}; {dollars(progress.held_usd)} is held for calls whose bill is not known"


def _cost(totals: Mapping[tuple[str, str], Total]) -> str:
    known = [total.cost_usd for total in totals.values() if total.cost_usd is not None]
    unknown = sorted(
        f"{clean(provider)}/{clean(model)}" for (provider, model), t in totals.items() if t.cost_usd is None
    )
    if not unknown:
        return dollars(sum(known, Decimal(0)))
    who = ", ".join(unknown)
    return f"{dollars(sum(known, Decimal(0)))} and the unknown cost of {who}" if known else f"unknown for {who}"


def _problems(progress: Progress, word: str, said: Collection[str]) -> list[str]:
    """One line for failed rows and one for invalid ones, each with its kinds; none for what is said already."""
    of = f"of {counted(progress.done, 'row')}"
    by_kind = dict(progress.failures)
    invalid_only = by_kind.pop("invalid_answer", 0) == progress.invalid
    lines = []
    if progress.failed and "failed" not in said:
        # Where kinds of both are mixed, they cannot be told apart here: then they stand under invalid rows.
        told = f" ({kinds(by_kind)})" if invalid_only and by_kind else ""
        lines.append(f"{word}: {thousands(progress.failed)} {of} failed{told}")
    if progress.invalid and "invalid" not in said:
        is_are = "is" if progress.invalid == 1 else "are"
        told = (
            "" if invalid_only else f" ({'failed or invalid: ' if progress.failed else ''}{kinds(progress.failures)})"
        )
        lines.append(f"{word}: {thousands(progress.invalid)} {of} {is_are} invalid{told}")
    return lines


def _hint(progress: Progress, state: State, run: str, again: str) -> str:
    """What to type next; empty where nothing is left to do."""
    match state:
        case "finished" | "not_success":
            which = [word for word, count in (("failed", progress.failed), ("invalid", progress.invalid)) if count]
            if not which:
                return ""
            rows = "row" if progress.failed + progress.invalid == 1 else "rows"
            return f"`batcher retry {run}` asks the {' and '.join(which)} {rows} again"
        case "stopped":
            return f"`batcher resume {run}` goes on from here; no row that is done is asked again"
        case "budget":
            return "raise budget.usd in the job file and `batcher run` it again: it goes on from here"
        case "refused":
            # `resume` asks what the job asked when the run began: it would be refused for the same reason.
            if not progress.done:
                return f"mend that, then {again} begins with the first row; nothing was answered"
            return f"mend that, then `batcher resume {run}` goes on from here"
        case "fault":
            return f"every answer so far is safe; `batcher resume {run}` goes on from here"
        case _:
            assert_never(state)

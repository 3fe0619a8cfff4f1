"""How a run turned out, and its last lines: from its counters, its ledger, and what ended it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from batcher.core.progress import Progress
from batcher.errors import BatcherError, ExitCode
from batcher.ledger.ledger import Ledger
from batcher.observe.summary import State, Total, summary_lines
from batcher.observe.text import clean

_STATES: dict[ExitCode, State] = {
    ExitCode.OK: "finished",
    ExitCode.NOT_SUCCESS: "not_success",
    ExitCode.STOPPED: "stopped",
    ExitCode.BUDGET: "budget",
    ExitCode.REFUSED: "refused",
}

Said = Literal["failed", "invalid"]


@dataclass(frozen=True, slots=True)
class Judged:
    """How a run that was asked to its end turned out.

    `reasons` say why the code is not 0; `said` which counts of rows they tell already. `notes` are lines for
    the summary. `empty` counts the `ok` rows whose answer shows nothing. `totals` goes into `run.json`.
    """

    code: ExitCode
    reasons: list[str]
    said: frozenset[Said]
    notes: list[str]
    empty: int
    totals: Mapping[str, Any]

    @property
    def are_answers_wrong(self) -> bool:
        """Whether a reason is about rows that are `ok`, which `batcher retry` does not ask again."""
        return len(self.reasons) > len(self.said)


_LOOK = (
    "look at the answers: `batcher export {run} --to answers.csv`; `batcher retry` leaves ok rows alone, "
    "and `batcher run --fresh` asks every row again"
)


def last_lines(
    progress: Progress,
    ledger: Ledger,
    *,
    code: ExitCode,
    reasons: Sequence[str],
    judged: Judged | None,
    error: BatcherError | None,
    elapsed_s: float,
    job_name: str,
    run: str,
    again: str,
) -> list[str]:
    """What stderr says when a process of a run ends: the summary, why it ended so, and what to do.

    Args:
        progress: Counts of the whole run.
        ledger: Sums of the whole run.
        code: What the process will exit with.
        reasons: Why the code is not 0.
        judged: How a finished run turned out; None for one that was stopped.
        error: What stopped the run before its end, or None for a finished one.
        elapsed_s: How long this process ran.
        job_name: As the job says it.
        run: The run directory as the user would type it.
        again: The command that runs the job again, between backticks.
    """
    # Refused with every row done: there is nothing to resume, and `retry` asks again.
    is_refused_whole = code == ExitCode.REFUSED and error is None
    mend = None if error is None else error.hint
    if judged is not None and judged.are_answers_wrong:
        mend = _LOOK.format(run=clean(run))
    elif is_refused_whole:
        mend = f"if the job file is to be mended for that, {again} then asks every row in a new run"
    return summary_lines(
        progress,
        {
            (provider or "", model or ""): Total(
                calls=totals.calls,
                input_tokens=totals.input_tokens,
                output_tokens=totals.output_tokens,
                cost_usd=totals.cost_usd if totals.rows_cost_unknown == 0 else None,
                cached_tokens=totals.cached_tokens,
                reasoning_tokens=totals.reasoning_tokens,
            )
            for (provider, model), totals in ledger.accounts()
        },
        state="not_success" if is_refused_whole else _STATES.get(code, "fault"),
        elapsed_s=elapsed_s,
        job_name=job_name,
        run=run,
        again=again,
        notes=() if judged is None else judged.notes,
        reasons=reasons,
        said=() if judged is None else judged.said,
        mend=mend,
    )

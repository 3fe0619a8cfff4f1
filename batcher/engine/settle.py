"""The one place where a row turns into its outcome.

Pure: a row's request, what came back and what was spent go in, an `Outcome` comes out.
"""

from decimal import Decimal

from batcher.core.contracts import CallError
from batcher.core.records import Invalid, Outcome, Reply, Request, Row, Spend, Status, Verdict
from batcher.errors import FailureKind, UsageError


def settle_reply(
    request: Request, reply: Reply, verdict: Verdict, spend: Spend, *, now_s: float, model: str
) -> Outcome:
    """The outcome of a row that got a reply, by the verdict on it.

    `truncated` and `refused` rows are `failed` (asking again would give the same), other invalid
    answers are `invalid`; the text that was paid for is kept in each case.
    """
    label: str | None = None
    status: Status = "ok"
    error_kind: FailureKind | None = None
    error: str | None = None
    if isinstance(verdict, Invalid):
        status = "invalid" if verdict.kind == "invalid_answer" else "failed"
        error_kind, error = verdict.kind, verdict.reason
    else:
        label = verdict.label
    usage = spend.usage
    return Outcome(
        request.row,
        status,
        verdict.answer,
        label,
        verdict.reasoning if verdict.reasoning is not None else reply.reasoning,
        error_kind,
        error,
        reply.finish_reason,
        reply.model,
        reply.system_fingerprint,
        reply.provider,
        None,
        spend.attempts,
        None if usage is None else usage.input,
        None if usage is None else usage.cached,
        None if usage is None else usage.output,
        None if usage is None else usage.reasoning,
        spend.cost_usd,
        reply.latency_ms,
        int(now_s * 1000),
        model,
    )


def settle_failure(
    request: Request, error: CallError, spend: Spend, *, now_s: float, provider: str, model: str
) -> Outcome:
    """The outcome of a row whose call failed for good."""
    usage = spend.usage
    return Outcome(
        row=request.row,
        status="failed",
        error_kind=error.kind,
        error=error.message if error.hint is None else f"{error.message} ({error.hint})",
        provider=provider,
        attempts=spend.attempts,
        input_tokens=None if usage is None else usage.input,
        cached_tokens=None if usage is None else usage.cached,
        output_tokens=None if usage is None else usage.output,
        reasoning_tokens=None if usage is None else usage.reasoning,
        cost_usd=spend.cost_usd,
        finished_ms=int(now_s * 1000),
        asked_model=model,
    )


def settle_unasked(row: Row, error: UsageError, *, now_s: float, provider: str, model: str) -> Outcome:
    """The outcome of a row whose prompt cannot be made: it was never sent and cost nothing."""
    return Outcome(
        row=row.index,
        status="failed",
        error_kind="bad_request",
        error=f"never sent: {error.message}",
        provider=provider,
        cost_usd=Decimal(0),
        finished_ms=int(now_s * 1000),
        asked_model=model,
    )

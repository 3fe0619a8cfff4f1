"""The one place where a row turns into its outcome.

Pure: a row's request, what came back and what was spent go in, an `Outcome` comes out.
"""

from decimal import Decimal
from typing import assert_never

from batcher.core.contracts import CallError
from batcher.core.records import Invalid, Outcome, Repaired, Reply, Request, Row, Spend, Valid, Verdict
from batcher.errors import UsageError


def settle_reply(
    request: Request, reply: Reply, verdict: Verdict, spend: Spend, *, now_s: float, model: str
) -> Outcome:
    """The outcome of a row that got a reply, by the verdict on it.

    `truncated` and `refused` rows are `failed` (asking again would give the same), other invalid
    answers are `invalid`; the text that was paid for is kept in each case.
    """
    match verdict:
        case Valid() | Repaired():
            return _outcome(
                request, reply, spend, now_s=now_s, model=model, status="ok", answer=verdict.answer,
                label=verdict.label, reasoning=verdict.reasoning,
            )  # fmt: skip
        case Invalid():
            return _outcome(
                request, reply, spend, now_s=now_s, model=model,
                status="invalid" if verdict.kind == "invalid_answer" else "failed",
                answer=verdict.answer, reasoning=verdict.reasoning, error_kind=verdict.kind, error=verdict.reason,
            )  # fmt: skip
    assert_never(verdict)


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


def _outcome(
    request: Request,
    reply: Reply,
    spend: Spend,
    *,
    now_s: float,
    model: str,
    status: str,
    answer: str,
    label: str | None = None,
    reasoning: str | None = None,
    error_kind: str | None = None,
    error: str | None = None,
) -> Outcome:
    usage = spend.usage
    cost_usd: Decimal | None = spend.cost_usd
    return Outcome(
        request.row,
        status,  # type: ignore[arg-type]
        answer,
        label,
        reasoning if reasoning is not None else reply.reasoning,
        error_kind,  # type: ignore[arg-type]
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
        cost_usd,
        reply.latency_ms,
        int(now_s * 1000),
        model,
    )

"""The five contracts. Whatever keeps one can stand in its place; `batcher.testing` has the suites.

    Source -rows-> Renderer -render-> Caller -call-> Checker -check-> Sink -put->

Records cross between them; exceptions (`CallError`) live inside a caller stack and end there.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from batcher.core.records import (
    NOTHING_SPENT,
    Invalid,
    Outcome,
    Reply,
    Request,
    Row,
    Spend,
    Verdict,
)
from batcher.errors import BatcherError, FailureKind


class Source(Protocol):
    """Rows in a stable order with stable keys, in constant memory. Knows nothing of what is done."""

    def rows(self, start: int = 0) -> Iterator[Sequence[Row]]:
        """Batches of rows, the first of them row number `start`; indexes have no gap.

        Blocking: the engine pulls batches in a thread.

        Raises:
            InputError: A record cannot be read; the message names file and line.
        """
        ...


class Renderer(Protocol):
    """Pure: the same row gives the same request."""

    def render(self, row: Row) -> Request:
        """The request for one row."""
        ...

    def again(self, request: Request, answer: str, fault: str) -> Request:
        """The same question with the invalid answer and what was wrong with it added.

        `request` is the first one asked, whatever was asked since, so only the latest fault is explained.
        """
        ...


class Caller(Protocol):
    """Answers requests. Each behaviour around the HTTP exchange is one wrapper that keeps this contract."""

    async def call(self, request: Request) -> Reply:
        """A reply, with the spend of every attempt made for it. Safe to cancel at any await.

        Raises:
            CallError: The request failed for good as far as this caller goes; it knows its kind and spend.
            RefusedError: No provider is left that would take the job.
            StoppedError: The outage lasted too long.
        """
        ...


class Checker(Protocol):
    """Pure: the same reply gives the same verdict."""

    def check(self, request: Request, reply: Reply) -> Verdict:
        """Whether the reply is an answer to the job."""
        ...


class Sink(Protocol):
    """Keeps outcomes: one a row."""

    async def put(self, outcome: Outcome) -> None:
        """Keep the outcome: on disk, safe from `kill -9`, when it returns.

        Raises:
            StorageError: The disk refused it; the outcome is not kept.
        """
        ...


class CallError(BatcherError):
    """One call failed, and this is all that anyone may know of it.

    Args:
        message: The provider's words, masked and shortened, or what the transport saw.
        kind: The failure kind; decided once, in `providers/classify.py`.
        status: The HTTP status, or None where there was no answer.
        retry_after_s: How long the provider asked to wait, or None where it did not say.
        reached: Whether the provider may have seen the request. False (refused, DNS, TLS) speaks of
            the provider alone, never of the row.
        spend: What this call and those before it for the same request used.
        costs_try: Whether it counts against the row. False for a rate limit and for what happened while
            the provider was down: an outage costs no row its tries. The gate decides.
        is_reshaped: The provider refused the request's shape (`response_format`) and the next call has
            another one: ask again at once.
        is_billing_unknown: It reached the provider, and nobody can know what was billed for it (a timeout, a
            reset, an answer that was cut before its usage). `spend` has no tokens of it then; a budget
            books the worst case.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: FailureKind,
        status: int | None = None,
        retry_after_s: float | None = None,
        reached: bool = True,
        spend: Spend = NOTHING_SPENT,
        is_reshaped: bool = False,
        is_billing_unknown: bool = False,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.kind: FailureKind = kind
        self.status = status
        self.retry_after_s = retry_after_s
        self.reached = reached
        self.spend = spend
        self.is_reshaped = is_reshaped
        self.is_billing_unknown = is_billing_unknown
        self.costs_try = kind != "rate_limited" and not is_reshaped


__all__ = [
    "CallError",
    "Caller",
    "Checker",
    "Invalid",
    "Renderer",
    "Sink",
    "Source",
]

"""The nouns: one record for each stage of one row's life.

`Row` is read, `Request` is rendered, `Reply` comes back from a call, a verdict is passed on it, and
`Outcome` is what the row ends with. Each is frozen; a change makes a new one.

They are msgspec structs, not dataclasses: a frozen slotted dataclass of 8 fields takes 1.5 µs to
make and a struct 0.2 µs, and every row makes four of them. `gc=False` is safe because none of them
can be part of a reference cycle.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

import msgspec

from batcher.errors import FailureKind

Status = Literal["ok", "invalid", "failed"]

Key = int | str | float | bool | None
"""A row's name from `input.key`, as JSON can say it; dates and decimals become text here."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """One input record: its position (from 0, after `where` and `limit`) and the columns the job reads."""

    index: int
    columns: Mapping[str, Any]
    key: Key = None


class Request(msgspec.Struct, frozen=True, gc=False):
    """What is asked for one row, before a provider's model and parameters are put around it.

    `messages` is the JSON array of chat messages, encoded once; `ask_number` counts from 1 and grows
    when an invalid answer is asked again with the fault explained.
    """

    row: int
    messages: bytes
    key: Key = None
    ask_number: int = 1


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens as the provider reported them.

    `cached` is part of `input` and `reasoning` part of `output`, as on the wire; whoever prices them
    takes the parts out first.
    """

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input + other.input,
            self.cached + other.cached,
            self.output + other.output,
            self.reasoning + other.reasoning,
        )


class Spend(msgspec.Struct, frozen=True, gc=False):
    """What a row has used so far: HTTP calls, tokens, dollars.

    `usage` is None when no call reported any, `cost_usd` is None when a billed call has no known
    price or no usage: unknown, never 0. A call that failed unbilled costs `Decimal(0)`.
    """

    attempts: int = 0
    usage: Usage | None = None
    cost_usd: Decimal | None = Decimal(0)

    def __add__(self, other: "Spend") -> "Spend":
        if self.usage is None or other.usage is None:
            usage = self.usage or other.usage
        else:
            usage = self.usage + other.usage
        unknown = self.cost_usd is None or other.cost_usd is None
        cost_usd = None if unknown else self.cost_usd + other.cost_usd  # type: ignore[operator]
        return Spend(self.attempts + other.attempts, usage, cost_usd)


NOTHING_SPENT = Spend()


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What a provider said to one request, and what all the calls for it used.

    `latency_ms` is the time of the attempt that answered. `refusal` is the provider's own refusal
    text where it sent one. `is_structured` says that the labels or schema went along as
    `response_format`, so the answer is expected to be JSON.
    """

    text: str
    spend: Spend
    latency_ms: float
    provider: str
    model: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    finish_reason: str | None = None
    system_fingerprint: str | None = None
    is_structured: bool = False


class Valid(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The reply is an answer."""

    answer: str
    label: str | None = None
    reasoning: str | None = None


class Repaired(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The reply is an answer after a repair that `how` names."""

    answer: str
    how: str
    label: str | None = None
    reasoning: str | None = None


class Invalid(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The reply is no answer. `reason` is for people, `again` (if any) for the model, asked again with it."""

    answer: str
    reason: str
    kind: Literal["invalid_answer", "truncated", "refused"] = "invalid_answer"
    again: str | None = None
    reasoning: str | None = None


Verdict = Valid | Repaired | Invalid


class Outcome(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What one row ended with; one record of the journal.

    Written positionally (`array_like`), so fields are only ever added at the end, with a default.
    `finished_ms` is milliseconds since the epoch, UTC. `asked_model` is the model the job asked for
    and the one the ledger books on; `model` is the one the provider says it used.
    """

    row: int
    status: Status
    answer: str | None = None
    label: str | None = None
    reasoning: str | None = None
    error_kind: FailureKind | None = None
    error: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    provider: str | None = None
    cache: str | None = None
    attempts: int = 0
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: Decimal | None = None
    latency_ms: float | None = None
    finished_ms: int = 0
    asked_model: str | None = None

"""What one call may cost at most, known before it is sent.

Input: at most one token for each byte of the body. The vocabularies of chat models are made of bytes,
or fall back to them, so a token stands for one byte at least; JSON adds bytes (quotes, escapes, role
names) and takes none away. `TEMPLATE_TOKENS` stands for what the provider puts around the messages.
Output: at most what the job's `max_completion_tokens` or `max_tokens` allows, reasoning included; without
one, the longest answer of the model. A request has one answer (`n` is refused).

Not seen here are charges that are not by token (a web search, a request). `Budget` learns from a bill
that is higher than what was reserved.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from batcher.errors import JobError
from batcher.ledger.prices import MILLION_DIGITS, AnyPrice, Price, TieredPrice

TEMPLATE_TOKENS = 128
"""What a provider may put around the messages: a default system prompt (about 100 tokens for gpt-oss, 30 for
Llama and Qwen)."""

TOOLS_TOKENS = 512
"""The same beside tools: their preamble has 346 tokens for Claude (its documentation, "Tool use pricing")."""

IMAGE_TOKENS = 50_000
"""One image: the most that is documented is 48,169, for gpt-4o-mini (2,833 and 5,667 for each of up to 8 tiles)."""

OUTPUT_TOKENS_UNKNOWN = 32_768
"""The longest answer of a model that is not in `OUTPUT_TOKENS`. Such names are mostly open models behind a
gateway: in the default timeout of 60 s this is 546 tokens a second. It is no promise of theirs: a job whose
answers may be longer says so by `params.max_tokens`."""

OUTPUT_TOKENS = (
    ("gpt-4.1", 32_768),
    ("gpt-4o", 16_384),
    ("gpt-5-pro", 272_000),
    ("gpt-5", 128_000),
    ("o1", 100_000),
    ("o3", 100_000),
    ("o4-mini", 100_000),
    ("claude-haiku-4", 64_000),
    ("claude-sonnet-4-5", 64_000),
    ("claude-sonnet-4.5", 64_000),
    ("claude-opus-4-5", 64_000),
    ("claude-", 128_000),
    ("gemini-", 65_536),
    ("deepseek-chat", 65_536),
    ("deepseek-reasoner", 65_536),
    ("deepseek-v3.2", 163_840),
    ("deepseek-v4", 393_216),
    ("deepseek-flash", 393_216),
)
"""The longest answer by the start of a model's name, first match; at least the highest that litellm 1.106.2
(October 2026) lists for the family."""

_OUTPUT_CAPS = ("max_completion_tokens", "max_tokens")
_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking"})
_IMAGE_PARTS = frozenset({"image_url", "input_image", "image"})
_VENDOR = re.compile(r"^.*/")


@dataclass(frozen=True, slots=True)
class OutputBound:
    """How many tokens one answer may have; `is_from_job` where the job itself says so."""

    tokens: int
    is_from_job: bool

    @property
    def advice(self) -> str:
        """Why one call may cost so much, for a run whose budget cannot hold even one."""
        why = "by its params.max_tokens" if self.is_from_job else "as the job sets no params.max_tokens"
        return f"an answer may have {self.tokens:,} tokens{'' if self.is_from_job else ','} {why}"


def output_bound(model: str, params: Mapping[str, Any]) -> OutputBound:
    """The longest answer to a request of this job: its own cap (the higher, if it has two), else the model's."""
    caps = [cap for name in _OUTPUT_CAPS if type(cap := params.get(name)) is int and cap > 0]
    if caps:
        return OutputBound(max(caps), is_from_job=True)
    name = _VENDOR.sub("", model.lower())
    known = next((tokens for start, tokens in OUTPUT_TOKENS if name.startswith(start)), OUTPUT_TOKENS_UNKNOWN)
    return OutputBound(known, is_from_job=False)


@dataclass(frozen=True, slots=True)
class _Rate:
    """From so many input tokens on: dollars per byte, and dollars whatever the length."""

    above_tokens: int
    byte_usd: Decimal
    fixed_usd: Decimal


class WorstCase:
    """The most that a request of one job can cost at one price: a multiplication and an addition.

    Args:
        price: Has a price for output; see `check_budget`.
        output: How long an answer may be.
        extra_tokens: Input beside the messages.
        may_have_parts: Whether a message's content may be a list of parts, or is always text.
    """

    def __init__(
        self,
        price: AnyPrice,
        output: OutputBound,
        *,
        extra_tokens: int = TEMPLATE_TOKENS,
        may_have_parts: bool = True,
    ) -> None:
        self._extra_tokens = extra_tokens
        self._may_have_parts = may_have_parts
        steps = [(-1, price)] if isinstance(price, Price) else _steps(price)
        rates, input_usd, output_usd = [], Decimal(0), Decimal(0)
        for above_tokens, step in steps:
            if step.output is None:
                raise ValueError("a price without output bounds no call")
            # Never below an earlier step's: a shorter input than the worst case may fall into the dearer one.
            input_usd = max(input_usd, step.input, step.cached_input)
            output_usd = max(output_usd, step.output)
            byte_usd = input_usd.scaleb(-MILLION_DIGITS)
            fixed_usd = byte_usd * self._extra_tokens + output_usd.scaleb(-MILLION_DIGITS) * output.tokens
            rates.append(_Rate(above_tokens, byte_usd, fixed_usd))
        self._rates = tuple(rates)

    @classmethod
    def of_job(
        cls,
        price: AnyPrice,
        *,
        model: str,
        params: Mapping[str, Any],
        overhead_bytes: int,
        may_have_parts: bool = True,
    ) -> "WorstCase":
        """The worst case of a job's requests; `overhead_bytes` is the body without its messages."""
        template_tokens = TOOLS_TOKENS if "tools" in params else TEMPLATE_TOKENS
        extra_tokens = overhead_bytes + template_tokens
        return cls(price, output_bound(model, params), extra_tokens=extra_tokens, may_have_parts=may_have_parts)

    def usd(self, messages: bytes) -> Decimal | None:
        """Dollars that a request with these messages costs at most; None where nothing bounds it.

        An image counts `IMAGE_TOKENS` instead of its bytes, for it is priced by its size in pixels. For
        sound, video, files and parts of an unknown type there is no bound: they have prices of their own.

        Args:
            messages: The JSON array of messages as it is sent.
        """
        if not self.has_parts(messages):
            return self.usd_of(len(messages))
        tokens = _tokens_max(messages)
        return None if tokens is None else self.usd_of(tokens)

    def has_parts(self, messages: bytes) -> bool:
        """Whether there may be something else in them than text; costs 50 µs for 100 kB where it has to look."""
        # `in` would first try the needle as a number: 0.4 µs.
        return self._may_have_parts and messages.find(b'"type":') >= 0

    def usd_of(self, input_tokens: int) -> Decimal:
        """The same for messages of at most so many tokens."""
        rate = self._rates[0]
        for higher in self._rates[1:]:
            if input_tokens + self._extra_tokens > higher.above_tokens:
                rate = higher
        return rate.byte_usd * input_tokens + rate.fixed_usd


def check_budget(price: AnyPrice | None, *, model: str, params: Mapping[str, Any]) -> None:
    """Refuse a job whose budget could not hold, because what its calls cost is not known.

    Args:
        price: The model's; None where nobody knows it.
        model: Its name, for the message.
        params: The job's.

    Raises:
        JobError: The price is unknown, has none for output, or the params ask for what has another price.
    """
    give = "give provider.price: {input: …, output: …}"
    if price is None:
        raise JobError(f"the model {model} has no known price, so budget.usd cannot hold: {give}")
    bases = [price] if isinstance(price, Price) else [step for _, step in _steps(price)]
    if any(base.output is None for base in bases):
        raise JobError(f"the price of {model} has no output, so budget.usd cannot hold: {give}")
    is_from_job = price.source == "job file"
    tier = params.get("service_tier")
    if tier not in (None, "auto", "default", "flex") and not is_from_job:
        raise JobError(f"params.service_tier: {tier} has prices of its own, so budget.usd cannot hold: {give} for it")
    if "web_search_options" in params:
        raise JobError(
            "params.web_search_options is charged by the search, which no token price shows, "
            "so budget.usd cannot hold; remove one of the two"
        )
    modalities = params.get("modalities")
    if isinstance(modalities, list | tuple) and "audio" in modalities:
        raise JobError("params.modalities asks for audio, which has prices of its own, so budget.usd cannot hold")


def _steps(price: TieredPrice) -> list[tuple[int, Price]]:
    return [(-1, price.base), *((tier.above_tokens, tier.price) for tier in price.tiers)]


class _Part(msgspec.Struct):
    type: str | None = None
    image_url: msgspec.Raw = msgspec.Raw()
    source: msgspec.Raw = msgspec.Raw()


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None


_decode_messages = msgspec.json.Decoder(list[_Message]).decode


def _tokens_max(messages: bytes) -> int | None:
    """One token a byte, an image `IMAGE_TOKENS` instead of its bytes; None where a part has no bound."""
    try:
        decoded = _decode_messages(messages)
    except msgspec.DecodeError:
        # A part that is not shaped as any provider documents it bounds nothing.
        return None
    tokens = len(messages)
    for message in decoded:
        for part in message.content if isinstance(message.content, list) else ():
            if part.type in _IMAGE_PARTS:
                tokens += IMAGE_TOKENS - len(part.image_url) - len(part.source)
            elif part.type not in _TEXT_PARTS:
                return None
    return tokens

"""The `usage` of a response: read strictly, then leniently, and found in answers that failed.

A count is believed when both are there and possible. Where `total_tokens` is more than the two together, the
rest are tokens of reasoning that the provider left out of `completion_tokens` and bills as output. What a
failed call used is in the ledger too, so its usage is looked for in error objects, in answers that lack
something, and in what came of one that was cut.

Source: OpenAI API reference, "The chat completion object"; `prompt_cache_hit_tokens` from DeepSeek; xAI's
documentation, "Consumption and rate limits": reasoning is counted separately from `completion_tokens`, and in
`total_tokens`. Gemini's endpoint does the same and does not name the part.
"""

import re
from typing import Any

import msgspec

from batcher.core.records import Usage

TOKENS_MAX = 2**31
"""No single call uses so many; a power of two."""

# Searching more than this for the usage of a failed call would hold up the event loop.
_FIND_BYTES_MAX = 4 * 2**20
_LENIENT_BYTES_MAX = 128 * 2**10
_USAGES_TRIED = 4
_USAGE_OBJECT = re.compile(rb'"usage"\s{0,8}:\s{0,8}\{[^{}]{0,2048}(?:\{[^{}]{0,1024}\}[^{}]{0,1024}){0,8}\}')


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class WireUsage(msgspec.Struct, gc=False):
    """The `usage` object as providers send it."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None


class _Bill(msgspec.Struct):
    usage: WireUsage | None = None


class _FailedBill(msgspec.Struct):
    usage: WireUsage | None = None
    error: _Bill | None = None


_BILL_DECODER = msgspec.json.Decoder(_Bill)
_FAILED_BILL_DECODER = msgspec.json.Decoder(_FailedBill)


def to_usage(raw: WireUsage | None) -> Usage | None:
    """The counts as a `Usage`; None where one of the two is missing or cannot be."""
    if raw is None:
        return None
    given, output, total = raw.prompt_tokens, raw.completion_tokens, raw.total_tokens
    # Both counts or none: half a usage would book half a price.
    if given is None or output is None:
        return None
    if total is not None and 0 <= output < total - given:
        output = total - given
    details, out = raw.prompt_tokens_details, raw.completion_tokens_details
    cached = None if details is None else details.cached_tokens
    if cached is None:
        cached = raw.prompt_cache_hit_tokens or 0
    reasoning = 0 if out is None else out.reasoning_tokens or 0
    # A count that cannot be is no count: half-believed, it would be booked. The bits of all of them together say so.
    return Usage(given, cached, output, reasoning) if 0 <= given | cached | output | reasoning < TOKENS_MAX else None


def lenient_usage(value: Any) -> WireUsage | None:
    """A `usage` of any shape: numbers as text or as fractions are counts too."""
    if not isinstance(value, dict):
        return None
    details, out = value.get("prompt_tokens_details"), value.get("completion_tokens_details")
    return WireUsage(
        _as_count(value.get("prompt_tokens")),
        _as_count(value.get("completion_tokens")),
        _as_count(value.get("total_tokens")),
        _InputDetails(_as_count(details.get("cached_tokens"))) if isinstance(details, dict) else None,
        _OutputDetails(_as_count(out.get("reasoning_tokens"))) if isinstance(out, dict) else None,
        _as_count(value.get("prompt_cache_hit_tokens")),
    )


def find_usage(body: bytes) -> Usage | None:
    """What a call used that gave no answer, from the `usage` of its body; None where there is none to trust.

    The body may be an error object, an answer that lacks something, or one that was cut: then what came
    must hold the whole usage object of the answer itself (not one inside another object or a text), with
    both counts.
    """
    if len(body) > _FIND_BYTES_MAX:
        return None
    try:
        bill = _FAILED_BILL_DECODER.decode(body)
    except msgspec.ValidationError:
        return _find_usage_leniently(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _find_usage_before_cut(body)
    return to_usage(bill.usage) or (to_usage(bill.error.usage) if bill.error is not None else None)


def _find_usage_leniently(body: bytes) -> Usage | None:
    if len(body) > _LENIENT_BYTES_MAX:
        return None
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _find_usage_before_cut(body)
    return to_usage(lenient_usage(value.get("usage"))) if isinstance(value, dict) else None


def _find_usage_before_cut(body: bytes) -> Usage | None:
    at = len(body)
    for _ in range(_USAGES_TRIED):
        at = body.rfind(b'"usage"', 0, at)
        if at < 0:
            return None
        found = _USAGE_OBJECT.match(body, at)
        if found is None:
            continue
        # Only where the usage is a field of the outermost object does one brace make a whole of it.
        try:
            return to_usage(_BILL_DECODER.decode(body[: found.end()] + b"}").usage)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
    return None


def _as_count(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return int(value) if value == value and abs(value) < 2**53 else None  # noqa: PLR0124  # NaN
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16 else None

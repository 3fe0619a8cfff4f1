"""Chat completions on the wire: a request's bytes, and a response's bytes as records.

The constant part of the body (model, params, response_format) is encoded once per provider and the
messages are spliced in. A response is decoded into slim structs with the fields that are used; one
that does not fit them (numbers as text, a list where a string belongs) is read once more, leniently,
since providers that call themselves compatible differ there.

Source: OpenAI API reference, "Create chat completion"; `reasoning_content` from DeepSeek and vLLM,
`reasoning` from OpenRouter, `prompt_cache_hit_tokens` from DeepSeek.
"""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from batcher.core.records import Usage

TOKENS_MAX = 2**31
"""No single call uses so many."""

_ENCODER = msgspec.json.Encoder()


class ChatWire:
    """Makes bodies for one model of one provider.

    Args:
        model: The model's name at the provider.
        params: Passed through untouched (`temperature`, `max_tokens`, ...). A `response_format` in here is
            the user's own and wins over ours.
        response_format: What to send while the provider takes it, or None.
    """

    def __init__(self, model: str, params: Mapping[str, Any], response_format: Mapping[str, Any] | None) -> None:
        head = _ENCODER.encode({"model": model, **params})
        self._head = head[:-1] + b',"messages":'
        self.has_format = response_format is not None and "response_format" not in params
        self._format = b',"response_format":' + _ENCODER.encode(response_format) + b"}" if self.has_format else b"}"

    def body(self, messages: bytes, *, with_format: bool) -> bytes:
        """The request body around one JSON array of messages."""
        return self._head + messages + (self._format if with_format else b"}")


class _Part(msgspec.Struct):
    text: str | None = None


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    finish_reason: str | None = None


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    error: Any = None


class Completion(msgspec.Struct, frozen=True, gc=False):
    """A 200 response, as far as it matters. `text` is None where there was no content at all."""

    text: str | None = None
    has_choice: bool = False
    refusal: str | None = None
    reasoning: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    error: str | None = None


_DECODER = msgspec.json.Decoder(_Completion)


def decode_completion(body: bytes) -> Completion:
    """The response's fields.

    Raises:
        ValueError: The body is no JSON object; the message says what it looks like.
    """
    try:
        raw = _DECODER.decode(body)
    except msgspec.ValidationError:
        raw = _decode_leniently(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(_describe(body)) from error
    if raw.error and not raw.choices:
        return Completion(error=error_text(raw.error), usage=_usage(raw.usage), model=raw.model)
    if not raw.choices or raw.choices[0].message is None:
        return Completion(usage=_usage(raw.usage), model=raw.model)
    choice = raw.choices[0]
    message = choice.message
    assert message is not None  # checked above; mypy cannot see through the list
    content = message.content
    text = "".join(part.text or "" for part in content) if isinstance(content, list) else content
    return Completion(
        text,
        True,
        message.refusal,
        message.reasoning_content or message.reasoning,
        choice.finish_reason,
        _usage(raw.usage),
        raw.model,
        raw.system_fingerprint,
    )


def error_text(error: Any) -> str:
    """The provider's words in an `error` value, which may be an object, a string or anything else."""
    if isinstance(error, Mapping):
        message = error.get("message") or error.get("msg") or error.get("detail")
        if isinstance(message, str) and message:
            return message
    if isinstance(error, str):
        return error
    # Not msgspec: what the SDK parsed may hold half characters and numbers that it would refuse.
    try:
        return json.dumps(error, ensure_ascii=False, separators=(",", ":"), default=str)
    except RecursionError:
        return "an error object that is nested too deep"


def _usage(raw: _Usage | None) -> Usage | None:
    # Both counts or none: half a usage would book half a price.
    if raw is None or raw.prompt_tokens is None or raw.completion_tokens is None:
        return None
    details = raw.prompt_tokens_details
    cached = details.cached_tokens if details is not None else None
    out = raw.completion_tokens_details
    usage = Usage(
        raw.prompt_tokens,
        (cached if cached is not None else raw.prompt_cache_hit_tokens) or 0,
        raw.completion_tokens,
        (out.reasoning_tokens if out is not None else None) or 0,
    )
    # A count that cannot be is no count: half-believed, it would be booked.
    return (
        usage if min(usage_counts := msgspec.structs.astuple(usage)) >= 0 and max(usage_counts) < TOKENS_MAX else None
    )


def _decode_leniently(body: bytes) -> _Completion:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(_describe(body)) from error
    if not isinstance(value, dict):
        raise ValueError(_describe(body))
    return _Completion(
        choices=[_lenient_choice(choice) for choice in _as_list(value.get("choices"))],
        usage=_lenient_usage(value.get("usage")),
        model=_as_text(value.get("model")),
        system_fingerprint=_as_text(value.get("system_fingerprint")),
        error=value.get("error"),
    )


def _lenient_choice(value: Any) -> _Choice:
    if not isinstance(value, dict):
        return _Choice()
    message = value.get("message")
    if not isinstance(message, dict):
        return _Choice(finish_reason=_as_text(value.get("finish_reason")))
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in content]
        content = "".join(text for text in texts if isinstance(text, str))
    elif content is not None and not isinstance(content, str):
        # Some servers put the parsed JSON answer here instead of its text.
        content = _ENCODER.encode(content).decode()
    return _Choice(
        _Message(
            content,
            _as_text(message.get("refusal")),
            _as_text(message.get("reasoning_content")),
            _as_text(message.get("reasoning")),
        ),
        _as_text(value.get("finish_reason")),
    )


def _lenient_usage(value: Any) -> _Usage | None:
    if not isinstance(value, dict):
        return None
    details, out = value.get("prompt_tokens_details"), value.get("completion_tokens_details")
    return _Usage(
        _as_count(value.get("prompt_tokens")),
        _as_count(value.get("completion_tokens")),
        _InputDetails(_as_count(details.get("cached_tokens"))) if isinstance(details, dict) else None,
        _OutputDetails(_as_count(out.get("reasoning_tokens"))) if isinstance(out, dict) else None,
        _as_count(value.get("prompt_cache_hit_tokens")),
    )


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _as_text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _as_count(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return int(value) if value == value and abs(value) < 2**53 else None  # noqa: PLR0124  # NaN
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16 else None


def _describe(body: bytes) -> str:
    start = body.lstrip()[:64].lower()
    if not start:
        return "the response is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "the response is an HTML page, not JSON: is base_url the API's address, ending in /v1?"
    if start.startswith((b"data:", b"event:", b":")):
        return "the response is an event stream, not JSON"
    if start.startswith((b"{", b"[")):
        return "the response is cut or invalid JSON"
    return "the response is not JSON"

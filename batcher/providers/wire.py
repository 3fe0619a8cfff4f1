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
from batcher.providers.usage import WireUsage, lenient_usage, to_usage

LENIENT_BYTES_MAX = 128 * 2**10
"""Of a body that does not fit the structs and is read once more as whatever it is."""

RECORDS_BYTES_MAX = 512 * 2**10
"""Of a body that records are made of. Larger ones are read sparingly: three bytes of JSON can make a record, and
millions of them would hold up the event loop for seconds (measured: 60 ms for 1 MiB, 250 ms leniently)."""

_COMPLAINTS_MAX = 3

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
        self.model = model
        self.param_names = tuple(str(name) for name in params)
        head = _ENCODER.encode({"model": model, **params})
        self._head = head[:-1] + b',"messages":'
        self.has_format = response_format is not None and "response_format" not in params
        self._format = b',"response_format":' + _ENCODER.encode(response_format) + b"}" if self.has_format else b"}"

    def body(self, messages: bytes, *, with_format: bool) -> bytes:
        """The request body around one JSON array of messages."""
        return self._head + messages + (self._format if with_format else b"}")


class _Part(msgspec.Struct, gc=False):
    text: str | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | list[_Part] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message | None = None
    finish_reason: str | None = None


class _Completion(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: WireUsage | None = None
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


class _LargeMessage(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _LargeChoice(msgspec.Struct):
    message: _LargeMessage
    finish_reason: str | None = None


class _LargeCompletion(msgspec.Struct):
    # One choice and texts: whatever else is in there is passed over without a record being made of it.
    choices: tuple[_LargeChoice]
    usage: WireUsage | None = None
    model: str | None = None
    system_fingerprint: str | None = None


_DECODER = msgspec.json.Decoder(_Completion)
_LARGE_DECODER = msgspec.json.Decoder(_LargeCompletion)


def decode_completion(body: bytes) -> Completion:
    """The response's fields.

    Raises:
        ValueError: The body is no JSON object; the message says what it looks like.
    """
    if len(body) > RECORDS_BYTES_MAX:
        return _decode_large(body)
    try:
        raw = _DECODER.decode(body)
    except msgspec.ValidationError:
        raw = _decode_leniently(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(_describe(body)) from error
    if raw.error and not raw.choices:
        return Completion(error=error_text(raw.error), usage=to_usage(raw.usage), model=raw.model)
    if not raw.choices or raw.choices[0].message is None:
        return Completion(usage=to_usage(raw.usage), model=raw.model)
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
        to_usage(raw.usage),
        raw.model,
        raw.system_fingerprint,
    )


def error_text(error: Any) -> str:
    """The provider's words in an `error` value, which may be an object, a string or anything else."""
    if isinstance(error, Mapping):
        message = error.get("message") or error.get("msg") or error.get("detail")
        if isinstance(message, Mapping):
            message = message.get("detail")
        if isinstance(message, str) and message:
            return message
        if isinstance(message, list) and message:
            return "; ".join(_complaint(one) for one in message[:_COMPLAINTS_MAX])
    if isinstance(error, str):
        return error
    # Not msgspec: what the SDK parsed may hold half characters and numbers that it would refuse.
    try:
        return json.dumps(error, ensure_ascii=False, separators=(",", ":"), default=str)
    except RecursionError:
        return "an error object that is nested too deep"


def _complaint(one: Any) -> str:
    """One complaint in FastAPI's form, without the `input` that it quotes: that may be a row's text."""
    if not isinstance(one, Mapping) or not isinstance(one.get("msg"), str):
        return error_text(one)
    where = one.get("loc")
    names = ".".join(str(name) for name in where) if isinstance(where, list | tuple) else ""
    return f"{names}: {one['msg']}" if names else str(one["msg"])


def _decode_large(body: bytes) -> Completion:
    try:
        raw = _LARGE_DECODER.decode(body)
    except msgspec.ValidationError as error:
        raise ValueError(_no_completion(body)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(_describe(body)) from error
    choice, message = raw.choices[0], raw.choices[0].message
    return Completion(
        message.content,
        True,
        message.refusal,
        message.reasoning_content or message.reasoning,
        choice.finish_reason,
        to_usage(raw.usage),
        raw.model,
        raw.system_fingerprint,
    )


def _decode_leniently(body: bytes) -> _Completion:
    if len(body) > LENIENT_BYTES_MAX:
        raise ValueError(_no_completion(body))
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(_describe(body)) from error
    if not isinstance(value, dict):
        raise ValueError(_describe(body))
    return _Completion(
        choices=[_lenient_choice(choice) for choice in _as_list(value.get("choices"))],
        usage=lenient_usage(value.get("usage")),
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


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _as_text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _no_completion(body: bytes) -> str:
    return f"the response is cut or invalid JSON, or no chat completion ({len(body) / 2**20:.1f} MiB)"


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

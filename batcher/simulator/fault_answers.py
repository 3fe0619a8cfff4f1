"""What goes over the wire for each status and answer fault; the connection faults are in `exchange`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate

from batcher.simulator import wire
from batcher.simulator.answers import OFF_ANSWER
from batcher.simulator.limits import Headers, go_duration
from batcher.simulator.tokens import count_tokens
from batcher.simulator.wire import Completion, HttpAnswer, error_answer


@dataclass(frozen=True, slots=True)
class FaultContext:
    """What the words of a fault may mention. `now_s` is wall time."""

    model: str
    key: str
    tokens_max: int | None
    prompt_tokens: int
    retry_after_s: float
    now_s: float


def status_answer(name: str, context: FaultContext) -> HttpAnswer:
    """The response of a `status` fault."""
    return _STATUS[name](context)


def answer_fault(name: str, completion: Completion) -> HttpAnswer:
    """The 200 of an `answer` fault, made from the good answer it spoils."""
    if name == "error_200":
        return replace(_server_error(), status=200)
    if name == "html_200":
        return replace(wire.html_page(200, "Just a moment..."), status=200)
    body = wire.completion_body(spoiled(name, completion))
    return HttpAnswer(200, body[:-1] if name == "invalid_json" else body)


def spoiled(name: str, completion: Completion) -> Completion:
    """The completion as an `answer` fault leaves it; tokens follow the text that is left."""
    content = completion.content or ""
    match name:
        case "no_usage":
            return replace(completion, tokens=None)
        case "null_content":
            return replace(completion, content=None)
        case "empty_content":
            return _with_content(completion, "")
        case "empty_choices":
            return replace(completion, choices=0)
        case "no_choices":
            return replace(completion, choices=None)
        case "length":
            return replace(_with_content(completion, content[: len(content) // 2]), finish_reason="length")
        case "content_filter":
            return replace(_with_content(completion, ""), finish_reason="content_filter")
        case "refusal":
            refused = _with_content(completion, "I'm sorry, I can't help with that.")
            return replace(refused, content=None, refusal=refused.content)
        case "off_answer":
            return _with_content(completion, OFF_ANSWER)
    return completion


def rate_limited(message: str, kind: str, *, wait_s: float, headers: Headers = ()) -> HttpAnswer:
    """A 429 that says when to come back, in whole seconds (rounded up) and in milliseconds."""
    wait = (("retry-after", str(math.ceil(wait_s))), ("retry-after-ms", str(math.ceil(wait_s * 1000))))
    return error_answer(
        429, message, kind=kind, code="rate_limit_exceeded", headers=headers + wait, retry_after_s=wait_s
    )


def day_is_over(model: str, limit: int, used: int, *, wait_s: float, headers: Headers) -> HttpAnswer:
    """The 429 of a daily limit, as OpenAI sends it: the time is in the words and the reset, in no Retry-After."""
    message = (
        f"Rate limit reached for {model} in organization org-simulator on requests per day (RPD): Limit {limit}, "
        f"Used {used}, Requested 1. Please try again in {go_duration(wait_s)}. "
        "Visit https://platform.openai.com/account/rate-limits to learn more."
    )
    return error_answer(429, message, kind="requests", code="rate_limit_exceeded", headers=headers)


def _with_content(completion: Completion, content: str) -> Completion:
    """Another text, with the tokens that it has."""
    if completion.tokens is None:
        return replace(completion, content=content)
    reasoning = completion.tokens.reasoning
    tokens = replace(completion.tokens, completion=count_tokens(content) + reasoning)
    return replace(completion, content=content, tokens=tokens)


def _rate_limit_fault(
    headers: Callable[[FaultContext], Headers], *, asks: bool = True
) -> Callable[[FaultContext], HttpAnswer]:
    def make(context: FaultContext) -> HttpAnswer:
        return error_answer(
            429,
            f"Rate limit reached for {context.model} in organization org-simulator on requests per min (RPM). "
            "Visit https://platform.openai.com/account/rate-limits to learn more.",
            kind="requests",
            code="rate_limit_exceeded",
            headers=headers(context),
            retry_after_s=context.retry_after_s if asks else None,
        )

    return make


def _in_seconds(context: FaultContext) -> Headers:
    return (("retry-after", str(math.ceil(context.retry_after_s))),)


def _as_date(context: FaultContext) -> Headers:
    # HTTP dates have whole seconds: rounded up, so that nobody is asked back too early.
    return (("retry-after", formatdate(math.ceil(context.now_s + context.retry_after_s), usegmt=True)),)


def _in_milliseconds(context: FaultContext) -> Headers:
    return (("retry-after-ms", str(math.ceil(context.retry_after_s * 1000))),)


def _server_error() -> HttpAnswer:
    return error_answer(
        500, "The server had an error while processing your request. Sorry about that!", kind="server_error"
    )


def _quota(_: FaultContext) -> HttpAnswer:
    return error_answer(
        429,
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
        kind="insufficient_quota",
        code="insufficient_quota",
    )


def _overloaded_529(_: FaultContext) -> HttpAnswer:
    return HttpAnswer(529, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}')


def _content_filter_400(_: FaultContext) -> HttpAnswer:
    return error_answer(
        400,
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. "
        "Please modify your prompt and retry.",
        kind=None,
        param="prompt",
        code="content_filter",
    )


def _unprocessable(_: FaultContext) -> HttpAnswer:
    return HttpAnswer(422, b'{"detail":[{"type":"missing","loc":["body","messages"],"msg":"Field required"}]}')


def _too_long(context: FaultContext) -> HttpAnswer:
    # A limit just under what was asked, so that the sentence is true of itself.
    asked = context.prompt_tokens + (context.tokens_max or 0)
    return wire.too_long(asked - 1, context.prompt_tokens, context.tokens_max or 0)


def _unsupported_parameter(_: FaultContext) -> HttpAnswer:
    return error_answer(
        400,
        "Unsupported value: 'temperature' does not support 0.1 with this model. "
        "Only the default (1) value is supported.",
        param="temperature",
        code="unsupported_value",
    )


_STATUS: Mapping[str, Callable[[FaultContext], HttpAnswer]] = {
    "429": _rate_limit_fault(_in_seconds),
    "429_date": _rate_limit_fault(_as_date),
    "429_ms": _rate_limit_fault(_in_milliseconds),
    "429_bare": _rate_limit_fault(lambda _: (), asks=False),
    "quota": _quota,
    "500": lambda _: _server_error(),
    "502": lambda _: wire.html_page(502, "Bad Gateway"),
    "503": lambda _: error_answer(
        503, "The engine is currently overloaded, please try again later.", kind="server_error"
    ),
    "504": lambda _: wire.html_page(504, "Gateway Time-out"),
    "529": _overloaded_529,
    "408": lambda _: error_answer(408, "Request timed out.", kind="timeout"),
    "409": lambda _: error_answer(409, "The resource was locked by another request; try again.", code="conflict"),
    "400": _unsupported_parameter,
    "context_length": _too_long,
    "content_filter_400": _content_filter_400,
    "401": lambda context: wire.wrong_key(context.key),
    "402": lambda _: error_answer(402, "Insufficient Balance", kind="unknown_error"),
    "403": lambda _: error_answer(
        403,
        "Country, region, or territory not supported",
        kind="request_forbidden",
        code="unsupported_country_region_territory",
    ),
    "404": lambda context: wire.unknown_model(context.model),
    "413": lambda _: wire.html_page(413, "Request Entity Too Large"),
    "415": lambda _: error_answer(415, "Unsupported Content-Type; send application/json."),
    "422": _unprocessable,
}

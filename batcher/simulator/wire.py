"""OpenAI's wire format: requests read, completions and errors written.

Sources: the API reference of chat completions, the error guide, and the exact sentences that OpenAI,
Azure and the common proxies send, since clients match on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

JSON = "application/json"
HTML = "text/html"
FINGERPRINT = "fp_simulator"


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """One HTTP response; `retry_after_s` is what its headers ask for, for the witness."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    retry_after_s: float | None = None


class ChatRequest(msgspec.Struct):
    """What the simulator looks at in a request; everything else is taken and not looked at."""

    model: str
    messages: list[dict[str, Any]]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    response_format: dict[str, Any] | None = None
    stream: bool | None = None
    n: int | None = None

    @property
    def tokens_max(self) -> int | None:
        """The length the client asked for; the newer name wins."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The JSON schema of `response_format`; the empty object's for `json_object`; None for text."""
        form = self.response_format or {}
        if form.get("type") == "json_object":
            return {"type": "object", "properties": {"answer": {"type": "string"}}}
        if form.get("type") != "json_schema":
            return None
        wrapped = form.get("json_schema")
        schema = wrapped.get("schema") if isinstance(wrapped, Mapping) else None
        return schema if isinstance(schema, Mapping) else {"type": "object"}


class _PromptDetails(msgspec.Struct):
    cached_tokens: int
    audio_tokens: int = 0


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _PromptDetails
    completion_tokens_details: _CompletionDetails


class _Message(msgspec.Struct):
    role: str
    content: str | None
    refusal: str | None
    annotations: list[Any]


class _Choice(msgspec.Struct):
    index: int
    message: _Message
    logprobs: None
    finish_reason: str


class _Completion(msgspec.Struct):
    id: str
    object: str
    created: int
    model: str
    choices: list[_Choice] | msgspec.UnsetType
    usage: _Usage | msgspec.UnsetType
    service_tier: str
    system_fingerprint: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one call used: `cached` is part of `prompt`, `reasoning` part of `completion`."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0


NO_TOKENS = Tokens()


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer before it is JSON.

    `tokens` None leaves usage out. `choices` counts them: 0 is an empty list, None leaves the key out.
    """

    number: int
    created: int
    model: str
    content: str | None
    tokens: Tokens | None
    finish_reason: str = "stop"
    refusal: str | None = None
    choices: int | None = 1


def completion_body(completion: Completion) -> bytes:
    """The body of a `chat.completion` object."""
    choices: list[_Choice] | msgspec.UnsetType = msgspec.UNSET
    if completion.choices is not None:
        message = _Message("assistant", completion.content, completion.refusal, [])
        choices = [_Choice(index, message, None, completion.finish_reason) for index in range(completion.choices)]
    usage: _Usage | msgspec.UnsetType = msgspec.UNSET
    if completion.tokens is not None:
        used = completion.tokens
        usage = _Usage(
            used.prompt,
            used.completion,
            used.prompt + used.completion,
            _PromptDetails(used.cached),
            _CompletionDetails(used.reasoning),
        )
    return msgspec.json.encode(
        _Completion(
            f"chatcmpl-sim{completion.number:08d}",
            "chat.completion",
            completion.created,
            completion.model,
            choices,
            usage,
            "default",
            FINGERPRINT,
        )
    )


def models_body(models: tuple[str, ...], created: int) -> bytes:
    """The body of `GET /v1/models`; a simulator that takes any model lists itself."""
    listed = [
        {"id": model, "object": "model", "created": created, "owned_by": "simulator"}
        for model in models or ("simulator",)
    ]
    return msgspec.json.encode({"object": "list", "data": listed})


def error_answer(
    status: int,
    message: str,
    *,
    kind: str | None = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    retry_after_s: float | None = None,
) -> HttpAnswer:
    """An OpenAI error: `{"error": {message, type, param, code}}`."""
    body = msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})
    return HttpAnswer(status, body, headers=headers, retry_after_s=retry_after_s)


def key_tail(key: str) -> str:
    """The last characters of a key, enough to tell keys apart: 4, and of a short key no more than a half."""
    return key[-min(4, len(key) // 2) :] if len(key) > 1 else ""


def wrong_key(key: str) -> HttpAnswer:
    """401 for a key that is not taken."""
    return error_answer(
        401,
        f"Incorrect API key provided: ****{key_tail(key)}. You can find your API key at "
        "https://platform.openai.com/account/api-keys.",
        code="invalid_api_key",
    )


def missing_key() -> HttpAnswer:
    """401 for no key at all."""
    return error_answer(
        401,
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer YOUR_KEY). You can obtain an API key from "
        "https://platform.openai.com/account/api-keys.",
    )


def unknown_model(model: str) -> HttpAnswer:
    """404 for a model that is not there."""
    return error_answer(
        404, f"The model `{model}` does not exist or you do not have access to it.", code="model_not_found"
    )


def unknown_url(method: str, path: str) -> HttpAnswer:
    """404 for a route that is not there."""
    return error_answer(404, f"Invalid URL ({method} {path})")


def wrong_method(method: str, path: str) -> HttpAnswer:
    """405 for a route that is there, asked in another way."""
    return error_answer(405, f"Not allowed to {method} on {path}.", code="method_not_supported")


def not_json() -> HttpAnswer:
    """400 for a body that is no JSON."""
    return error_answer(
        400,
        "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
        "correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)",
    )


def too_long(context_tokens: int, prompt_tokens: int, tokens_max: int) -> HttpAnswer:
    """400 for a prompt that the context cannot hold."""
    asked = f" ({prompt_tokens} in the messages, {tokens_max} in the completion)" if tokens_max else ""
    return error_answer(
        400,
        f"This model's maximum context length is {context_tokens} tokens. However, you requested "
        f"{prompt_tokens + tokens_max} tokens{asked}. Please reduce the length of the messages or completion.",
        param="messages",
        code="context_length_exceeded",
    )


def body_too_large(bytes_max: int) -> HttpAnswer:
    """413 for a body past the server's own limit."""
    return error_answer(413, f"Request body is larger than {bytes_max} bytes.", code="request_too_large")


def html_page(status: int, title: str) -> HttpAnswer:
    """The page that nginx puts in place of an answer."""
    head = f"<html>\r\n<head><title>{status} {title}</title></head>\r\n<body>\r\n"
    page = f"{head}<center><h1>{status} {title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    return HttpAnswer(status, page.encode(), HTML)

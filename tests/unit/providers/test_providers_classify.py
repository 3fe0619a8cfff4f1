"""Every exception of both clients has a kind, and the provider's words are read with care."""

import inspect
import json

import httpx2
import openai
import pyreqwest.exceptions as fast
import pytest

from batcher.core.contracts import CallError
from batcher.providers.classify import WORDS_MAX, classify, clean_words

REQUEST = httpx2.Request("POST", "http://127.0.0.1/v1/chat/completions")


def subclasses(base: type) -> set[type]:
    return {base}.union(*(subclasses(one) for one in base.__subclasses__()))


def kind_of(error: Exception) -> CallError:
    return classify(error, now_s=0.0, mask=lambda text: text.replace("sk-secret", "***"))


def status(code: int, body: object = None, **headers: str) -> CallError:
    content = b"" if body is None else json.dumps(body).encode() if not isinstance(body, str) else body.encode()
    response = httpx2.Response(code, content=content, request=REQUEST, headers=headers)
    client = openai.OpenAI(api_key="x", base_url="http://127.0.0.1/v1")
    return kind_of(client._make_status_error_from_response(response))


def said(number: int, message: str, **fields: object) -> CallError:
    return status(number, {"error": {"message": message, **fields}})


FAST_KINDS = {
    fast.RequestTimeoutError: "timeout",
    fast.ConnectTimeoutError: "timeout",
    fast.PoolTimeoutError: "timeout",
    fast.ReadTimeoutError: "timeout",
    fast.WriteTimeoutError: "timeout",
    fast.ReadError: "bad_response",
    fast.DecodeError: "bad_response",
    fast.BodyDecodeError: "bad_response",
    fast.JSONDecodeError: "bad_response",
    fast.PyreqwestError: "connection",
    fast.DetailedPyreqwestError: "connection",
    fast.RequestError: "connection",
    fast.TransportError: "connection",
    fast.NetworkError: "connection",
    fast.ConnectError: "connection",
    fast.WriteError: "connection",
    fast.RedirectError: "connection",
    fast.StatusError: "connection",
    fast.BuilderError: "connection",
    fast.ClientClosedError: "connection",
    fast.RequestPanicError: "connection",
}


def test_every_exception_of_the_fast_client_is_in_the_table() -> None:
    """A new class of a new version has to be thought about."""
    public = {one for _, one in inspect.getmembers(fast, inspect.isclass) if issubclass(one, fast.PyreqwestError)}
    assert public | subclasses(fast.PyreqwestError) == set(FAST_KINDS)


@pytest.mark.parametrize("cause", FAST_KINDS, ids=lambda one: one.__name__)
def test_each_exception_of_the_fast_client_has_its_kind(cause: type[Exception]) -> None:
    if issubclass(cause, fast.JSONDecodeError):
        made = cause("x", {"causes": None, "doc": "", "pos": 0})
    elif issubclass(cause, fast.DetailedPyreqwestError):
        made = cause("x", {"causes": None})
    else:
        made = cause("x")
    error = openai.APIConnectionError(request=REQUEST)
    error.__cause__ = made

    found = kind_of(error)

    assert FAST_KINDS[cause] == found.kind
    assert 1 == found.spend.attempts


TRANSPORT_OF_OPENAI = {"APIConnectionError", "APITimeoutError", "APIError", "APIResponseValidationError"}


@pytest.mark.parametrize(
    "cls", sorted(subclasses(openai.APIError), key=lambda one: one.__name__), ids=lambda one: one.__name__
)
def test_every_api_error_of_openai_has_a_kind(cls: type[openai.APIError]) -> None:
    """Status errors by their status; others as transport. What is no APIError is never raised by a post."""
    response = httpx2.Response(418, request=REQUEST)
    if issubclass(cls, openai.APIStatusError):
        arguments = {"response": response, "body": None}
        made = cls(**arguments) if cls.__name__ == "OAuthError" else cls("x", **arguments)
        expected = "bad_request"
    else:
        assert cls.__name__ in TRANSPORT_OF_OPENAI, f"{cls.__name__} is new: decide what it means"
        made = {
            "APIConnectionError": lambda: openai.APIConnectionError(request=REQUEST),
            "APITimeoutError": lambda: openai.APITimeoutError(REQUEST),
            "APIError": lambda: openai.APIError("x", REQUEST, body=None),
            "APIResponseValidationError": lambda: openai.APIResponseValidationError(response, None),
        }[cls.__name__]()
        kinds = {"APITimeoutError": "timeout", "APIResponseValidationError": "bad_response"}
        expected = kinds.get(cls.__name__, "connection")

    assert expected == kind_of(made).kind


@pytest.mark.parametrize(
    "cls", sorted(subclasses(httpx2.HTTPError), key=lambda one: one.__name__), ids=lambda one: one.__name__
)
def test_every_transport_error_of_the_sdk_has_a_kind(cls: type[Exception]) -> None:
    if cls is httpx2.HTTPStatusError:
        made = cls("x", request=REQUEST, response=httpx2.Response(500))
    else:
        made = cls("x")
    found = kind_of(made)

    if issubclass(cls, httpx2.TimeoutException):
        assert "timeout" == found.kind
    elif issubclass(cls, httpx2.DecodingError):
        assert "bad_response" == found.kind
    else:
        assert "connection" == found.kind
    assert found.reached is not issubclass(cls, httpx2.ConnectError | httpx2.ConnectTimeout)


TPM = (
    "Rate limit reached for gpt-4o in organization org-x on requests per min (RPM): Limit 3, Used 3, Requested 1. "
    "Please try again in 20s. You can increase your rate limit by adding a payment method to your account at "
    "https://platform.openai.com/account/billing."
)
GOOGLE = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "head to: https://ai.google.dev/gemini-api/docs/rate-limits. * Quota exceeded for metric: "
    "generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 10, model: gemini "
    + "* Quota exceeded " * 10 + "Please retry in 28.07s."
)  # fmt: skip
NEVER = "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 50000. The input or output tokens must be reduced in order to run successfully."  # noqa: E501


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (said(429, TPM, code="rate_limit_exceeded", type="requests"), "rate_limited"),
        (said(429, TPM), "rate_limited"),
        (said(429, GOOGLE, code=429, status="RESOURCE_EXHAUSTED"), "rate_limited"),
        (said(429, "Too many tokens, please wait before trying again."), "rate_limited"),
        (status(429, "slow down"), "rate_limited"),
        (status(429), "rate_limited"),
        (said(429, NEVER, code="rate_limit_exceeded", type="tokens"), "too_long"),
        (said(429, "You exceeded your current quota, please check your plan and billing details.",
              code="insufficient_quota", type="insufficient_quota"), "quota"),
        (said(429, "Your account is not active, please check your billing details on our website.",
              code="billing_not_active"), "quota"),
        (said(429, "Insufficient balance"), "quota"),
        (said(429, "whatever", code="insufficient_quota", type="rate_limit_error"), "quota"),
        (said(400, "prompt is too long: 210000 tokens > 200000 maximum"), "too_long"),
        (said(400, "Please reduce the length of the messages"), "too_long"),
        (said(400, "x", code="context_length_exceeded"), "too_long"),
        (said(400, "max_tokens is too large: 100000"), "bad_request"),
        (said(400, "The response was filtered due to the prompt triggering content management policy"), "refused"),
        (status(400, ["a", "list"]), "bad_request"),
        (status(400, {"foo": "\ud83d", "n": 10**30}), "bad_request"),
        (status(503, "<html>" * 100_000), "server"),
        (status(599), "server"),
        (status(204), "bad_request"),
    ],
)  # fmt: skip
def test_words_of_real_providers_have_their_kind(found: CallError, kind: str) -> None:
    assert kind == found.kind
    assert len(found.message) < WORDS_MAX + 20


def test_retry_after_is_only_read_where_waiting_helps() -> None:
    assert 5.0 == status(503, None, **{"retry-after": "5"}).retry_after_s
    assert status(400, None, **{"retry-after": "5"}).retry_after_s is None


def test_words_are_one_line_without_secrets_or_control_characters() -> None:
    """A provider's words reach terminals: they must not clear them, nor repeat a key."""
    words = clean_words("a\x1b[2J\r\nb\u202e  sk-secret\x00c \ud83d", lambda text: text.replace("sk-secret", "***"))
    assert "a [2J b *** c" == words


@pytest.mark.parametrize("before", range(WORDS_MAX - 12, WORDS_MAX + 2))
def test_a_secret_at_the_cut_is_not_half_shown(before: int) -> None:
    words = clean_words("x" * before + "sk-secret" + "y" * 50, lambda text: text.replace("sk-secret", "***"))
    assert "sk-" not in words
    assert len(words) <= WORDS_MAX

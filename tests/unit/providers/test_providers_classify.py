"""Every exception of both clients has a kind, and the provider's words are read with care."""

import inspect
import json

import httpx2
import openai
import pyreqwest.exceptions as fast
import pytest

from batcher.core.contracts import CallError
from batcher.observe.text import Masker, without_controls
from batcher.providers.advice import Asked
from batcher.providers.classify import WORDS_MAX, classify, clean_words
from batcher.providers.failures import StatusFailed, TransportFailed
from batcher.providers.pyreqwest_exchange import transport_failed
from batcher.providers.sdk_exchange import exchange_failed

REQUEST = httpx2.Request("POST", "http://127.0.0.1/v1/chat/completions")


def subclasses(base: type) -> set[type]:
    return {base}.union(*(subclasses(one) for one in base.__subclasses__()))


ASKED = Asked(
    "gpt-9",
    ("temperature", "max_tokens", "max_completion_tokens", "top_p", "seed", "logprobs"),
    "base_url is http://127.0.0.1; most APIs want it to end in /v1",
)


def kind_of(error: StatusFailed | TransportFailed) -> CallError:
    return classify(error, now_s=0.0, mask=lambda text: text.replace("sk-secret", "***"), asked=ASKED)


def status(code: int, body: object = None, **headers: str) -> CallError:
    content = b"" if body is None else json.dumps(body).encode() if not isinstance(body, str) else body.encode()
    return kind_of(StatusFailed(code, headers, content))


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
    found = kind_of(transport_failed(made))

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

    assert expected == kind_of(exchange_failed(made)).kind


@pytest.mark.parametrize(
    "cls", sorted(subclasses(httpx2.HTTPError), key=lambda one: one.__name__), ids=lambda one: one.__name__
)
def test_every_transport_error_of_the_sdk_has_a_kind(cls: type[Exception]) -> None:
    if cls is httpx2.HTTPStatusError:
        made = cls("x", request=REQUEST, response=httpx2.Response(500))
    else:
        made = cls("x")
    found = kind_of(exchange_failed(made))

    if issubclass(cls, httpx2.TimeoutException):
        assert "timeout" == found.kind
    elif issubclass(cls, httpx2.DecodingError):
        assert "bad_response" == found.kind
    else:
        assert "connection" == found.kind
    # A ProxyError is a tunnel that was not opened: nothing was sent through it.
    assert found.reached is not issubclass(cls, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError)


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


@pytest.mark.parametrize("split", ["", "\x1b[0m", "\x00", "\u200b"])
def test_a_secret_that_is_split_by_escapes_is_no_less_a_secret(split: str) -> None:
    """As a JSON text may carry it: the escapes go before the mask looks, and after it once more."""
    key = 'wk"01/23456789+abcdef'
    masker = Masker([key])
    for form in (key, "wk%2201%2F23456789%2Babcdef", 'wk\\"01/23456789+abcdef', "d2siMDEvMjM0NTY3ODkrYWJjZGVm"):
        hidden = form[:9] + split + form[9:]
        words = clean_words(f"wrong key {hidden} 钥匙", lambda text: masker.mask(without_controls(text)))
        assert form[:9] not in words
        assert form[9:15] not in words


def test_a_secret_at_the_end_of_what_is_read_is_not_half_shown() -> None:
    """Long keys shrink to stars, so that the end of twenty thousand letters comes into sight."""
    key = "k" * 1990
    words = clean_words(f"{key} " * 11, lambda text: text.replace(key, "***"))
    assert "kk" not in words


QUOTA = [
    (402, "Insufficient Balance", {}),
    (402, "This request requires more credits, or fewer max_tokens. You requested up to 32000 tokens, "
          "but can only afford 0.", {}),
    (403, "Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys", {"code": 403}),
    (429, "Your account org-1 <ak-2> is suspended due to insufficient balance, please recharge your account or check "
          "your plan and billing details", {"type": "exceeded_current_quota_error"}),
    (429, "您的账户已欠费，请充值后重试。", {"code": "1113"}),
    (429, "余额不足或无可用资源包,请充值。", {"code": "1113"}),
    (400, "Access denied, please make sure your account is in good standing.", {"code": "Arrearage"}),
    (403, "The free tier of the model has been exhausted.", {"code": "AllocationQuota.FreeTierOnly"}),
    (429, "Free allocated quota exceeded.", {"code": "Throttling.AllocationQuota"}),
    (403, "Sorry, your account balance is insufficient", {"code": 30001}),
    (403, "The request failed because your account has an overdue balance.", {"code": "AccountOverdueError"}),
    (403, "user quota is not enough", {"code": "insufficient_user_quota"}),
    (400, "Billing hard limit has been reached", {"code": "billing_hard_limit_reached"}),
]  # fmt: skip


@pytest.mark.parametrize(("number", "words", "fields"), QUOTA)
def test_money_that_is_used_up_is_quota_in_every_providers_words(
    number: int, words: str, fields: dict[str, object]
) -> None:
    """Taken for a rate limit, it would be waited for all night."""
    found = said(number, words, **fields)
    assert "quota" == found.kind
    assert "add credit" in (found.hint or "")


@pytest.mark.parametrize(
    ("number", "words", "fields", "kind"),
    [
        (429, "You exceeded your current quota, please check your plan and billing details. For details, see: "
              "https://help.aliyun.com/zh/model-studio/error-code#token-limit", {"code": "insufficient_quota"},
         "rate_limited"),
        (429, "Allocated quota exceeded, please increase your quota limit.", {"code": "insufficient_quota"},
         "rate_limited"),
        (429, "您当前使用该API的并发数过高，请降低并发", {"code": "1302"}, "rate_limited"),
        (403, "Your input was flagged by the moderation model", {"code": 403}, "refused"),
        (403, "Project `p` does not have access to model `gpt-9`", {"code": "model_not_found"}, "auth"),
        (400, "Incorrect API key provided: sk-secret. You can obtain one at https://console.x.ai.", {}, "auth"),
        (400, "your prompt says: incorrect api key", {}, "bad_request"),
    ],
)  # fmt: skip
def test_words_that_sound_like_something_else_are_told_apart(
    number: int, words: str, fields: dict[str, object], kind: str
) -> None:
    """A minute's limit is no empty purse, and one flagged row is no wrong key."""
    assert kind == said(number, words, **fields).kind


def test_googles_list_of_one_error_is_read() -> None:
    body = [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.",
                       "details": [{"reason": "API_KEY_INVALID"}]}}]  # fmt: skip
    found = status(400, body)
    assert ("auth", "HTTP 400: API key not valid. Please pass a valid API key.") == (found.kind, found.message)


UNSUPPORTED = "Unsupported parameter: '{}' is not supported with this model."
LIMIT = "write params.max_completion_tokens instead of params.max_tokens"
OLD_LIMIT = "write params.max_tokens instead of params.max_completion_tokens"
FIXES = [
    (400, {"message": UNSUPPORTED.format("max_tokens") + " Use 'max_completion_tokens' instead.",
           "param": "max_tokens", "code": "unsupported_parameter"}, LIMIT),
    (400, {"message": UNSUPPORTED.format("max_tokens") + " Use 'max_completion_tokens' instead."}, LIMIT),
    (400, {"message": "Unrecognized request argument supplied: max_completion_tokens", "param": None}, OLD_LIMIT),
    (400, {"message": "[{'type': 'extra_forbidden', 'loc': ('body', 'max_completion_tokens'), "
                      "'msg': 'Extra inputs are not permitted', 'input': 8192}]"}, OLD_LIMIT),
    (400, {"message": "Unknown parameter: 'max_completion_tokens'.", "param": "max_completion_tokens"}, OLD_LIMIT),
    (400, {"message": "Unsupported value: 'temperature' does not support 0.1 with this model. Only the default (1) "
                      "value is supported.", "param": "temperature", "code": "unsupported_value"},
     "remove params.temperature or give the value it allows"),
    (400, {"message": "max_tokens is too large: 100000. This model supports at most 16384 completion tokens",
           "param": "max_tokens", "code": "invalid_value"}, "remove params.max_tokens or give the value it allows"),
    (400, {"message": "temperature must be in (0, 1), got 0.0"},
     "remove params.temperature or give the value it allows"),
    (400, {"message": UNSUPPORTED.format("top_p"), "param": "top_p", "code": "unsupported_parameter"},
     "remove params.top_p"),
    (400, {"message": "property 'seed' is unsupported"}, "remove params.seed"),
    (400, {"message": "This model does not support logprobs"}, "remove params.logprobs"),
    (404, {"message": "The model `gpt-9` does not exist or you do not have access to it.", "code": "model_not_found"},
     "check `model`: the provider has no model 'gpt-9'"),
    (404, {"message": "The model `gpt-9` does not exist.", "type": "NotFoundError", "code": 404},
     "check `model`: the provider has no model 'gpt-9'"),
    (404, {"message": 'model "gpt-9" not found, try pulling it first', "type": "api_error"},
     "check `model`: the provider has no model 'gpt-9', or pull it first"),
    (400, {"message": "Model Not Exist", "code": "invalid_request_error"},
     "check `model`: the provider has no model 'gpt-9'"),
    (400, {"message": "gpt-9 is not a valid model ID", "code": 400},
     "check `model`: the provider has no model 'gpt-9'"),
    (400, {"message": "模型不存在，请检查模型代码。", "code": "1211"},
     "check `model`: the provider has no model 'gpt-9'"),
    (404, {"message": "Not found the model gpt-9 or Permission denied", "type": "resource_not_found_error"},
     "check `model`: the provider has no model 'gpt-9'"),
    (404, {"message": "The API deployment for this resource does not exist.", "code": "DeploymentNotFound"},
     "check `model`: the provider has no model 'gpt-9'"),
    (404, {"message": "Invalid URL (POST /chat/completions)"}, ASKED.base_url_advice),
    (403, {"message": "Project `p` does not have access to model `gpt-9`", "code": "model_not_found"},
     "check `model`: this key may not use model 'gpt-9'"),
    (401, {"message": "Incorrect API key provided"}, "check the key in `api_key` and what it may use"),
    (400, {"message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens "
                      "(50 in the messages, 4950 in the completion).", "code": "context_length_exceeded"},
     "lower params.max_tokens or shorten these rows; input.chunk, which will split them, is not built yet"),
    (400, {"message": "something about nothing"}, None),
]  # fmt: skip


@pytest.mark.parametrize(("number", "error", "hint"), FIXES)
def test_a_refusal_comes_with_its_fix(number: int, error: dict[str, object], hint: str | None) -> None:
    """The provider's words say what is wrong; the hint says what to write."""
    assert hint == status(number, {"error": error}).hint


def test_fastapis_complaints_are_told_without_what_they_quote() -> None:
    """`input` may be a row's text."""
    detail = [{"type": "extra_forbidden", "loc": ["body", "max_completion_tokens"],
               "msg": "Extra inputs are not permitted", "input": "ข้อความ của tôi 私"}]  # fmt: skip
    for body in ({"detail": detail}, {"object": "error", "message": {"detail": detail}}):
        found = status(422, body)
        assert "HTTP 422: body.max_completion_tokens: Extra inputs are not permitted" == found.message
        assert OLD_LIMIT == found.hint


@pytest.mark.parametrize(("number", "text"), [(404, "404 page not found"), (404, '{"detail":"Not Found"}'), (405, "")])
def test_a_path_that_is_not_there_names_the_address(number: int, text: str) -> None:
    assert ASKED.base_url_advice == status(number, text).hint


def test_a_hint_names_no_parameter_that_the_job_does_not_have() -> None:
    error = status(400, {"error": {"message": "Unsupported parameter: 'top_k'", "param": "top_k"}})
    assert error.hint is None


@pytest.mark.parametrize(
    ("message", "headers", "wait_s"),
    [
        ("Rate limit reached (RPD): Limit 200, Used 200, Requested 1. Please try again in 7m12s.", {}, 432.0),
        ("Please try again in 7m12s.", {"retry-after": "5"}, 5.0),
        ("Please try again in 20s.", {"x-ratelimit-reset-requests": "8m0s", "x-ratelimit-remaining-requests": "0"},
         20.0),
        ("slow down", {"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0",
                       "x-ratelimit-reset-tokens": "9m0s", "x-ratelimit-remaining-tokens": "7"}, 360.0),
        ("请 20 秒后重试", {}, 20.0),
        ("slow down", {}, None),
    ],
)  # fmt: skip
def test_the_wait_is_read_from_header_then_words_then_limits(
    message: str, headers: dict[str, str], wait_s: float | None
) -> None:
    """OpenAI's reset is when the limit is full again; its words are when one more request fits."""
    assert wait_s == status(429, {"error": {"message": message}}, **headers).retry_after_s


def test_googles_retry_delay_is_read_from_the_details() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37s"}]
    body = [{"error": {"code": 429, "message": "Resource has been exhausted", "details": details}}]
    assert ("rate_limited", 37.0) == ((found := status(429, body)).kind, found.retry_after_s)

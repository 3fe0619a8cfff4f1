"""From an `openai` exception to a failure kind: decided here, once.

Both clients raise the `openai` package's exceptions, so there is one table. What a transport error
means is read from its cause (the SDK's aiohttp transport reports a refused connection as a timeout).

Whether a failure may have been billed is told here too: an error status and a connection that was never
made cost nothing; of a timeout, a reset and a cut answer nobody can know, unless its usage came.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping

import httpx2
import openai
import pyreqwest.exceptions as fast

from batcher.core.contracts import CallError
from batcher.core.records import Spend
from batcher.errors import FailureKind
from batcher.limits.pause import parse_limit_reset, parse_retry_after, parse_retry_words
from batcher.providers.advice import NOTHING_ASKED, PAGE_WORDS, Asked, advise
from batcher.providers.contact import is_page, without_query
from batcher.providers.exchange import BrokenBody
from batcher.providers.wire import error_text

WORDS_MAX = 300
"""What people are shown of a provider's words."""

_WORDS_READ = 20_000
# The end of what was read may be half a secret, which is no longer known as one.
_SECRET_LENGTH_MAX = 4096

SAID_MAX = 4000
"""What is read of them to tell the kind."""

_BROKEN_HEAD = re.compile(r"without sending complete|receive buffer too long", re.IGNORECASE)

# What people read first of a connection that failed. What the library says of it follows after a colon.
_CONNECTION_WORDS = (
    ("the host name cannot be resolved (DNS):", r"dns error|name or service|name resolution|nodename|getaddrinfo"),
    ("the TLS certificate is not accepted:", r"certificate"),
    ("there is no TLS:", r"corrupt message|wrong[_ ]version[_ ]number|record layer failure"),
    ("connection refused", r"connection refused|errno 111\b"),
    (
        "the connection was closed before an answer came",
        r"closed before|disconnected without|reset by peer|broken pipe",
    ),
)

FAILED_UNBILLED = Spend(attempts=1)

_RETRYABLE_STATUS = frozenset({408, 409, 500, 502, 503, 504, 529})
_TOO_LONG = re.compile(
    r"context.{0,24}(length|window|size)|maximum (context|prompt)|max_model_len|too many tokens"
    r"|(prompt|input|request|message)s?( is| are)? too (long|large)|exceeds? the (available context|model's max)"
    r"|reduce the length",
    re.IGNORECASE,
)
_FILTERED = re.compile(r"content[ _]?(policy|filter|management)|responsible ai|safety (system|policy)", re.IGNORECASE)
# OpenRouter says with a 403 that the text of one row was flagged: that is not the key's fault.
_FLAGGED = re.compile(r"flagged|requires? moderation|moderation (policy|failed)", re.IGNORECASE)
_NO_QUOTA = re.compile(
    r"insufficient[ _](quota|balance|credits?|funds)|exceeded your current quota|billing[ _](details|hard|not)"
    r"|credit balance|out of credits|not enough (credits?|balance|quota)|payment required"
    r"|exceeded_current_quota|requires? more credits|more credits are required|insufficient_user_quota"
    r"|quota is not enough|balance is (insufficient|not enough|too low)|freetieronly"
    r"|free tier of the model has been exhausted"
    r"|free allocated quota exceeded|arrearage|bill_?overdue|overdue_?(error|payment|balance)|accountoverdue"
    r"|key limit exceeded|spend(ing)? limit|余额不足|余额为零|欠费|资源包.{0,12}(不足|用完|耗尽|用尽)"
    r"|额度.{0,6}(不足|已用完|已用尽|用完|用尽|耗尽)|请.{0,4}充值",
    re.IGNORECASE,
)
# DashScope has the code of a used-up quota for its tokens per minute too; the words and the link tell.
_ALLOCATED = re.compile(r"(?<!free )allocated quota exceeded|error-code#token-limit", re.IGNORECASE)
# Google and xAI refuse a wrong key with 400.
_WRONG_KEY = re.compile(
    r"api_key_invalid|invalid_?api_?key|^\W{0,4}(incorrect|invalid|wrong|missing) api[ _-]?key"
    r"|^\W{0,4}api[ _-]?key not valid",
    re.IGNORECASE,
)
# Google sends the words of a used-up quota for its limits per minute too, and says when to come back.
_SOON = re.compile(r"rate_limit|(retry|try again) in \d", re.IGNORECASE)
# One request above the whole minute's tokens: OpenAI calls it a rate limit, but no waiting lets it through.
_NEVER_FITS = re.compile(r"request too large|tokens must be reduced", re.IGNORECASE)


def classify(error: Exception, *, now_s: float, mask: Callable[[str], str], asked: Asked = NOTHING_ASKED) -> CallError:
    """The failure that an exception of either client stands for.

    Args:
        error: An `openai.APIError`, or what escaped one (`httpx2.HTTPError`).
        now_s: Wall time, for a Retry-After that is a date.
        mask: Removes secrets from the provider's words.
        asked: What the job asks for, so that a hint can name it.
    """
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, now_s=now_s, mask=mask, asked=asked)
    if isinstance(error, openai.APIResponseValidationError):
        return CallError(
            clean_words(error.message, mask), kind="bad_response", spend=FAILED_UNBILLED, is_billing_unknown=True
        )
    return _of_transport(error, mask)


def _of_status(error: openai.APIStatusError, *, now_s: float, mask: Callable[[str], str], asked: Asked) -> CallError:
    status = error.status_code
    said = _provider_words(error)
    words = clean_words(said, mask)
    names = f"{error.code or ''} {error.type or ''}"
    kind = _kind_of_status(status, said[:SAID_MAX], names=names)
    param = error.param if isinstance(error.param, str) else ""
    hint = advise(kind, status, said[:SAID_MAX], names=names, param=param, asked=asked)
    return CallError(
        f"HTTP {status}: {words}" if words else f"HTTP {status}",
        kind=kind,
        status=status,
        retry_after_s=_retry_after_s(error.response, kind, said, now_s),
        spend=FAILED_UNBILLED,
        hint=None if hint is None else mask(hint),
    )


def _retry_after_s(response: httpx2.Response, kind: FailureKind, said: str, now_s: float) -> float | None:
    """When to come back: the header for it, else the words of the refusal, else when the limit is whole again."""
    if kind not in ("rate_limited", "server"):
        return None
    asked_s = parse_retry_after(response.headers, now_s)
    if asked_s is not None or kind == "server":
        return asked_s
    body = response.content[:_WORDS_READ].decode("utf-8", "replace")
    for words in (said, body):
        worded_s = parse_retry_words(words)
        if worded_s is not None:
            return worded_s
    return parse_limit_reset(response.headers, now_s)


def _kind_of_status(status: int, words: str, *, names: str) -> FailureKind:
    if status == 402 or (status in (400, 403, 429) and _has_no_quota(names, words)):
        return "quota"
    if status == 429 and not _NEVER_FITS.search(words):
        return "rate_limited"
    if status == 403 and _FLAGGED.search(words):
        return "refused"
    if status in (401, 403) or (status == 400 and (_WRONG_KEY.search(names) or _WRONG_KEY.search(words))):
        return "auth"
    if status in _RETRYABLE_STATUS or status >= 500:
        return "server"
    if status in (413, 429) or "context_length" in names or (status in (400, 422) and _TOO_LONG.search(words)):
        return "too_long"
    if status == 400 and (_FILTERED.search(names) or _FILTERED.search(words)):
        return "refused"
    return "bad_request"


def _has_no_quota(names: str, words: str) -> bool:
    if _ALLOCATED.search(words):
        return False
    if _NO_QUOTA.search(names):
        return True
    return _NO_QUOTA.search(words) is not None and not _SOON.search(f"{names} {words}")


def _of_transport(error: Exception, mask: Callable[[str], str]) -> CallError:
    """Kinds of failures without a status, told by the whole chain of causes."""
    causes = list(_causes(error))
    details = " ".join(f"{type(cause).__name__} {cause} {getattr(cause, 'details', '')}" for cause in causes)
    is_connecting = "client error (Connect)" in details or any(
        isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout) for cause in causes
    )
    kind: FailureKind = "connection"
    if _is_any(causes, fast.RequestTimeoutError, httpx2.TimeoutException, openai.APITimeoutError):
        is_refused = any("ConnectorError" in type(cause).__name__ for cause in causes)
        kind = "connection" if is_refused else "timeout"
        is_connecting = is_connecting or is_refused
    elif (
        _is_any(causes, BrokenBody, fast.ReadError, fast.DecodeError, httpx2.DecodingError)
        or _BROKEN_HEAD.search(details) is not None
    ):
        # The response had begun: the answer was cut, not refused.
        kind = "bad_response"
    return CallError(
        clean_words(_transport_words(causes, kind), mask),
        kind=kind,
        status=200 if _is_any(causes, BrokenBody) else None,
        reached=not is_connecting,
        spend=FAILED_UNBILLED,
        is_billing_unknown=not is_connecting,
    )


def _transport_words(causes: list[BaseException], kind: FailureKind) -> str:
    if kind == "timeout":
        return "no answer within the timeout"
    said = _library_words(causes)
    if kind != "connection":
        return "; ".join(said)
    for plain, pattern in _CONNECTION_WORDS:
        if re.search(pattern, " ".join(said), re.IGNORECASE):
            return f"{plain} {said[-1]}" if plain.endswith(":") else plain
    return "; ".join(said)


def _library_words(causes: list[BaseException]) -> list[str]:
    """From the outermost cause to the innermost; at least one."""
    last = causes[-1]
    details = getattr(last, "details", None)
    if isinstance(details, Mapping) and details.get("causes"):
        words = [cause["message"] for cause in details["causes"] if "for url" not in cause["message"]]
        if words:
            return words
    return [str(last) or type(last).__name__]


def _provider_words(error: openai.APIStatusError) -> str:
    target = error.response.headers.get("location")
    if target is not None and error.response.is_redirect:
        return f"moved to {without_query(target)}"
    body = error.body
    if isinstance(body, list) and body and isinstance(body[0], Mapping):
        # Google's errors come in a list of one.
        body = body[0].get("error", body[0])
    if isinstance(body, Mapping | str) and body:
        if isinstance(body, str) and is_page(error.response.content):
            return PAGE_WORDS
        return error_text(body)
    return error.response.reason_phrase if body is None else str(body)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _is_any(causes: list[BaseException], *types: type[BaseException]) -> bool:
    return any(isinstance(cause, types) for cause in causes)


def clean_words(text: str, mask: Callable[[str], str]) -> str:
    """A provider's words for people: one line, no secret, no control character, at most `WORDS_MAX` characters."""
    # Masked before it is cut, or half a key at the cut would be no key any more; and both before and after
    # control characters go, since they may stand inside a key.
    read = mask(text[:_WORDS_READ])
    masked = mask(" ".join("".join(map(_shown, read)).split()))
    if len(text) > _WORDS_READ:
        masked = masked[:-_SECRET_LENGTH_MAX]
    return masked if len(masked) <= WORDS_MAX else masked[: WORDS_MAX - 1] + "…"


def _shown(char: str) -> str:
    if char.isprintable():
        return char
    # A mark that takes no room may have been put inside a word; what breaks a line ends one.
    return "" if unicodedata.category(char) == "Cf" else " "

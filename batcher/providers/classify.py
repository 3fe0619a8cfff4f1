"""From an `openai` exception to a failure kind: decided here, once.

Both clients raise the `openai` package's exceptions, so there is one table. What a transport error
means is read from its cause (the SDK's aiohttp transport reports a refused connection as a timeout).
"""

import re
from collections.abc import Callable, Iterator, Mapping

import httpx2
import openai
import pyreqwest.exceptions as fast

from batcher.core.contracts import CallError
from batcher.core.records import Spend
from batcher.errors import FailureKind
from batcher.limits.pause import parse_retry_after
from batcher.providers.wire import error_text

WORDS_MAX = 300
_WORDS_READ = 20_000
"""What people are shown of a provider's words."""

SAID_MAX = 4000
"""What is read of them to tell the kind."""

FAILED_UNBILLED = Spend(attempts=1)

_RETRYABLE_STATUS = frozenset({408, 409, 500, 502, 503, 504, 529})
_TOO_LONG = re.compile(
    r"context.{0,24}(length|window|size)|maximum (context|prompt)|max_model_len|too many tokens"
    r"|(prompt|input|request|message)s?( is| are)? too (long|large)|exceeds? the (available context|model's max)"
    r"|reduce the length",
    re.IGNORECASE,
)
_FILTERED = re.compile(r"content[ _]?(policy|filter|management)|responsible ai|safety (system|policy)", re.IGNORECASE)
_NO_QUOTA = re.compile(
    r"insufficient[ _](quota|balance|credits?|funds)|exceeded your current quota|billing[ _](details|hard|not)"
    r"|credit balance|out of credits|not enough (credits?|balance|quota)|payment required",
    re.IGNORECASE,
)
# Google sends the words of a used-up quota for its limits per minute too, and says when to come back.
_SOON = re.compile(r"rate_limit|(retry|try again) in \d", re.IGNORECASE)
# One request above the whole minute's tokens: OpenAI calls it a rate limit, but no waiting lets it through.
_NEVER_FITS = re.compile(r"request too large|tokens must be reduced", re.IGNORECASE)


def classify(error: Exception, *, now_s: float, mask: Callable[[str], str]) -> CallError:
    """The failure that an exception of either client stands for.

    Args:
        error: An `openai.APIError`, or what escaped one (`httpx2.HTTPError`).
        now_s: Wall time, for a Retry-After that is a date.
        mask: Removes secrets from the provider's words.
    """
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, now_s=now_s, mask=mask)
    if isinstance(error, openai.APIResponseValidationError):
        return CallError(clean_words(error.message, mask), kind="bad_response", spend=FAILED_UNBILLED)
    return _of_transport(error, mask)


def _of_status(error: openai.APIStatusError, *, now_s: float, mask: Callable[[str], str]) -> CallError:
    status = error.status_code
    said = _provider_words(error)
    words = clean_words(said, mask)
    kind, hint = _kind_of_status(status, said[:SAID_MAX], code=error.code or "", type_=error.type or "")
    headers: Mapping[str, str] = error.response.headers
    return CallError(
        f"HTTP {status}: {words}" if words else f"HTTP {status}",
        kind=kind,
        status=status,
        retry_after_s=parse_retry_after(headers, now_s) if kind in ("rate_limited", "server") else None,
        spend=FAILED_UNBILLED,
        hint=hint,
    )


def _kind_of_status(status: int, words: str, *, code: str, type_: str) -> tuple[FailureKind, str | None]:
    names = f"{code} {type_}"
    if status == 402 or (status == 429 and _has_no_quota(names, words)):
        return "quota", "add credit or quota at the provider, then `batcher resume` goes on"
    if status == 429 and not _NEVER_FITS.search(words):
        return "rate_limited", None
    if status in (401, 403):
        return "auth", "check the key in `api_key` and what it may use"
    if status in _RETRYABLE_STATUS or status >= 500:
        return "server", None
    if status in (413, 429) or "context_length" in names or (status in (400, 422) and _TOO_LONG.search(words)):
        return "too_long", "shorten these rows; input.chunk, which will split them, is not built yet"
    if status == 400 and (_FILTERED.search(names) or _FILTERED.search(words)):
        return "refused", None
    if 300 <= status < 400:
        return "bad_request", "the address redirects; write the final address in base_url (the key is not sent along)"
    if status == 404:
        return "bad_request", "check `model`, and that base_url is the API's address, ending in /v1"
    return "bad_request", None


def _has_no_quota(names: str, words: str) -> bool:
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
        _is_any(causes, fast.ReadError, fast.DecodeError, httpx2.DecodingError) or "without sending complete" in details
    ):
        # The head of the response had come: the answer was cut, not refused.
        kind = "bad_response"
    return CallError(
        clean_words(_transport_words(causes, kind), mask),
        kind=kind,
        reached=not is_connecting,
        spend=FAILED_UNBILLED,
    )


def _transport_words(causes: list[BaseException], kind: FailureKind) -> str:
    if kind == "timeout":
        return "no answer within the timeout"
    last = causes[-1]
    details = getattr(last, "details", None)
    if isinstance(details, Mapping) and details.get("causes"):
        words = [cause["message"] for cause in details["causes"]]
        return "; ".join(word for word in words if "for url" not in word)
    return str(last) or type(last).__name__


def _provider_words(error: openai.APIStatusError) -> str:
    if isinstance(error.body, Mapping | str) and error.body:
        body = error.body
        if isinstance(body, str) and body.lstrip()[:9].lower().startswith(("<!doctype", "<html")):
            return "an HTML page instead of JSON"
        return error_text(body)
    return error.response.reason_phrase if error.body is None else str(error.body)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _is_any(causes: list[BaseException], *types: type[BaseException]) -> bool:
    return any(isinstance(cause, types) for cause in causes)


def clean_words(text: str, mask: Callable[[str], str]) -> str:
    """A provider's words for people: one line, no secret, no control character, at most `WORDS_MAX` characters."""
    # Masked before it is cut, or half a key at the cut would be no key any more.
    flat = " ".join("".join(char if char.isprintable() else " " for char in text[:_WORDS_READ]).split())
    masked = mask(flat)
    return masked if len(masked) <= WORDS_MAX else masked[: WORDS_MAX - 1] + "…"

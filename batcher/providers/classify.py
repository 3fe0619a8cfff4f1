"""From what an exchange raised to a failure kind: decided here, once, for all clients.

Whether a failure may have been billed is told here too: an error status and a connection that was never
made cost nothing; of a timeout, a reset and a cut answer nobody can know, unless its usage came.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import assert_never

from batcher.core.contracts import CallError
from batcher.core.records import Spend
from batcher.errors import FailureKind
from batcher.limits.pause import parse_limit_reset, parse_retry_after, parse_retry_words
from batcher.providers.advice import NOTHING_ASKED, PAGE_WORDS, Asked, advise
from batcher.providers.contact import is_page, without_query
from batcher.providers.error_body import ErrorBody, read_error_body
from batcher.providers.failures import BrokenBody, StatusFailed, TransportFailed, causes_of
from batcher.providers.network_faults import is_out_of_files, way_fault
from batcher.providers.wire import error_text

WORDS_MAX = 300
"""What people are shown of a provider's words."""

_WORDS_READ = 20_000
# The end of what was read may be half a secret, which is no longer known as one.
_SECRET_LENGTH_MAX = 4096

SAID_MAX = 4000
"""What is read of them to tell the kind."""

# What people read first of a connection that failed. What the library says of it follows after a colon.
_CONNECTION_WORDS = (
    ("the host name cannot be resolved (DNS):", r"dns error|name or service|name resolution|nodename|getaddrinfo"),
    ("the TLS certificate is not accepted:", r"certificate"),
    ("there is no TLS:", r"corrupt message|wrong[_ ]version[_ ]number|record layer failure"),
    ("connection refused", r"connection refused|errno 111\b"),
    (
        "the connection was closed before an answer came",
        r"closed before|unexpected-eof|disconnected without|reset by peer|broken pipe",
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


def classify(
    error: StatusFailed | TransportFailed,
    *,
    now_s: float,
    mask: Callable[[str], str],
    asked: Asked = NOTHING_ASKED,
) -> CallError:
    """The failure that an exception of an exchange stands for.

    Args:
        error: As the exchange raised it.
        now_s: Wall time, for a Retry-After that is a date.
        mask: Removes secrets from the provider's words.
        asked: What the job asks for, so that a hint can name it.
    """
    match error:
        case StatusFailed():
            return _of_status(error, now_s=now_s, mask=mask, asked=asked)
        case TransportFailed():
            return _of_transport(error, mask)
        case _:
            assert_never(error)


def _of_status(error: StatusFailed, *, now_s: float, mask: Callable[[str], str], asked: Asked) -> CallError:
    status = error.status
    read = read_error_body(error)
    said = _provider_words(error, read)
    words = clean_words(said, mask)
    names = f"{read.code} {read.type}"
    kind = _kind_of_status(status, said[:SAID_MAX], names=names)
    hint = advise(kind, status, said[:SAID_MAX], names=names, param=read.param, asked=asked)
    return CallError(
        f"HTTP {status}: {words}" if words else f"HTTP {status}",
        kind=kind,
        status=status,
        retry_after_s=_retry_after_s(error, kind, said, now_s),
        spend=FAILED_UNBILLED,
        hint=None if hint is None else mask(hint),
    )


def _retry_after_s(error: StatusFailed, kind: FailureKind, said: str, now_s: float) -> float | None:
    """When to come back: the header for it, else the words of the refusal, else when the limit is whole again."""
    if kind not in ("rate_limited", "server"):
        return None
    asked_s = parse_retry_after(error.headers, now_s)
    if asked_s is not None or kind == "server":
        return asked_s
    body = error.body[:_WORDS_READ].decode("utf-8", "replace")
    for words in (said, body):
        worded_s = parse_retry_words(words)
        if worded_s is not None:
            return worded_s
    return parse_limit_reset(error.headers, now_s)


def _kind_of_status(status: int, words: str, *, names: str) -> FailureKind:
    if status == 402 or (status in (400, 403, 429) and _has_no_quota(names, words)):
        return "quota"
    if status == 429 and not _NEVER_FITS.search(words):
        return "rate_limited"
    if status == 403 and _FLAGGED.search(words):
        return "refused"
    if status in (401, 403, 407) or (status == 400 and (_WRONG_KEY.search(names) or _WRONG_KEY.search(words))):
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


def _of_transport(error: TransportFailed, mask: Callable[[str], str]) -> CallError:
    """Kinds of failures without a status."""
    fault = way_fault(_details(error))
    if fault is not None:
        said = "" if fault.status is not None else f" ({error.words[-1]})"
        return CallError(
            clean_words(fault.words + said, mask),
            kind=fault.kind,
            status=fault.status,
            reached=False,
            spend=FAILED_UNBILLED,
            hint=fault.hint,
        )
    kind: FailureKind = "connection"
    if error.is_timeout:
        kind = "timeout"
    elif error.has_begun:
        # The answer was cut, not refused.
        kind = "bad_response"
    return CallError(
        clean_words(_transport_words(error, kind), mask),
        kind=kind,
        status=200 if isinstance(error, BrokenBody) else None,
        reached=not error.is_connecting,
        spend=FAILED_UNBILLED,
        is_billing_unknown=not error.is_connecting,
    )


def _transport_words(error: TransportFailed, kind: FailureKind) -> str:
    if kind == "timeout":
        return "no answer within the timeout"
    if kind == "connection":
        for plain, pattern in _CONNECTION_WORDS:
            if re.search(pattern, " ".join(error.words), re.IGNORECASE):
                return f"{plain} {error.words[-1]}" if plain.endswith(":") else plain
    return "; ".join(error.words)


def _provider_words(error: StatusFailed, read: ErrorBody) -> str:
    target = error.headers.get("location")
    if target is not None and error.status in range(300, 400):
        return f"moved to {without_query(target)}"
    said = read.said
    if isinstance(said, list) and said and isinstance(said[0], Mapping):
        # Google's errors come in a list of one.
        said = said[0].get("error", said[0])
    if isinstance(said, Mapping | str) and said:
        if isinstance(said, str) and is_page(error.body):
            return PAGE_WORDS
        return error_text(said)
    return _phrase(error.status) if said is None else str(said)


def is_ours(error: StatusFailed | TransportFailed) -> bool:
    """Whether this process ran out of files: that says nothing of the provider."""
    return isinstance(error, TransportFailed) and is_out_of_files(_details(error))


def _details(error: TransportFailed) -> str:
    return " ".join(f"{type(cause).__name__} {cause} {getattr(cause, 'details', '')}" for cause in causes_of(error))


def _phrase(status: int) -> str:
    """The usual words for a status; empty for one that has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


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

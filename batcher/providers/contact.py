"""Whether what answers at the provider's address is an API at all.

A `base_url` that lacks its `/v1`, or a network that asks to log in first, answers with web pages. Behind the
breaker such pages would be taken for an outage and waited out. So while nothing at the address has
answered like an API in this run, `PAGES_MAX` pages in a row refuse the job; after one answer they are an
outage like any other. Pure state; one per provider, shared by its keys.
"""

import html
import re
from urllib.parse import urlsplit

from batcher.errors import RefusedError

PAGES_MAX = 3
"""One page may be a proxy's mishap, and so may two."""

# Pages with these are a gateway's word about a server behind it (5xx) or about a key; they have kinds of their own.
_PAGE_STATUS = frozenset({200, 404, 405})
_PAGE_STARTS = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<!--")
_HEAD_READ = 4096
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{1,200})", re.IGNORECASE)
_VERSION = re.compile(r"/(v[0-9][a-z0-9.]{0,12}|openai)(/|$)", re.IGNORECASE)
_ENDPOINT = re.compile(r"/(chat/)?completions/?$", re.IGNORECASE)


class Contact:
    """What is known of the address.

    Args:
        base_url: As the job has it.
        is_first: Whether no row of the run was answered before: a run that was served has had the right address.
    """

    def __init__(self, base_url: str, *, is_first: bool) -> None:
        self._base_url = base_url
        self._is_unknown = is_first
        self._pages = 0

    @property
    def advice(self) -> str:
        """What to look at in `base_url`."""
        return base_url_advice(self._base_url)

    def answered(self) -> None:
        """Something answered like an API: with a completion, or with an error that is JSON."""
        self._is_unknown = False

    def failed(self, status: int, body: bytes) -> RefusedError | None:
        """A call got this in place of a completion; the error to raise where it shows that no API is there."""
        if not self._is_unknown:
            return None
        if status not in _PAGE_STATUS or not is_page(body):
            # What is not there (404) may be said in JSON by a server of any kind; all else in JSON is an API's.
            if status != 404 and body.lstrip()[:1] in (b"{", b"["):
                self._is_unknown = False
            self._pages = 0
            return None
        self._pages += 1
        if self._pages < PAGES_MAX:
            return None
        return RefusedError(
            f"what answers is a web page, not an API: {self._pages} calls in a row got one "
            f"(HTTP {status}{_titled(body)})",
            hint=self.advice,
        )


def is_page(body: bytes) -> bool:
    """Whether a body looks like HTML."""
    return body[:_HEAD_READ].lstrip(b"\xef\xbb\xbf \t\r\n")[:16].lower().startswith(_PAGE_STARTS)


def base_url_advice(base_url: str) -> str:
    """The likeliest mistake in an address where no API answers; a user name and a password are left out."""
    try:
        parts = urlsplit(base_url)
    except ValueError:
        return "check base_url: it cannot be read"
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if _ENDPOINT.search(parts.path):
        return f"base_url is {address}; it must end before /chat/completions"
    if not _VERSION.search(parts.path):
        return f"base_url is {address}; most APIs want it to end in /v1"
    return (
        f"base_url is {address}; nothing there takes /chat/completions: check the address, and any proxy or login page"
    )


def without_query(url: str) -> str:
    """Scheme, host and path: what stands behind them may be anybody's token."""
    try:
        parts = urlsplit(url)
        if not parts.hostname:
            return parts.path
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
    except ValueError:
        return "an address that is none"


def _titled(body: bytes) -> str:
    title = _TITLE.search(body[:_HEAD_READ].decode("utf-8", "replace"))
    words = (
        ""
        if title is None
        else " ".join("".join(char if char.isprintable() else " " for char in html.unescape(title[1])).split())
    )
    return f', "{words[:80]}"' if words else ""

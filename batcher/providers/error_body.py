"""The body of an error status, read as the `openai` package reads it for its exceptions.

The same body, code, type and param as `openai.APIStatusError` has (a test holds them against each other), without the
half second that loading the package takes: meanwhile a Retry-After would not have paused its key.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batcher.providers.failures import StatusFailed

# Those that people write in: Python knows others (`punycode`) that take minutes for a text of this size.
_CHARSET = re.compile(
    r"charset\s*=\s*[\"']?((?:utf|gb|big5|hz|iso-|latin|windows-|cp|shift|sjis|euc|koi8|tis|ascii)[\w-]{0,30})",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What an error says of itself.

    `said` is the value of `error` in a JSON object that has one, else the whole JSON value, else the text as it came.
    `code`, `type` and `param` are names that programs read; each is empty where it is not there.
    """

    said: Any
    code: str
    type: str
    param: str


def read_error_body(failed: StatusFailed) -> ErrorBody:
    """The body of that response; whatever it holds, nothing is raised."""
    said: Any = _text(failed).strip()
    try:
        # Not msgspec: half of an emoji, NaN and numbers of any length are taken here, as the SDK takes them.
        said = json.loads(said)
    except (ValueError, RecursionError):
        return ErrorBody(said, "", "", "")
    if not isinstance(said, Mapping):
        return ErrorBody(said, "", "", "")
    said = said.get("error", said)
    if not isinstance(said, Mapping):
        return ErrorBody(said, "", "", "")
    param = said.get("param")
    return ErrorBody(
        said,
        code=_name(said.get("code")),
        type=_name(said.get("type") or None),
        param=param if isinstance(param, str) else "",
    )


def _name(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else ""


def _text(failed: StatusFailed) -> str:
    """In the charset that the response names, where there is one of that name; else UTF-8."""
    charset = _CHARSET.search(failed.headers.get("content-type") or "")
    if charset is not None:
        try:
            return failed.body.decode(charset[1], "replace")
        except LookupError:
            pass
    return failed.body.decode("utf-8", "replace")

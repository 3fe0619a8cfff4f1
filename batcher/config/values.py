"""The kinds of value a job file holds, each with its check, its sentence and its JSON Schema.

`Seconds`, `Share`, `Count` and the others are what the models in `model.py` are written in. A check
either gives the value as the program uses it (`60s` is 60.0) or raises a `fault`: what was found, what
to write. Nothing that looks like a key is quoted in one.
"""

import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import BeforeValidator, PlainValidator, SecretStr, WithJsonSchema
from pydantic_core import PydanticCustomError

from batcher.config.tree import shorten

# `PlainValidator` serializes `Decimal` and `SecretStr` a second time and fails; those two take `BeforeValidator`.
FAULT = "batcher"
"""The pydantic error type of `fault`; its message is already the sentence."""


@dataclass(frozen=True, slots=True)
class Words:
    """How the reference page names a kind of value."""

    words: str


def fault(sentence: str) -> PydanticCustomError:
    """An error whose message is `sentence`, to follow the field's path."""
    return PydanticCustomError(FAULT, "{sentence}", {"sentence": sentence})


def found(value: Any) -> str:
    """What stands there, for a message: `is 0`, `is the text "abc"`, `is a list`."""
    match value:
        case None:
            return "has no value"
        case bool():
            return f"is {str(value).lower()}"
        case int() | float():
            return f"is {value}"
        case str() if not value.strip():
            return "is empty"
        case str():
            return f'is the text "{shorten(value)}"'
        case list():
            return "is a list"
        case _:
            return "is a mapping"


def is_one_line(text: str) -> bool:
    """Whether no character of `text` ends a line or controls a terminal."""
    return not any(unicodedata.category(c) in {"Cc", "Zl", "Zp", "Cs"} for c in text)


# --- numbers -------------------------------------------------------------------------------------

_PER_DURATION = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(ms|s|m|h|d)")
_DURATION_MAX_S = 365 * 86400.0
_SHARE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?%")


def parse_duration(value: Any) -> float:
    """Seconds, from `60s`, `50ms`, `30m`, `2h`, `1d`; above 0 and at most a year."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        unit = f"write {value:g}s" if value > 0 else "write one above 0 with its unit, like 60s"
        raise fault(f"{found(value)}, without a unit; {unit}")
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise fault(f"{found(value)}; write a duration like 50ms, 60s, 30m, 2h or 1d")
    seconds = float(match[1]) * _PER_DURATION[match[2]]
    if not 0 < seconds <= _DURATION_MAX_S:
        raise fault(f"{found(value)}; write a duration above 0 and up to 365d")
    return seconds


def parse_share(value: Any) -> Decimal:
    """A share from 0 to 1, from `5%` or `0.05`; exact, so that 1 row of 20 is 5%."""
    match = _SHARE.fullmatch(value) if isinstance(value, str) else None
    if match is not None:
        share = Decimal(match[1]) / 100
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        share = Decimal(repr(value))
    else:
        raise fault(f"{found(value)}; write a share like 5% or 0.05")
    if not 0 <= share <= 1:
        percent = f", like {value:g}%" if isinstance(value, int | float) and 1 < value <= 100 else ""
        raise fault(f"{found(value)}; write a share from 0% to 100%{percent}")
    return share


def _count(least: int, most: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"[0-9_]+", value):
            raise fault(f'is the text "{shorten(value)}"; write the number without quotes')
        if not isinstance(value, int) or isinstance(value, bool):
            raise fault(f"{found(value)}; write a whole number of at least {least}")
        if value < least:
            raise fault(f"is {value}; write a whole number of at least {least}{', or remove the line' * (least > 0)}")
        if value > most:
            raise fault(f"is {value}; write at most {most}")
        return value

    return check


def _concurrency(value: Any) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if not isinstance(value, int) or isinstance(value, bool):
        raise fault(f"{found(value)}; write a whole number of at least 1, or auto")
    return _count(1, CONCURRENCY_MAX)(value)


def _positive(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
        raise fault(f"{found(value)}; write a number above 0")
    return float(value)


def _dollars(value: Any) -> Decimal:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise fault(f"{found(value)}; write US dollars per million tokens, like 0.40")
    if value < 0:
        raise fault(f"is {value}; write US dollars per million tokens, 0 or more")
    # repr gives the shortest decimal that names this float: what the file says, not its binary neighbour.
    return Decimal(repr(value))


def _cap(value: Any) -> Decimal:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= _CAP_USD_MAX:
        raise fault(f"{found(value)}; write US dollars above 0, at most {_CAP_USD_MAX}, like 10 or 0.50")
    return Decimal(repr(value))


# --- text ----------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int | float):
        raise fault(f'{found(value)}; write text in quotes: "{str(value).lower()}"')
    raise fault(f"{found(value)}; write some text")


def _line(value: Any) -> str:
    text = _text(value)
    if not is_one_line(text):
        raise fault("holds a line break or control character; write it on one line")
    return text


def _trimmed_line(value: Any) -> str:
    text = _line(value)
    if text != text.strip():
        raise fault("begins or ends with a space; remove it")
    return text


def _opening_tag(value: Any) -> str:
    tag = _trimmed_line(value)
    if len(tag) < 3 or tag[1] == "/":
        raise fault(f"{found(tag)}; write the opening tag, like <think>")
    return tag


NAME_BYTES_MAX = 100


def _name(value: Any) -> str:
    name = _trimmed_line(value)
    if "/" in name or "\\" in name:
        raise fault(f"{found(name)}; it names a directory, so write it without slashes")
    if not name.isprintable():
        raise fault("holds a character that cannot be seen or turns the text; it names a directory, so remove it")
    if name[0] in ".-":
        raise fault(f"{found(name)}; it names a directory, so begin it with a letter or digit")
    if len(name.encode()) > NAME_BYTES_MAX:
        raise fault(f"is {len(name.encode())} bytes long; it names a directory, so keep it to {NAME_BYTES_MAX}")
    return name


_REMOTE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


def _file(value: Any) -> str:
    path = _line(value)
    if scheme := _REMOTE.match(path):
        raise fault(f"begins with {scheme[0]}; remote files are not built yet in this version, so name a local one")
    return path


def _key(value: Any) -> SecretStr:
    """An API key. Its messages never show it, nor anything of it."""
    if not isinstance(value, str):
        raise fault(f"{'has no value' if value is None else 'is not text'}; write it as ${{NAME}}, in quotes")
    if not value.strip():
        raise fault("is empty; give a key, or remove the line where the server wants none")
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise fault("holds a space, a line break or a character that no HTTP header takes; copy the key again")
    return SecretStr(value)


def _url(value: Any) -> str:
    """A base URL without its last slash. Messages never quote it: people put keys into URLs."""
    url = _trimmed_line(value)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise fault("is not a URL; write one like https://api.example.com/v1") from None
    _refuse_url_parts(parts)
    path = parts.path.rstrip("/")
    for suffix in ("/chat/completions", "/completions", "/embeddings", "/models"):
        if path.endswith(suffix):
            raise fault(f"ends in {suffix}; remove that, as batcher adds the route itself")
    return url.rstrip("/")


def _refuse_url_parts(parts: SplitResult) -> None:
    if parts.scheme not in ("http", "https"):
        raise fault("does not begin with http:// or https://; write it like https://api.example.com/v1")
    if parts.username is not None or parts.password is not None:
        raise fault("holds a user name or password; remove it and use api_key")
    if not parts.hostname or re.search(r"\s", parts.netloc + parts.path):
        raise fault("names no host, or holds a space; write it like https://api.example.com/v1")
    if parts.query or parts.fragment:
        raise fault("holds a ? or # part; remove it, as batcher adds the route behind the URL")


def _list(value: Any) -> tuple[Any, ...]:
    if isinstance(value, list | tuple):
        return tuple(value)
    raise fault(f"{found(value)}; write a list, like [a, b]")


def _one_or_list(value: Any) -> tuple[Any, ...]:
    if isinstance(value, list | tuple):
        return tuple(value)
    if isinstance(value, str):
        return (value,)
    raise fault(f"{found(value)}; write a text, or a list of texts")


# Variables may stand in for any text, so an editor must let `${NAME}` through.
_OR_VARIABLE = r"|.*\$\{.*"
DURATION_PATTERN = rf"^([0-9]+(\.[0-9]+)? ?(ms|s|m|h|d){_OR_VARIABLE})$"
SHARE_PATTERN = rf"^([0-9]+(\.[0-9]+)? ?%{_OR_VARIABLE})$"
URL_PATTERN = rf"^(https?://.+{_OR_VARIABLE})$"
CONCURRENCY_MAX = 100_000
_CAP_USD_MAX = 10**9
_COUNT_MAX = 10**15


def _number(kind: str, least: int = 1, most: int = _COUNT_MAX) -> tuple[PlainValidator, WithJsonSchema, Words]:
    schema = {"type": "integer", "minimum": least, "maximum": most}
    return PlainValidator(_count(least, most)), WithJsonSchema(schema), Words(kind)


_count_check, _count_schema, _count_words = _number("whole number")
_tries_check, _tries_schema, _tries_words = _number("whole number, up to 100", most=100)
_again_check, _again_schema, _again_words = _number("whole number, 0 to 20", least=0, most=20)
_TEXT_SCHEMA = {"type": "string", "minLength": 1}

Count = Annotated[int, _count_check, _count_schema, _count_words]
Tries = Annotated[int, _tries_check, _tries_schema, _tries_words]
TimesAgain = Annotated[int, _again_check, _again_schema, _again_words]
Concurrency = Annotated[
    int | Literal["auto"],
    PlainValidator(_concurrency),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": CONCURRENCY_MAX}]}),
    Words("`auto` or whole number"),
]
Positive = Annotated[
    float, PlainValidator(_positive), WithJsonSchema({"type": "number", "exclusiveMinimum": 0}), Words("number above 0")
]
Dollars = Annotated[
    Decimal, BeforeValidator(_dollars), WithJsonSchema({"type": "number", "minimum": 0}), Words("dollars")
]
Cap = Annotated[
    Decimal,
    BeforeValidator(_cap),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": _CAP_USD_MAX}),
    Words("dollars above 0"),
]
Seconds = Annotated[
    float,
    PlainValidator(parse_duration),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN}),
    Words("duration"),
]
Share = Annotated[
    Decimal,
    BeforeValidator(parse_share),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": SHARE_PATTERN}, {"type": "number", "minimum": 0, "maximum": 1}]}
    ),
    Words("share"),
]
Text = Annotated[str, PlainValidator(_text), WithJsonSchema(_TEXT_SCHEMA), Words("text")]
Line = Annotated[str, PlainValidator(_line), WithJsonSchema(_TEXT_SCHEMA), Words("text")]
TrimmedLine = Annotated[str, PlainValidator(_trimmed_line), WithJsonSchema(_TEXT_SCHEMA), Words("text")]
OpeningTag = Annotated[
    str, PlainValidator(_opening_tag), WithJsonSchema({"type": "string", "minLength": 3}), Words("text")
]
Name = Annotated[
    str,
    PlainValidator(_name),
    WithJsonSchema({"type": "string", "pattern": r"^[^./\\-][^/\\]*$", "maxLength": NAME_BYTES_MAX}),
    Words("text"),
]
File = Annotated[str, PlainValidator(_file), WithJsonSchema(_TEXT_SCHEMA), Words("path")]
Url = Annotated[str, PlainValidator(_url), WithJsonSchema({"type": "string", "pattern": URL_PATTERN}), Words("URL")]
Key = Annotated[SecretStr, BeforeValidator(_key), WithJsonSchema(_TEXT_SCHEMA), Words("`${NAME}`")]

ListOf = BeforeValidator(_list)
"""Accept a YAML list where the model holds a tuple."""

OneOrListOf = BeforeValidator(_one_or_list)
"""As `ListOf`, and a single text is a list of one."""

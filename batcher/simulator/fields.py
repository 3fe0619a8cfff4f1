"""Reads plain values from a mapping that a person wrote: each field by its own parser, unknown ones refused by name."""

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from batcher.errors import JobError

Parser = Callable[[Any, str], Any]
_T = TypeVar("_T", bound=str)


def read_fields(value: Any, where: str, parsers: Mapping[str, Parser]) -> dict[str, Any]:
    """The fields that are there, parsed.

    Raises:
        JobError: `value` is no mapping, holds a field without a parser, or a parser refused.
    """
    if not isinstance(value, Mapping):
        raise JobError(f"{where} is {value!r}; write a mapping of {', '.join(parsers)}")
    fields: dict[str, Any] = {}
    for name, part in value.items():
        path = f"{where}.{name}"
        if name not in parsers:
            raise JobError(f"{path} is not known{nearest(str(name), parsers)}")
        fields[name] = parsers[name](part, path)
    return fields


def nearest(name: str, names: Collection[str]) -> str:
    """`; did you mean X?`, or the whole choice where nothing is near."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else f"; there is {', '.join(names)}"


def read_text(value: Any, where: str) -> str:
    """A text; numbers are taken for one, as YAML reads an unquoted 500."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise JobError(f"{where} is {value!r}; write a text")
    return str(value)


def read_texts(value: Any, where: str) -> tuple[str, ...]:
    """A list of texts, or one text."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, (list, tuple)):
        raise JobError(f"{where} is {value!r}; write a list of texts")
    return tuple(read_text(part, f"{where}[{index}]") for index, part in enumerate(value))


def read_choice(choices: Collection[_T]) -> Callable[[Any, str], _T]:
    """A parser for one of these words."""

    def read(value: Any, where: str) -> _T:
        text = str(value)
        for choice in choices:
            if choice == text:
                return choice
        raise JobError(f"{where} is {value!r}{nearest(text, choices)}")

    return read


def read_switch(value: Any, where: str) -> bool:
    """`true` or `false`, also as `on` and `off`, which YAML 1.2 leaves as texts."""
    words = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
    switch = words.get(str(value).lower())
    if switch is None:
        raise JobError(f"{where} is {value!r}; write true or false")
    return switch


def read_count(count_min: int) -> Callable[[Any, str], int]:
    """A parser for whole numbers from `count_min` up; `60_000` is one."""

    def read(value: Any, where: str) -> int:
        text = str(value)
        if isinstance(value, bool) or not re.fullmatch(r"-?\d+(_\d+)*", text) or int(text) < count_min:
            raise JobError(f"{where} is {value!r}; write a whole number from {count_min} up")
        return int(text)

    return read


def read_share(value: Any, where: str) -> float:
    """A share from 0 to 1: `0.05` or `5%`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:[eE]-?\d+)?)\s*(%?)\s*", str(value))
    if match is None or isinstance(value, bool):
        raise JobError(f"{where} is {value!r}; write a share such as 0.05 or 5%")
    share = float(match[1]) / (100 if match[2] else 1)
    if share > 1:
        raise JobError(f"{where} is {value!r}; a share is at most 1, or 100%")
    return share

"""The Jinja2 environment of prompts, and how a value becomes text in one.

Sandboxed, strict and pure: an undefined name is an error, nothing can be loaded, called into Python or
changed, and what would differ from one rendering to the next (`random`, `lipsum`) is not offered.

A value is written as JSON would write it, except that text stands bare and nothing is written for null:

| value | text | | value | text |
|---|---|---|---|---|
| `"ä{{ x }}"` | `ä{{ x }}` | | `True`, `1.5` | `true`, `1.5` |
| `None` | (nothing) | | `Decimal("1E+3")` | `1000` |
| `[1, "ä"]` | `[1,"ä"]` | | a date or time | ISO 8601 |

The job's author writes templates, rows never become one; so the bounds here stop slips (a `range` too
many, `"x" * 10**9`), not malice.
"""

import functools
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from jinja2 import StrictUndefined, TemplateRuntimeError, Undefined
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

RANGE_ITEMS_MAX = 100_000
"""All the numbers that the `range`s of one rendering may count through, nested ones multiplied."""

TEXT_CHARS_MAX = 16 * 1024 * 1024
"""The longest text that one operation or one template may make."""

_POWER_BITS_MAX = 65_536
_PADDING_METHODS = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs"})
_NOT_PURE_FILTERS = frozenset({"random"})
_GLOBALS_KEPT = frozenset({"range", "dict", "cycler", "joiner", "namespace"})

_encode = msgspec.json.Encoder(decimal_format="number").encode


class PromptEnvironment(ImmutableSandboxedEnvironment):
    """Jinja2 as prompts have it; see the module."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined,
            autoescape=False,
            keep_trailing_newline=True,
            finalize=to_text,
            cache_size=0,
        )
        self.globals = {name: value for name, value in self.globals.items() if name in _GLOBALS_KEPT}
        for name in _NOT_PURE_FILTERS:
            del self.filters[name]
        self.filters["tojson"] = to_json

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`*` and `**`, refused where the result would not fit into a prompt."""
        if operator == "*":
            _refuse_long_repeat(left, right)
            _refuse_long_repeat(right, left)
        elif isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _POWER_BITS_MAX:
            raise TemplateRuntimeError("the power is too large for a prompt")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call, refused where it would pad text beyond what fits into a prompt."""
        if getattr(called, "__name__", None) in _PADDING_METHODS and isinstance(getattr(called, "__self__", None), str):
            _refuse_wide(args, kwargs)
        return super().call(context, called, *args, **kwargs)


def to_text(value: object) -> str:
    """The text that stands in a prompt for `value`; see the table of the module."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Undefined):
        # A strict undefined raises here, with the name that is missing.
        return str(value)
    if isinstance(value, bytes | bytearray):
        return value.decode()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta | UUID):
        return str(value)
    return _container_text(value)


def to_json(value: object, indent: int | None = None) -> str:
    """The filter `tojson`: JSON in UTF-8 as it is, with `<` and `&` as they are, not escaped for web pages."""
    encoded = _encode(value)
    return (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()


def range_within(items_max: int = RANGE_ITEMS_MAX) -> Callable[..., range]:
    """A `range` for one rendering: all the ranges it gives have at most `items_max` items together."""
    left = items_max

    def bounded_range(*args: int) -> range:
        nonlocal left
        numbers = range(*args)
        try:
            left -= len(numbers)
        except OverflowError:
            left = -1
        if left < 0:
            raise TemplateRuntimeError(f"the ranges of one prompt count through more than {items_max:,} numbers")
        return numbers

    return bounded_range


@functools.cache
def prompt_environment() -> PromptEnvironment:
    """The one environment: it holds no state of a template or a row."""
    return PromptEnvironment()


def _container_text(value: object) -> str:
    if isinstance(value, dict | list | tuple | set | frozenset):
        return to_json(value)
    if callable(value):
        raise TemplateRuntimeError("a function stands where a value is expected; call it with ()")
    if isinstance(value, Iterable):
        return to_json(list(value))
    raise TemplateRuntimeError(f"a value of type {type(value).__name__} has no text")


def _refuse_long_repeat(text: object, count: object) -> None:
    if isinstance(text, str | list | tuple) and isinstance(count, int) and len(text) * count > TEXT_CHARS_MAX:
        raise TemplateRuntimeError("the repeated text is too long for a prompt")


def _refuse_wide(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if any(isinstance(width, int) and width > TEXT_CHARS_MAX for width in (*args, *kwargs.values())):
        raise TemplateRuntimeError("the padded text is too long for a prompt")

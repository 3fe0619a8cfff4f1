"""The Jinja2 environment of prompts, and how a value becomes text in one.

Sandboxed, strict and pure: an undefined name is an error, nothing can be loaded, called into Python or
changed, and what would differ from one rendering to the next (`random`, `lipsum`) is not offered.

A value is written as JSON would write it, except that text stands bare and nothing is written for null:

| value | text | | value | text |
|---|---|---|---|---|
| `"ä{{ x }}"` | `ä{{ x }}` | | `True`, `1.5` | `true`, `1.5` |
| `None` | (nothing) | | `Decimal("1E+3")` | `1000` |
| `[1, "ä"]` | `[1,"ä"]` | | a date or time | ISO 8601 |

The job's author writes templates, rows never become one. Yet a job may come from a stranger, and a row's text
meets whatever the template does: so each rendering has an allowance of work (`allowance`), and what could
make much out of little (`bounds`) is paid for before it runs.
"""

import functools
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import msgspec
from jinja2 import StrictUndefined, TemplateRuntimeError, Undefined, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEscapeFormatter, SandboxedFormatter
from jinja2.utils import _PassArg
from markupsafe import Markup

from batcher.prompts.allowance import INTEGER_BITS_MAX, Allowance, refuse_namespace
from batcher.prompts.bounds import before_filter, before_method, before_operator, check_format_spec
from batcher.prompts.metering import METER_FILTERS, allowance_of

RANGE_ITEMS_MAX = 100_000
"""All the numbers that the `range`s of one rendering may count through, nested ones multiplied."""

_READING_TESTS = frozenset({"in", "lower", "upper", "==", "eq", "equalto", "!=", "ne", "<", "lt", "lessthan", "<=", "le", ">", "gt", "greaterthan", ">=", "ge"})  # fmt: skip  # noqa: E501
_NOT_PURE_FILTERS = frozenset({"random"})
_GLOBALS_KEPT = frozenset({"range", "dict", "cycler", "joiner", "namespace"})

_encode = msgspec.json.Encoder(decimal_format="number").encode


class PromptEnvironment(ImmutableSandboxedEnvironment):
    """Jinja2 as prompts have it; see the module."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined,
            autoescape=False,
            keep_trailing_newline=True,
            finalize=_finalized,
            cache_size=0,
        )
        self.globals = {name: value for name, value in self.globals.items() if name in _GLOBALS_KEPT}
        for name in _NOT_PURE_FILTERS:
            del self.filters[name]
        self.filters["tojson"] = to_json
        self.filters = {name: _paid(name, filter_) for name, filter_ in self.filters.items()} | dict(METER_FILTERS)
        self.tests |= {name: _paid_test(cast("Callable[..., bool]", self.tests[name])) for name in _READING_TESTS}

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`*`, `**`, `+` and `%`, refused where the result would not fit into a prompt."""
        allowance = allowance_of(context)
        if operator == "**":
            if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > INTEGER_BITS_MAX:
                raise TemplateRuntimeError("the power is too large for a prompt")
        else:
            before_operator(operator, allowance, left, right)
        made = super().call_binop(context, operator, left, right)
        return allowance.weigh(made) if isinstance(made, int) else made

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call, refused where its result would not fit into a prompt."""
        allowance = allowance_of(context)
        owner = getattr(called, "__self__", None)
        if isinstance(owner, str | bytes | int):
            args = before_method(allowance, owner, called.__name__, args, kwargs)
        return allowance.weigh(super().call(context, called, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`text.format` and `text.format_map`, sandboxed and paid for field by field; None for anything else."""
        if super().wrap_str_format(value) is None:
            return None
        text, is_format_map = value.__self__, value.__name__ == "format_map"

        @pass_context
        def formatted(context: Context, *args: Any, **kwargs: Any) -> str:
            allowance = allowance_of(context)
            if is_format_map:
                # The sandbox's own refuses other arguments in the same way, as a TypeError.
                (fields,) = args
                args, kwargs = (), fields
            if isinstance(text, Markup):
                formatter: SandboxedFormatter = _PaidEscapeFormatter(self, allowance, escape=text.escape)
            else:
                formatter = _PaidFormatter(self, allowance)
            made: str = type(text)(formatter.vformat(text, args, kwargs))
            return made

        return formatted


class _PaidFields:
    """Mixed into a sandboxed formatter: each field is checked before it is padded, and paid for."""

    def __init__(self, environment: PromptEnvironment, allowance: Allowance, **more: Any) -> None:
        super().__init__(environment, **more)  # type: ignore[call-arg]  # the formatter's own
        self._allowance = allowance

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        """`{!r}` makes a text of any value."""
        refuse_namespace(value)
        return super().convert_field(value, conversion)  # type: ignore[misc]  # the formatter's own

    def format_field(self, value: Any, format_spec: str) -> str:
        """One `{}` as text."""
        refuse_namespace(value)
        check_format_spec(format_spec)
        made: str = super().format_field(value, format_spec)  # type: ignore[misc]  # the formatter's own
        self._allowance.spend(len(made))
        return made


class _PaidFormatter(_PaidFields, SandboxedFormatter):
    pass


class _PaidEscapeFormatter(_PaidFields, SandboxedEscapeFormatter):
    pass


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


@pass_context
def _finalized(context: Context, value: object) -> str:
    """What `{{ }}` puts into the text."""
    if type(value) is not str:
        if isinstance(value, dict | list | tuple | set | frozenset):
            allowance_of(context).weigh(value)
        value = to_text(value)
    allowance_of(context).spend(len(value))
    return value


def _paid_test(test: Callable[..., bool]) -> Callable[..., bool]:
    """A test that reads all of its texts, such as `x is in text`, paid for."""

    @pass_context
    def paid(context: Context, *values: Any) -> bool:
        allowance = allowance_of(context)
        for value in values:
            allowance.weigh(value)
        return test(*values)

    return paid


def _paid(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, refused where it would make or take too much."""
    passed = _PassArg.from_obj(filter_)

    @pass_context
    def paid(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        allowance = allowance_of(context)
        value = before_filter(name, allowance, value, args, kwargs)
        match passed:
            case None:
                made = filter_(value, *args, **kwargs)
            case _PassArg.context:
                made = filter_(context, value, *args, **kwargs)
            case _PassArg.eval_context:
                made = filter_(context.eval_ctx, value, *args, **kwargs)
            case _:
                made = filter_(context.environment, value, *args, **kwargs)
        return allowance.weigh(made)

    return paid

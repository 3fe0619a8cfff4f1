"""What filters, methods and operators will cost, known before they run.

Most read their text once and make no more than they read. The others (padding, repeating, replacing, joining,
formatting, wrapping) can make a gigabyte out of ten characters; each of those has its estimate here, never
below what it makes. A template may call no method of text that is not estimated or linear.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any

from jinja2 import TemplateRuntimeError

from batcher.prompts.allowance import VALUE_WORK, Allowance, refuse_namespace

_CODECS = frozenset({"utf8", "utf16", "utf16le", "utf16be", "utf32", "utf32le", "utf32be", "ascii", "latin1", "iso88591"})  # fmt: skip  # noqa: E501
_DIGITS_MAX = 300
_NUMBER_CHARS_MAX = 320
_INDENT_MAX = 16
_ALL_VALUES = frozenset({"list", "batch", "slice", "sort", "groupby", "unique"})
_WORK_PER_CHAR = {"pprint": 64, "wordwrap": 32, "title": 16, "urlize": 32, "urlencode": 16, "xmlattr": 16, "striptags": 4}  # fmt: skip  # noqa: E501
_LIST_METHODS = frozenset({"split", "rsplit", "splitlines"})
_PADDING_METHODS = frozenset({"center", "ljust", "rjust", "zfill", "to_bytes"})

_FORMAT_SPEC = re.compile(r"[#0\- +]*(\*|\d*)(?:\.(\*|\d*))?")
_NUMBER = re.compile(r"\d+")

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def before_filter(name: str, allowance: Allowance, value: Any, args: Args, kwargs: Kwargs) -> Any:
    """The filter's value, with the work of the filter spent; a lazy value of `join` or `sum` comes as a list.

    Raises:
        TemplateRuntimeError: The filter would make or take too much.
    """
    for part in (value, *args, *kwargs.values()):
        refuse_namespace(part)
    if isinstance(value, str):
        allowance.spend(len(value) * (VALUE_WORK if name in _ALL_VALUES else _WORK_PER_CHAR.get(name, 1)))
    elif isinstance(value, list | tuple | dict):
        allowance.spend(allowance.weight(value) * _WORK_PER_CHAR[name] if name in _WORK_PER_CHAR else len(value))
    if name in ("join", "sum") and not isinstance(value, Sized):
        value = list(allowance.weigh(iter(value)))
    estimate = _FILTERS.get(name)
    if estimate is not None:
        estimate(allowance, value, args, kwargs)
    return value


def before_method(allowance: Allowance, owner: Any, name: str, args: Args, kwargs: Kwargs) -> Args:
    """The arguments of a method of text, bytes or a number, with the work of the call spent.

    Raises:
        TemplateRuntimeError: The method would make or take too much.
    """
    numbers = []
    for part in (*args, *kwargs.values()):
        refuse_namespace(part)
        if isinstance(part, int):
            numbers.append(abs(part))
    if name in _PADDING_METHODS:
        allowance.spend_text(max(numbers, default=0), "the padded text")
    if isinstance(owner, int):
        return args
    allowance.spend(len(owner) * (VALUE_WORK if name in _LIST_METHODS else 1))
    match name:
        case "expandtabs":
            tabs = owner.count("\t" if isinstance(owner, str) else b"\t")
            allowance.spend_text(len(owner) + tabs * max(numbers, default=8), "the padded text")
        case "replace":
            _spend_replaced(allowance, owner, args, kwargs)
        case "join" if args:
            pieces = list(allowance.weigh(iter(args[0])))
            allowance.spend_text(_joined_chars(pieces, len(owner)), "the joined text")
            return (pieces, *args[1:])
        case "translate" if args and isinstance(owner, str) and isinstance(args[0], Mapping):
            longest = max((len(text) for text in args[0].values() if isinstance(text, str)), default=1)
            allowance.spend_text(len(owner) * max(1, longest), "the translated text")
        case "encode" | "decode":
            _refuse_codec(args, kwargs)
    return args


def before_operator(operator: str, allowance: Allowance, left: Any, right: Any) -> None:
    """Spend the work of `*`, `**`, `+` or `%`.

    Raises:
        TemplateRuntimeError: The result would be too large.
    """
    if operator == "*":
        _spend_repeated(allowance, left, right)
        _spend_repeated(allowance, right, left)
    elif operator == "+":
        if isinstance(left, str | bytes) and isinstance(right, str | bytes):
            allowance.spend_text(len(left) + len(right), "the joined text")
        elif isinstance(left, list | tuple):
            allowance.spend(allowance.weight(left) + allowance.weight(right))
    elif operator == "%" and isinstance(left, str | bytes):
        spend_formatted(allowance, left if isinstance(left, str) else left.decode("latin-1"), right)


def spend_formatted(allowance: Allowance, text: str, values: Any) -> None:
    """Spend the work of `text % values`, at most as many characters as Python's own reading of `text` can make.

    Raises:
        TemplateRuntimeError: It would be too long.
    """
    each = [*values.values()] if isinstance(values, Mapping) else [*values] if isinstance(values, tuple) else [values]
    for value in each:
        refuse_namespace(value)
    longest = max(map(allowance.weight, each), default=0) + _NUMBER_CHARS_MAX
    chars, position = len(text), 0
    while (position := text.find("%", position)) >= 0:
        position = _behind_name(text, position + 1)
        spec = _FORMAT_SPEC.match(text, position)
        if spec is None:
            break
        for number in spec.groups(default=""):
            if number == "*":
                chars += sum(abs(value) for value in each if isinstance(value, int))
            elif number:
                chars += _padding(number)
        chars += longest
        # The letter that follows may itself be a %.
        position = spec.end() + 1
    allowance.spend_text(chars, "the padded text")


def check_format_spec(spec: str) -> None:
    """Refuse a width or precision in `{:…}` that no prompt has room for.

    Raises:
        TemplateRuntimeError: There is one.
    """
    for number in _NUMBER.findall(spec):
        Allowance().spend_text(_padding(number), "the padded text")


def _padding(digits: str) -> int:
    return int(digits) if len(digits) < 19 else 10**18


def _behind_name(text: str, position: int) -> int:
    """Where the flags of `%(name)s` begin; a name may hold brackets in pairs."""
    if not text.startswith("(", position):
        return position
    depth = 0
    for bracket in re.compile("[()]").finditer(text, position):
        depth += 1 if bracket[0] == "(" else -1
        if depth == 0:
            return bracket.end()
    return len(text)


def _argument(args: Args, kwargs: Kwargs, position: int, name: str, default: Any) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _whole(value: Any, default: int = 0) -> int:
    return abs(value) if isinstance(value, int) else default


def _spend_repeated(allowance: Allowance, text: object, count: object) -> None:
    if not isinstance(count, int) or count <= 0:
        return
    if isinstance(text, str | bytes):
        allowance.spend_text(len(text) * count, "the repeated text")
    elif isinstance(text, list | tuple):
        if len(text) * count * VALUE_WORK > 10 * 2**30:
            raise TemplateRuntimeError("the repeated list is too long for a prompt")
        allowance.spend(allowance.weight(text) * count)


def _spend_replaced(allowance: Allowance, text: Any, args: Args, kwargs: Kwargs) -> None:
    old, new = _argument(args, kwargs, 0, "old", ""), _argument(args, kwargs, 1, "new", "")
    if not isinstance(text, bytes):
        text, old, new = str(text), str(old), str(new)
    if isinstance(old, type(text)) and isinstance(new, type(text)):
        allowance.spend_text(len(text) + text.count(old) * len(new), "the replaced text")


def _joined_chars(pieces: Iterable[Any], separator_chars: int) -> int:
    return sum(separator_chars + (len(piece) if isinstance(piece, Sized) else _NUMBER_CHARS_MAX) for piece in pieces)


def _refuse_codec(args: Args, kwargs: Kwargs) -> None:
    codec = str(_argument(args, kwargs, 0, "encoding", "utf8")).lower()
    if re.sub("[-_ ]", "", codec) not in _CODECS:
        raise TemplateRuntimeError("that encoding is not offered to templates; use utf-8, utf-16, utf-32, latin-1")


def _center(allowance: Allowance, value: Any, args: Args, kwargs: Kwargs) -> None:
    del value
    allowance.spend_text(_whole(_argument(args, kwargs, 0, "width", 80)), "the padded text")


def _indent(allowance: Allowance, value: Any, args: Args, kwargs: Kwargs) -> None:
    width = _argument(args, kwargs, 0, "width", 4)
    lines = len(str(value).splitlines()) + 1
    allowance.spend_text(lines * (len(width) if isinstance(width, str) else _whole(width)), "the indented text")


def _parts(allowance: Allowance, value: Any, args: Args, kwargs: Kwargs) -> None:
    del value
    count = _argument(args, kwargs, 0, "linecount", kwargs.get("slices", 0))
    allowance.spend(_whole(count) * VALUE_WORK)


def _round(allowance: Allowance, value: Any, args: Args, kwargs: Kwargs) -> None:
    del allowance, value
    if _whole(_argument(args, kwargs, 0, "precision", 0)) > _DIGITS_MAX:
        raise TemplateRuntimeError(f"round takes at most {_DIGITS_MAX} digits")


def _tojson(allowance: Allowance, value: Any, args: Args, kwargs: Kwargs) -> None:
    indent = _whole(_argument(args, kwargs, 0, "indent", 0))
    if indent > _INDENT_MAX:
        raise TemplateRuntimeError(f"tojson takes an indent of at most {_INDENT_MAX}")
    weight = allowance.weight(value)
    allowance.spend(weight)
    if indent:
        allowance.spend(indent * allowance.depth(value) * (weight // VALUE_WORK))


def _replace(allowance: Allowance, value: Any, args: Args, kwargs: Kwargs) -> None:
    _spend_replaced(allowance, str(value), args, kwargs)


def _join(allowance: Allowance, value: Any, args: Args, kwargs: Kwargs) -> None:
    separator = str(_argument(args, kwargs, 0, "d", ""))
    allowance.spend_text(_joined_chars(value, len(separator)), "the joined text")


def _sum(allowance: Allowance, value: Any, args: Args, kwargs: Kwargs) -> None:
    if isinstance(_argument(args, kwargs, 1, "start", 0), list | tuple):
        # Each addition copies the list so far.
        allowance.spend(allowance.weight(value) // VALUE_WORK * len(value))


def _format(allowance: Allowance, value: Any, args: Args, kwargs: Kwargs) -> None:
    spend_formatted(allowance, str(value), kwargs or args)


def _wordwrap(allowance: Allowance, value: Any, args: Args, kwargs: Kwargs) -> None:
    text, width = str(value), max(1, _whole(_argument(args, kwargs, 0, "width", 79)))
    between = _argument(args, kwargs, 2, "wrapstring", None) or "\n"
    lines = 2 * len(text) // width + text.count("\n") + 1
    allowance.spend_text(len(text) + lines * len(between), "the wrapped text")
    # Python cuts a long word line by line and copies what is left of it each time.
    longest = max(map(len, text.split()), default=0)
    allowance.spend(longest * longest // (width * 128))


_FILTERS: Mapping[str, Callable[[Allowance, Any, Args, Kwargs], None]] = {
    "center": _center,
    "indent": _indent,
    "batch": _parts,
    "slice": _parts,
    "round": _round,
    "tojson": _tojson,
    "replace": _replace,
    "join": _join,
    "sum": _sum,
    "format": _format,
    "wordwrap": _wordwrap,
}


def joined(allowance: Allowance, parts: Sequence[Any]) -> str:
    """`a ~ b`: the parts as text, one behind the other.

    Raises:
        TemplateRuntimeError: It would be too long.
    """
    texts = []
    for part in parts:
        if type(part) is not str:
            refuse_namespace(part)
        texts.append(str(part))
    allowance.spend_text(sum(map(len, texts)), "the joined text")
    return "".join(texts)

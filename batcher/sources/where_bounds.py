"""What a `where` may cost before and while it is computed: its size, its depth, and how much longer it makes texts.

The parser takes time that doubles with each level of some brackets, and the stack of the machine for each step: some
ten thousand `OR` end the whole process. And `LPAD(text, 2000000000, 'x')` is a small predicate with a large result.
"""

import re
from collections.abc import Iterator
from typing import Any

from batcher.errors import InputError

_LEVELS_MAX = 16
_STEPS_MAX = 1000
_PADDED_MAX = 1000
_REPLACED_MAX = 100
_SUMS_MAX = 100
_TOKEN = re.compile(
    r"(?P<value>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|[0-9][0-9.]*|,|\s+|--[^\n]*)"
    r"|(?P<comment>/\*)"
    r"|(?P<open>[(\[{]|\bcase\b)"
    r"|(?P<close>[)\]}]|\bend\b)"
    r'|(?P<step>"(?:[^"]|"")*"|`[^`]*`|\w+|.)',
    re.DOTALL | re.IGNORECASE,
)


def check_size(sql: str) -> None:
    """Refuse a predicate that is too much for the parser.

    Raises:
        InputError: It has too many steps or levels, or a comment in `/* */`.
    """
    level = steps = 0
    for token in _TOKEN.finditer(sql):
        match token.lastgroup:
            case "comment":
                raise InputError("input.where has a comment in /* */; write it as a comment of the job, after #")
            case "open":
                level += 1
            case "close":
                level -= 1
            case "step":
                steps += 1
        if level > _LEVELS_MAX or steps > _STEPS_MAX:
            raise too_deep()


def too_deep() -> InputError:
    """The error for a predicate with too many steps or levels."""
    return InputError(
        f"input.where has too many steps: at most {_STEPS_MAX:,} names, words and signs, and {_LEVELS_MAX} brackets in "
        "one another; write many values as `column IN (1, 2, 3)`"
    )


def check_growth(tree: Any) -> None:
    """Refuse a predicate that could make a text or a list of any length out of a short row.

    Args:
        tree: polars' JSON of the expression.

    Raises:
        InputError: It pads, replaces or joins beyond the bounds, or counts a series.
    """
    if _sums(tree) > _SUMS_MAX or _is_boundless(tree, is_replaced=False):
        raise InputError(
            f"input.where would make long texts or lists: it may pad to {_PADDED_MAX:,} characters, replace once by a "
            f"text of at most {_REPLACED_MAX}, join or add {_SUMS_MAX} values, and count no series"
        )


def _is_boundless(node: Any, *, is_replaced: bool) -> bool:
    match node:
        case {"Function": {"function": {"Range": _}}}:
            return True
        case {"Function": {"input": [_, length], "function": {"StringExpr": {"PadStart": _} | {"PadEnd": _}}}}:
            match length:
                case {"Literal": {"Dyn": {"Int": int(count)}}} if count <= _PADDED_MAX:
                    pass
                case _:
                    return True
        case {"Function": {"input": [_, _, by], "function": {"StringExpr": {"Replace": _}}}}:
            match by:
                case {"Literal": {"Scalar": {"String": str(text)}}} if len(text) <= _REPLACED_MAX and not is_replaced:
                    is_replaced = True
                case _:
                    return True
        case {"Function": {"function": {"TemporalExpr": {"ToString": str(form)}}}} if len(form) > _REPLACED_MAX:
            return True
    return any(_is_boundless(inner, is_replaced=is_replaced) for inner in _inner(node))


def _sums(node: Any) -> int:
    """How many values are joined or added, all together."""
    here = 0
    match node:
        case {"BinaryExpr": {"op": "Plus"}}:
            here = 1
        case {"Function": {"input": [*parts], "function": {"StringExpr": {"ConcatHorizontal": _}}}}:
            here = len(parts)
    return here + sum(map(_sums, _inner(node)))


def _inner(node: Any) -> Iterator[Any]:
    """What a node of the tree holds, without the bytes of a list of values."""
    values = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return (value for value in values if isinstance(value, (dict, list)))

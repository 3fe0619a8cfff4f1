"""One template of a prompt: checked once, rendered for every row.

Two ways lead to the same text. A template of plain text and plain `{{ column }}` is joined (under a
microsecond), by whoever renders it where its columns are few: see `pieces`; any other is run by Jinja2 (tens of
microseconds). One that reads no column is rendered once, here. A property test holds the two ways to each other.
"""

import re
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from jinja2 import Template as JinjaTemplate
from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError, nodes

from batcher.core.records import Row
from batcher.errors import InputError, PromptError
from batcher.prompts.allowance import NAME, TEXT_CHARS_MAX, Allowance
from batcher.prompts.inspection import ROW_NAME, Inspected, Names, column_of_row_item, inspect_template
from batcher.prompts.metering import metered
from batcher.prompts.sandbox import prompt_environment, range_within, to_text

HALF_A_CHARACTER = "the text holds half a surrogate pair, which is no Unicode character"

# So few columns make no more than a few times the row; a column a thousand times is added up before it is joined.
_SLOTS_UNCOUNTED_MAX = 8

_Render = Callable[[Mapping[str, Any]], str]
Piece = str | tuple[str]
"""Some text, or the name of a column."""

_LAST_QUOTED = re.compile(r"'([^']*)'[^']*$")

# What an expression over a row's values can raise; RecursionError is a RuntimeError.
ROW_FAULTS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Template:
    """A template that has been checked against the input's columns.

    `constant` is the text itself where it is the same for every row, else None. `pieces` is what its text is joined
    of, texts and the names of columns (as tuples of one), or None where it is more than a few of these.
    `columns_used` are the columns it reads, in the order of the input.
    """

    __slots__ = ("_render", "_source", "columns_used", "constant", "pieces", "where")

    def __init__(self, inspected: Inspected, render: _Render) -> None:
        self.where = inspected.where
        self.columns_used = inspected.columns_used
        self.constant: str | None = None
        self.pieces: tuple[Piece, ...] | None = None
        self._source = inspected.source
        self._render = render

    @classmethod
    def compile(cls, source: str, where: str, names: Names) -> "Template":
        """The template, checked.

        Raises:
            PromptError: It cannot be rendered for any row; the message names the place and what is wrong.
        """
        try:
            inspected = inspect_template(source, where, names)
            pieces = _pieces(inspected, names)
            template = cls(inspected, _interpreted(inspected, names) if pieces is None else _joined(pieces))
            if pieces is not None and sum(isinstance(piece, tuple) for piece in pieces) <= _SLOTS_UNCOUNTED_MAX:
                template.pieces = tuple(pieces)
            if not inspected.columns_used and not inspected.is_row_used:
                template.constant = template._render({})
        except (SyntaxError, *ROW_FAULTS) as error:
            raise PromptError(_fault_sentence(error, where, source)) from error
        return template

    def render(self, row: Row) -> str:
        """The text for one row.

        Raises:
            InputError: The row's values do not go with the template; the message names both.
            PromptError: The text would be too long.
        """
        try:
            return self._render(row.columns)
        except ROW_FAULTS as error:
            raise self.fault(error, row) from error

    def fault(self, error: BaseException, row: Row) -> InputError | PromptError:
        """What to raise for one of the `ROW_FAULTS` that came of a row's values."""
        sentence = _fault_sentence(error, f"{self.where} on {row_name(row)}", self._source)
        return (PromptError if isinstance(error, TooLongError) else InputError)(sentence)


class TooLongError(TemplateError):
    """A text grew beyond what fits into a prompt."""


def row_name(row: Row) -> str:
    """`row 12` (the `row` column of the results, from 0), with its key where it has one."""
    return f"row {row.index}" if row.key is None else f"row {row.index} (key {row.key!r})"


def _pieces(inspected: Inspected, names: Names) -> list[Piece] | None:
    """Text as `str` and columns as `(name,)`, or None where the template is more than these."""
    pieces: list[Piece] = []
    for output in inspected.tree.body:
        if not isinstance(output, nodes.Output):
            return None
        for node in output.nodes:
            piece = _piece(node, inspected, names)
            if piece is None:
                return None
            if isinstance(piece, str) and pieces and isinstance(pieces[-1], str):
                pieces[-1] += piece
            else:
                pieces.append(piece)
    return pieces


def _piece(node: nodes.Node, inspected: Inspected, names: Names) -> Piece | None:
    if isinstance(node, nodes.TemplateData):
        return node.data
    if isinstance(node, nodes.Name):
        if node.name in names.columns:
            return (node.name,)
        return names.variables.get(node.name)
    column = column_of_row_item(node) if inspected.is_row_used else None
    return None if column is None else (column,)


def _joined(pieces: list[Piece]) -> _Render:
    parts = [piece if isinstance(piece, str) else "" for piece in pieces]
    slots = [(position, piece[0]) for position, piece in enumerate(pieces) if isinstance(piece, tuple)]
    is_long = len(slots) > _SLOTS_UNCOUNTED_MAX

    def render(columns: Mapping[str, Any]) -> str:
        texts = parts.copy()
        for position, column in slots:
            value = columns[column]
            texts[position] = value if type(value) is str else to_text(value)
        if is_long and sum(map(len, texts)) > TEXT_CHARS_MAX:
            raise TooLongError(f"the text is longer than {TEXT_CHARS_MAX >> 20} MB")
        return "".join(texts)

    return render


def _interpreted(inspected: Inspected, names: Names) -> _Render:
    environment = prompt_environment()
    tree = metered(environment.parse(inspected.source), environment)
    template: JinjaTemplate = environment.from_string(tree)
    variables = dict(names.variables)

    def render(columns: Mapping[str, Any]) -> str:
        # Later names win: a column called `row` or `range` is that column.
        known = {ROW_NAME: columns, "range": range_within(), **variables, **columns, NAME: Allowance()}
        texts: list[str] = []
        size_chars = 0
        for text in template.root_render_func(template.new_context(known)):
            size_chars += len(text)
            if size_chars > TEXT_CHARS_MAX:
                raise TooLongError(f"the text is longer than {TEXT_CHARS_MAX >> 20} MB")
            texts.append(text)
        return "".join(texts)

    return render


def _fault_sentence(error: BaseException, where: str, source: str) -> str:
    line = error.lineno if isinstance(error, TemplateSyntaxError) else _template_line(error.__traceback__)
    place = where if line is None else f"{where}, line {line} of the template"
    return f"{place}: {_what_happened(error, source)}"


def _what_happened(error: BaseException, source: str) -> str:
    """The fault without the row's values, which Python and Jinja2 like to quote."""
    match error:
        case UndefinedError(message=str() as message):
            named = _LAST_QUOTED.search(message)
            is_of_template = named is None or named[1] in source
            return message if is_of_template else "a value has nothing of the name that the template computes"
        case TemplateError(message=str() as message):
            return message
        case KeyError(args=[str() as column]):
            return f"the row has no column {column}"
        case UnicodeDecodeError():
            return "a binary value is not UTF-8 text"
        case UnicodeEncodeError():
            return HALF_A_CHARACTER
        case ZeroDivisionError():
            return "division by zero"
        case TypeError(args=[str() as words, *_]) if "NoneType" in words:
            return "a value is null where text or a number is needed; write `{% if column is not none %}` around it"
        case RecursionError() | MemoryError() | SyntaxError():
            return "it is nested too deeply or grows too large"
    return f"a value does not go with the template ({type(error).__name__})"


def _template_line(traceback: TracebackType | None) -> int | None:
    """The line of the template that was being run; Jinja2 keeps the map from its compiled lines."""
    line = None
    while traceback is not None:
        template = traceback.tb_frame.f_globals.get("__jinja_template__")
        if template is not None:
            line = template.get_corresponding_lineno(traceback.tb_lineno)
        traceback = traceback.tb_next
    return line

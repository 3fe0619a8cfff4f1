"""One template of a prompt: checked once, rendered for every row.

Two ways lead to the same text. A template of plain text and plain `{{ column }}` is joined (under a
microsecond); any other is run by Jinja2 (tens of microseconds). One that reads no column is rendered
once, here. A property test holds the two ways to each other.
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

_SLOTS_UNCOUNTED_MAX = 8

_Render = Callable[[Mapping[str, Any]], str]

_LAST_QUOTED = re.compile(r"'([^']*)'[^']*$")

# What an expression over a row's values can raise; RecursionError is a RuntimeError.
_ROW_FAULTS = (
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

    `constant` is the text itself where it is the same for every row, else None. `columns_used` are the
    columns it reads, in the order of the input.
    """

    __slots__ = ("_render", "_source", "columns_used", "constant", "where")

    def __init__(self, inspected: Inspected, render: _Render) -> None:
        self.where = inspected.where
        self.columns_used = inspected.columns_used
        self.constant: str | None = None
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
            segments = _segments(inspected, names)
            template = cls(inspected, _interpreted(inspected, names) if segments is None else _joined(segments))
            if not inspected.columns_used and not inspected.is_row_used:
                template.constant = template._render({})
        except (SyntaxError, *_ROW_FAULTS) as error:
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
        except _ROW_FAULTS as error:
            sentence = _fault_sentence(error, f"{self.where} on {row_name(row)}", self._source)
            raise (PromptError if isinstance(error, TooLongError) else InputError)(sentence) from error


class TooLongError(TemplateError):
    """A text grew beyond what fits into a prompt."""


def row_name(row: Row) -> str:
    """`row 12` (the `row` column of the results, from 0), with its key where it has one."""
    return f"row {row.index}" if row.key is None else f"row {row.index} (key {row.key!r})"


def _segments(inspected: Inspected, names: Names) -> list[str | tuple[str]] | None:
    """Text as `str` and columns as `(name,)`, or None where the template is more than these."""
    segments: list[str | tuple[str]] = []
    for output in inspected.tree.body:
        if not isinstance(output, nodes.Output):
            return None
        for node in output.nodes:
            segment = _segment(node, inspected, names)
            if segment is None:
                return None
            if isinstance(segment, str) and segments and isinstance(segments[-1], str):
                segments[-1] += segment
            else:
                segments.append(segment)
    return segments


def _segment(node: nodes.Node, inspected: Inspected, names: Names) -> str | tuple[str] | None:
    if isinstance(node, nodes.TemplateData):
        return node.data
    if isinstance(node, nodes.Name):
        if node.name in names.columns:
            return (node.name,)
        return names.variables.get(node.name)
    column = column_of_row_item(node) if inspected.is_row_used else None
    return None if column is None else (column,)


def _joined(segments: list[str | tuple[str]]) -> _Render:
    parts = [segment if isinstance(segment, str) else "" for segment in segments]
    slots = [(position, segment[0]) for position, segment in enumerate(segments) if isinstance(segment, tuple)]
    is_long = len(slots) > _SLOTS_UNCOUNTED_MAX

    def render(columns: Mapping[str, Any]) -> str:
        texts = parts.copy()
        for position, column in slots:
            value = columns[column]
            texts[position] = value if type(value) is str else to_text(value)
        # Few columns make no more than a few times the row; a column a thousand times is added up first.
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

"""The renderer of chat requests: a row in, the JSON array of messages out.

Everything that can be wrong with a prompt for every row is found by `compile`, before the first call.
What is the same for every row is encoded once, also the text around a plain `{{ column }}`: there a row costs
what encoding its columns' values costs.
"""

from collections.abc import Mapping, Sequence

import msgspec

from batcher.core.records import Request, Row
from batcher.errors import InputError, PromptError
from batcher.prompts.inspection import ROW_NAME, Names, listed, nearest
from batcher.prompts.messages import encode_messages
from batcher.prompts.sandbox import to_text
from batcher.prompts.template import HALF_A_CHARACTER, ROW_FAULTS, Template, row_name

MESSAGES_BYTES_MAX = 16 * 1024 * 1024
"""The longest request that is rendered; what is longer is a slip in the template or the wrong column."""

_NO_TEXT = "(no text)"
_MESSAGES_ADDED = 2

_encode_text = msgspec.json.Encoder().encode
_decode_messages = msgspec.json.Decoder(list[msgspec.Raw]).decode

Part = bytes | tuple[Template, str | None]
"""JSON that is the same for every row, or where a row's text goes: a template's, or one of its columns' as it is."""


class ChatRenderer:
    """Keeps `core.contracts.Renderer` for chat prompts; made by `compile`.

    Names in a template are the input's columns and the variables of `--var`; `row["my column"]` reads a
    column whose name is no identifier (a column that is itself called `row` hides this). Row values are
    data: `{{ }}` inside one stays text. Null renders as nothing, lists and objects as JSON.
    """

    def __init__(
        self, parts: Sequence[Part], *, messages_column: str | None = None, columns_used: tuple[str, ...] = ()
    ) -> None:
        self._parts = [part if isinstance(part, bytes) else b"" for part in parts]
        self._slots = [(position, *part) for position, part in enumerate(parts) if isinstance(part, tuple)]
        self._messages_column = messages_column
        self.columns_used = columns_used

    @classmethod
    def compile(
        cls,
        *,
        system: str | None,
        examples: Sequence[tuple[str, str]],
        user: str | None,
        messages_column: str | None,
        variables: Mapping[str, str],
        columns: Sequence[str],
    ) -> "ChatRenderer":
        """The renderer of one job, checked against its input.

        Args:
            system: Template of the system message.
            examples: Templates of few-shot pairs, (user, assistant).
            user: Template of the question.
            messages_column: Instead of the templates: the column that holds a chat history.
            variables: What `--var` gave.
            columns: The input's columns, in its order.

        Raises:
            PromptError: A template has a syntax error or names what is not there; the message says where.
        """
        names = Names(tuple(columns), dict(variables))
        _check_variables(names)
        if messages_column is not None:
            _check_messages_column(messages_column, names, is_alone=system is None and not examples and user is None)
            return cls((), messages_column=messages_column, columns_used=(messages_column,))
        if user is None:
            raise PromptError("prompt.user is missing; write the question, or name a column of chat histories")

        templates = [] if system is None else [("system", "prompt.system", system)]
        for index, (question, answer) in enumerate(examples):
            templates.append(("user", f"prompt.examples[{index}].user", question))
            templates.append(("assistant", f"prompt.examples[{index}].assistant", answer))
        templates.append(("user", "prompt.user", user))

        compiled = [(role, Template.compile(source, where, names)) for role, where, source in templates]
        used = {column for _, template in compiled for column in template.columns_used}
        in_order = tuple(column for column in names.columns if column in used)
        return cls(_parts(compiled), columns_used=in_order)

    def render(self, row: Row) -> Request:
        """The request for one row.

        Raises:
            InputError: The row's values do not go with the template, or are no text that can be sent.
            PromptError: The request would be longer than `MESSAGES_BYTES_MAX`.
        """
        if self._messages_column is None:
            parts = self._parts.copy()
            for position, template, column in self._slots:
                parts[position] = (
                    _encode_rendered(template, row) if column is None else _encode_column(template, column, row)
                )
            messages = b"".join(parts)
        else:
            messages = encode_messages(row, self._messages_column)
        if len(messages) > MESSAGES_BYTES_MAX:
            raise PromptError(f"the prompt of {row_name(row)} is longer than {MESSAGES_BYTES_MAX >> 20} MB")
        return Request(row.index, messages, row.key)

    def again(self, request: Request, answer: str, fault: str) -> Request:
        """See `Renderer`. Takes the first request or one that `again` made: the first question stays.

        An empty answer is sent as "(no text)", because some providers refuse an empty message.
        """
        asked = request.messages
        if request.ask_number > 1:
            kept = _decode_messages(asked)[:-_MESSAGES_ADDED]
            asked = b"[" + b",".join(bytes(message) for message in kept) + b"]"
        messages = b"%b,%b,%b]" % (
            asked[:-1],
            b'{"role":"assistant","content":%b}' % _encode_reply(answer if answer.strip() else _NO_TEXT),
            b'{"role":"user","content":%b}' % _encode_reply(fault),
        )
        return Request(request.row, messages, request.key, request.ask_number + 1)


def _parts(compiled: Sequence[tuple[str, Template]]) -> list[Part]:
    """The JSON array in pieces: bytes where every row has the same, else the template."""
    parts: list[Part] = []
    same = b"["
    for role, template in compiled:
        same += b'{"role":"%b","content":' % role.encode()
        if template.constant is not None:
            same += _encode_constant(template, template.constant)
        elif template.pieces is not None:
            same += b'"'
            for piece in template.pieces:
                if isinstance(piece, str):
                    same += _encode_constant(template, piece)[1:-1]
                else:
                    parts += (same, (template, piece[0]))
                    same = b""
            same += b'"'
        else:
            parts += (same, (template, None))
            same = b""
        same += b"},"
    parts.append(same.removesuffix(b",") + b"]")
    return parts


def _encode_column(template: Template, column: str, row: Row) -> bytes:
    """A column's value as it stands inside of a JSON string."""
    try:
        value = row.columns[column]
        return _encode_text(value if type(value) is str else to_text(value))[1:-1]
    except ROW_FAULTS as error:
        raise template.fault(error, row) from error


def _encode_rendered(template: Template, row: Row) -> bytes:
    try:
        return _encode_text(template.render(row))
    except UnicodeEncodeError as error:
        raise InputError(f"{template.where} on {row_name(row)}: {HALF_A_CHARACTER}") from error


def _encode_constant(template: Template, text: str) -> bytes:
    try:
        return _encode_text(text)
    except UnicodeEncodeError as error:
        raise PromptError(f"{template.where}: {HALF_A_CHARACTER}") from error


def _encode_reply(text: str) -> bytes:
    try:
        return _encode_text(text)
    except UnicodeEncodeError:
        # A model's broken half of an emoji must not cost the row: it is sent back as a question mark.
        return _encode_text(text.encode("utf-8", "replace").decode())


def _check_variables(names: Names) -> None:
    for variable in names.variables:
        if variable in names.columns:
            raise PromptError(f"--var {variable} has the name of an input column; give the variable another name")
        if variable == ROW_NAME or not variable.isidentifier():
            raise PromptError(f"--var {variable} is no name that a template can use; write letters, digits and _")


def _check_messages_column(column: str, names: Names, *, is_alone: bool) -> None:
    if not is_alone:
        raise PromptError("prompt.messages stands instead of system, examples and user; remove one or the other")
    if column not in names.columns:
        meant = nearest(column, names.columns)
        guess = f"; did you mean {meant}?" if meant else ""
        raise PromptError(
            f"prompt.messages names the column {column}, but the input has only: {listed(names.columns)}{guess}"
        )

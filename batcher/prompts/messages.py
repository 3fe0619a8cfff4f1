"""A column that holds a chat history, checked row by row."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from batcher.core.records import Row
from batcher.errors import InputError
from batcher.prompts.template import row_name

ROLES = ("system", "developer", "user", "assistant", "tool")

_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode = msgspec.json.Decoder().decode


def encode_messages(row: Row, column: str) -> bytes:
    """The chat history of one row as the JSON array that is sent.

    The value is a list of `{role, content}`, or the same as JSON text (a CSV cell). `content` is text, or
    a list of parts; it may be null only beside `tool_calls`. Other fields go along untouched; those that
    are null are left out, because Parquet gives every message the fields of all.

    Raises:
        InputError: The value is something else; the message names the row and the message's number.
    """
    where = f"{row_name(row)}: column {column}"
    if column not in row.columns:
        raise InputError(f"{where} is missing")
    value = row.columns[column]
    if isinstance(value, str):
        value = _from_json(value, where)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise InputError(f"{where} holds {_kind_of(value)}; write a list of {{role, content}}")
    history = [_checked(message, f"{where}, message {number}") for number, message in enumerate(value, start=1)]
    try:
        return _encode(history)
    except (TypeError, UnicodeEncodeError, RecursionError) as error:
        raise InputError(f"{where} holds something that is no JSON text") from error


def _from_json(text: str, where: str) -> Any:
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise InputError(f"{where} holds text that is no JSON; write a list of {{role, content}}") from error


def _checked(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InputError(f"{where} is {_kind_of(message)}; write {{role, content}}")
    role = message.get("role")
    if role not in ROLES:
        found = "is missing" if role is None else "is none of these"
        raise InputError(f"{where}: role {found}; write {', '.join(ROLES)}")
    content = message.get("content")
    if content is None:
        if role != "assistant" or not message.get("tool_calls"):
            raise InputError(f"{where}: content is missing; write text or a list of parts")
    elif not isinstance(content, str) and not _is_list_of_parts(content):
        raise InputError(f"{where}: content is {_kind_of(content)}; write text or a list of parts")
    return {name: value for name, value in message.items() if value is not None or name == "content"}


def _is_list_of_parts(content: object) -> bool:
    return isinstance(content, list | tuple) and bool(content) and all(isinstance(part, Mapping) for part in content)


def _kind_of(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case str():
            return "text"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case Mapping():
            return "an object"
        case Sequence():
            return "an empty list" if not value else "a list"
    return f"a value of type {type(value).__name__}"

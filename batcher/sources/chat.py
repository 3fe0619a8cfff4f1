"""Whether a column can hold chat histories: lists of messages with `role` and `content`."""

from typing import Any

import pyarrow as pa

from batcher.sources.table import shown

_SHAPE = "a chat history is a list of {role, content}, content being text or a list of parts"


def chat_column_fault(arrow_type: pa.DataType) -> str | None:
    """What keeps an Arrow column from holding chat histories, or None."""
    if not pa.types.is_list(arrow_type):
        return f"is of type {shown(arrow_type)}; {_SHAPE}"
    message = arrow_type.value_type
    if not pa.types.is_struct(message):
        return f"is a list of {shown(message)}; {_SHAPE}"
    types = {field.name: field.type for field in message}
    if "role" not in types or "content" not in types:
        return f"has messages with {shown(', '.join(types))}; {_SHAPE}"
    if not pa.types.is_string(types["role"]):
        return f"has a role of type {shown(types['role'])}; {_SHAPE}"
    if not (pa.types.is_string(types["content"]) or pa.types.is_list(types["content"])):
        return f"has content of type {shown(types['content'])}; {_SHAPE}"
    return None


def chat_fault(value: Any) -> str | None:
    """What keeps one value from being a chat history, or None."""
    if not isinstance(value, list):
        return f"is {_word(value)}; {_SHAPE}"
    if not value:
        return f"is an empty list; {_SHAPE}"
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict):
            return f"has {_word(message)} as message number {number}; {_SHAPE}"
        for name, kinds in (("role", str), ("content", (str, list))):
            if name not in message:
                return f"lacks {name} in message number {number}; {_SHAPE}"
            if not isinstance(message[name], kinds):
                return f"has {_word(message[name])} as {name} of message number {number}; {_SHAPE}"
    return None


def _word(value: Any) -> str:
    words = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return words.get(type(value), "a number")

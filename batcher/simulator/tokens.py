"""How the simulator counts tokens: a public rule that both sides of a test can compute.

A text has ceil(a / 4 + b / 3) tokens, where `a` counts its ASCII characters and `b` the UTF-8 bytes of all
the others. So English costs a token per 4 characters, Thai and Chinese one per character, Vietnamese
between the two, an emoji 1.33: near what real tokenizers do, and far from characters / 4. A prompt adds
4 tokens a message and 3 for the reply's start, as chat templates do.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_MESSAGE_TOKENS = 4
_REPLY_TOKENS = 3


def count_tokens(text: str) -> int:
    """Tokens of one text; 0 for the empty one."""
    if text.isascii():
        return -(-len(text) // 4)
    ascii_chars = len(text.encode("ascii", "ignore"))
    # Lone surrogates are legal in JSON strings but not in UTF-8; each counts as 3 bytes.
    other_bytes = len(text.encode("utf-8", "surrogatepass")) - ascii_chars
    # In twelfths, so that no rounding of floats can move the ceiling.
    return -(-(3 * ascii_chars + 4 * other_bytes) // 12)


def count_prompt_tokens(messages: Iterable[Mapping[str, Any]]) -> int:
    """Tokens of a whole chat prompt."""
    return _REPLY_TOKENS + sum(_MESSAGE_TOKENS + count_tokens(message_text(message)) for message in messages)


def cut_to_tokens(text: str, tokens_max: int) -> str:
    """The longest start of `text` that has at most `tokens_max` tokens."""
    if count_tokens(text) <= tokens_max:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if count_tokens(text[:middle]) <= tokens_max:
            low = middle
        else:
            high = middle - 1
    return text[:low]


def message_text(message: Mapping[str, Any]) -> str:
    """The text of one message; text parts are joined, images and the like have none."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return "\n".join(text for text in texts if isinstance(text, str))


def last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of the last user message, or of the last message where no user speaks."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return message_text(message)
    return message_text(messages[-1]) if messages else ""

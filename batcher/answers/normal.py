"""Text brought to one form for comparison, and what stands at the edge of a word.

Scripts differ in one thing that matters here: most put spaces between words, so a label has edges; Thai,
Lao, Khmer, Burmese, Tibetan, Chinese and Japanese do not, so a label may stand anywhere.
"""

import re
import unicodedata

UNSPACED = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan; Burmese; Khmer
    "\u2e80-\u30ff\u31c0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese, Japanese
)
"""Character ranges of the scripts without spaces between words, for use inside `[...]`."""

# Characters that nobody sees: zero-width space, soft hyphen, joiner, byte-order mark, variation selectors.
_INVISIBLE = dict.fromkeys((0x00AD, 0x200B, 0x2060, 0xFEFF, 0xFE0E, 0xFE0F))
_UNSPACED_CHARACTER = re.compile(f"[{UNSPACED}]")
_FIRST_MARK, _LAST_MARK = 0x0300, 0x0E00


def normal(text: str) -> str:
    """The text as labels are compared: NFKC, case folded, invisible characters gone.

    Compatibility forms go together (full-width `Ａ`, the ligature `ﬁ`), accents stay: `café` is not `cafe`.
    """
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_INVISIBLE)
    return unicodedata.normalize("NFKC", folded)


def word_class() -> str:
    """A regular expression for one character of a word in a script that has spaces, without `_`.

    Python's own word class leaves out combining marks, which end no word in Hindi, Arabic or Hebrew.
    """
    marks = "".join(
        chr(code) for code in range(_FIRST_MARK, _LAST_MARK) if unicodedata.category(chr(code)).startswith("M")
    )
    return f"(?:[^\\W_{UNSPACED}]|[{marks}])"


def is_unspaced(character: str) -> bool:
    """Whether the character belongs to a script without spaces between words."""
    return _UNSPACED_CHARACTER.match(character) is not None

"""Text from outside, made safe to show and to keep: `clean` for terminals, `mask` for secrets.

A provider's error message is hostile until proven otherwise: it may repaint the screen, rename the
window, write to the clipboard (OSC 52), turn the reading direction, or repeat the key it was sent.
Both functions are pure. What no pattern can promise: a secret nobody named and that looks like no
known kind of key stays readable.
"""

import base64
import json
import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

from rich.cells import get_character_cell_size, split_graphemes

MASK = "***"

_SECRET_LENGTH_MIN = 6
_GRAPHEME_LENGTH_MAX = 12
# Thai and Lao "am" take a cell of their own and still belong to the consonant before them.
_VOWELS_AFTER = "\u0e33\u0eb3"

_ESCAPES = re.compile(
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c]{0,4096}(?:\x07|\x1b\\|\x9c)"  # OSC, DCS and kin, ended
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: colours, cursor, erase
    r"|\x1b[ -/]*[0-~]?"  # other escapes, and the start of a string that never ends
)
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad"
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they turn the reading direction
    # They cannot be seen. The joiners stay: Persian words and families of emoji are made with them.
    r"\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b\u2060-\u2064\u206a-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb"
    r"\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)
_LINE_BREAKS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")

_KEY_SHAPES = re.compile(
    r"""(?xi)
      (?P<keep>\bauthorization["']?\s*[:=]\s*["']?)[^"'\r\n,;}]{4,}
    | (?P<keep2>\b(?:x-)?(?:api|access|secret)[_-]?(?:key|token)["']?\s*[:=]\s*["']?)[^\s"',;&}]{4,}
    | (?P<keep3>\bbearer\s+)(?!auth|token|scheme|realm)[A-Za-z0-9._~+/=*-]{4,}
    | (?P<keep4>\b[a-z][a-z0-9+.-]{1,15}://)[^\s/@:]{0,256}:[^\s/@]{1,512}(?=@)
    | (?<![A-Za-z0-9])(?:
        (?:sk|csk|xai|pplx|nvapi|glpat)-[A-Za-z0-9_*-]{8,}
      | (?:hf|gsk|r8|fw|gh[pousr]|github_pat|[spr]k_(?:live|test))_[A-Za-z0-9_]{8,}
      | xox[abeprs]-[A-Za-z0-9-]{8,}
      | (?-i:AKIA|ASIA)[A-Za-z0-9]{8,}
      | AIza[A-Za-z0-9_-]{16,}
      | eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?
      )
    """
)


class Masker:
    """Replaces known secrets, in every form a message may carry them, and whatever looks like a key.

    Made once for a run: the pattern holds each secret as it is, URL-encoded, JSON-escaped, and inside
    Base64 at each of the three alignments (Basic credentials among them). Secrets shorter than six
    characters are masked only where they stand alone, or half of every message would be stars.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True)
        self._known = re.compile("|".join(_pattern(form) for form in forms)) if forms else None

    def mask(self, text: str) -> str:
        """`text` with secrets replaced by `***`."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        return _KEY_SHAPES.sub(_keep_name, text)


def mask(text: str, secrets: Iterable[str]) -> str:
    """`text` with these secrets and key-shaped tokens replaced by `***`. For many texts, make one `Masker`."""
    return Masker(secrets).mask(text)


def without_controls(text: str) -> str:
    r"""`text` without terminal escapes, control characters and invisible direction marks.

    Line breaks of every kind become `\n`; `\n` and `\t` stay. The words around an escape stay, so a
    hyperlink keeps its label and loses its target. Lone surrogates become U+FFFD.
    """
    if text.isascii() and text.isprintable():
        return text
    text = _LINE_BREAKS.sub("\n", _ESCAPES.sub("", text))
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub("", text))


def clean(text: str, width: int | None = None) -> str:
    """One line that is safe in any terminal, at most `width` cells wide, cut with `…`.

    Nothing is cut within what is read as one character: a Thai consonant keeps its vowel and tone
    mark, an emoji its skin. Secrets must be masked before, since a cut secret is no longer known.
    """
    line = " ".join(without_controls(text).split())
    return line if width is None else cut(line, width)


def cut(line: str, width: int) -> str:
    """The start of `line` that fits into `width` cells, with `…` where something is missing."""
    if line.isascii() and len(line) <= width:
        return line
    pieces: list[str] = []
    for start, end, _ in split_graphemes(line)[0]:
        piece = line[start : min(end, start + _GRAPHEME_LENGTH_MAX)]
        if pieces and piece[0] in _VOWELS_AFTER:
            pieces[-1] += piece
        else:
            pieces.append(piece)
    widths = [cells(piece) for piece in pieces]
    if sum(widths) <= width:
        return "".join(pieces)
    kept, room = 0, width - 1
    while kept < len(pieces) and widths[kept] <= room:
        room -= widths[kept]
        kept += 1
    return ("".join(pieces[:kept]).rstrip() + "…") if width > 0 else ""


def cells(text: str) -> int:
    """Terminal cells that `text` takes at most.

    Joined emoji (families, professions) count as their parts: terminals disagree about joining them, and
    a line that is a little short harms nobody while one that wraps breaks the display.
    """
    if text.isascii():
        return len(text)
    return sum(_cells_at_most(character) for character in text)


def _cells_at_most(character: str) -> int:
    if character == "\ufe0f":  # makes the sign before it wide
        return 1
    if "\U0001f3fb" <= character <= "\U0001f3ff":  # a skin tone, beside its emoji where they are not joined
        return 2
    return get_character_cell_size(character)


def _forms(secret: str) -> Iterable[str]:
    secret = secret.strip()
    lines = [line for line in secret.splitlines() if len(line.strip()) >= _SECRET_LENGTH_MIN]
    for plain in dict.fromkeys([secret, " ".join(secret.split()), *lines]):
        if not plain:
            continue
        yield plain
        if len(plain) < _SECRET_LENGTH_MIN:
            continue
        yield from (quote(plain, safe=""), quote(plain), quote_plus(plain))
        yield from (json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1], repr(plain)[1:-1])
        yield unicodedata.normalize("NFC", plain)
        yield from _base64_forms(plain.encode("utf-8", "surrogatepass"))


def _base64_forms(secret: bytes) -> Iterable[str]:
    """What every Base64 text that holds `secret` holds: the characters that its neighbours cannot change."""
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + secret).decode()
        whole = len(encoded.rstrip("=")) - ((shift + len(secret)) % 3 != 0)
        core = encoded[(0, 2, 3)[shift] : whole]
        if len(core) >= _SECRET_LENGTH_MIN:
            yield core
            yield core.replace("+", "-").replace("/", "_")


def _pattern(form: str) -> str:
    escaped = re.escape(form)
    if len(form) < _SECRET_LENGTH_MIN:
        return rf"(?<![^\W_]){escaped}(?![^\W_])"
    if "%" in form:
        # Some write the hexadecimal digits of %2F small.
        escaped = re.sub(r"%[0-9A-F]{2}", lambda match: f"(?i:{match[0]})", escaped)
    return escaped


def _keep_name(match: re.Match[str]) -> str:
    kept = next((group for group in match.groups() if group is not None), "")
    return kept + MASK

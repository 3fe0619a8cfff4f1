"""Labels in running text, found by a compiled prefix tree, however many labels there are."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from batcher.answers.normal import is_unspaced, normal, word_class

SEARCHED_CHARS_MAX = 8_192
"""Longer text is not searched: an answer that long is no label, whatever it holds.

The bound is for the loop's sake too: Unicode normalisation takes quadratic time over a run of combining
marks, 0.1 s for this many.
"""

_SEPARATORS = re.compile(r"(?<=[^\W_])[\s_-]+(?=[^\W_])")
_SEPARATOR = "[\\s_-]+"

# Words that turn a label round. Whether they do cannot be told without understanding the sentence.
_NEGATION = re.compile(
    r"\b(?:not|no|nor|never|neither|non|without|cannot|nicht|kein\w*|weder|pas|jamais|ni|nunca|não|nem"
    r"|không|chẳng|chưa|bukan|tidak|ne|не|нет|ليس|ليست|لا)\b|n['’]t\b"
    r"|नहीं|ไม่|มิใช่|ບໍ່|មិន|不|没|沒|无|無|并非|並非|ない|ません|아니|않",
)


@dataclass(frozen=True, slots=True)
class Found:
    """What stands in a text: the keys of the labels, and whether nothing else does but punctuation."""

    keys: frozenset[str]
    is_alone: bool
    is_negated: bool


class LabelFinder:
    """Labels in text: whole words in scripts with spaces, anywhere in those without.

    Of labels that hold each other ("ship", "shipping", "not spam", "spam") the longest counts. A label
    joined to more is not it: "non-spam", "C++" for C, "0.5" for 5. Between its words, white space, `_` and
    `-` are alike: "not spam" is `not_spam`. Time grows with the text, not with the labels.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        self._patterns = [re.compile(pattern) for pattern in _patterns([key_of(label) for label in labels])]

    def find(self, text: str) -> Found:
        """The labels in `text`; none where it is longer than `SEARCHED_CHARS_MAX`."""
        compared = normal(text) if len(text) <= SEARCHED_CHARS_MAX else ""
        keys: set[str] = set()
        around: list[str] = []
        end = 0
        for span in sorted(self._spans(compared)):
            if span.end <= end:
                continue  # It stands inside a longer label.
            keys.add(key_of(compared[span.start : span.end]))
            around.append(compared[end : span.start])
            end = span.end
        around.append(compared[end:])
        rest = " ".join(around)
        is_alone = not any(character.isalnum() for character in rest)
        return Found(frozenset(keys), is_alone, not is_alone and _NEGATION.search(rest) is not None)

    def _spans(self, compared: str) -> Iterator["_Span"]:
        for pattern in self._patterns:
            match = pattern.search(compared)
            while match is not None:
                yield _Span(match.start(), -match.end())
                # The search goes on inside the match, to see a label that overlaps it: "new york city".
                match = pattern.search(compared, match.start() + 1)


class _Span(NamedTuple):
    """Where a label stands. Spans sort by their start, of equal ones the longest first."""

    start: int
    minus_end: int

    @property
    def end(self) -> int:
        return -self.minus_end


def key_of(label: str) -> str:
    """The form under which a label is known: compared form, trimmed, words joined by one space."""
    return _SEPARATORS.sub(" ", normal(label).strip())


def _patterns(keys: Sequence[str]) -> list[str]:
    """One expression for each pair of edges that the labels have: mostly a single one."""
    word = word_class()
    # A joined word, `non-spam`, is another word; digits have more that belongs to them: 0.5, -5, 1/5.
    left_edges = {
        "word": f"(?<!{word})(?<!{word}[-_/&])",
        "digit": f"(?<!{word})(?<!{word}[-_/&.,:])(?<![-+−])",
        "none": "",
    }
    right_edges = {
        "word": f"(?!{word})(?![-_/&]{word})(?![+#−-])",
        "digit": f"(?!{word})(?![-_/&.,:]{word})(?![%+#−-])",
        "none": "",
    }
    by_edges: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for key in keys:
        by_edges.setdefault((_edge_kind(key[0]), _edge_kind(key[-1])), []).append(_tokens(key))
    return [left_edges[left] + _tree(labels, 0) + right_edges[right] for (left, right), labels in by_edges.items()]


def _edge_kind(character: str) -> str:
    if character.isdigit():
        return "digit"
    return "word" if character.isalnum() and not is_unspaced(character) else "none"


def _tokens(key: str) -> tuple[str, ...]:
    return tuple(_SEPARATOR if character == " " else re.escape(character) for character in key)


def _tree(labels: Sequence[tuple[str, ...]], depth: int) -> str:
    """A prefix tree of the labels, which agree in their first `depth` tokens; longer ones are tried first."""
    by_token: dict[str, list[tuple[str, ...]]] = {}
    for tokens in labels:
        if len(tokens) > depth:
            by_token.setdefault(tokens[depth], []).append(tokens)
    branches = [_branch(group, depth) for group in by_token.values()]
    if any(len(tokens) == depth for tokens in labels):
        branches.append("")
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


def _branch(labels: Sequence[tuple[str, ...]], depth: int) -> str:
    """The tokens that all labels share from `depth` on, then the tree of the rest."""
    first, last = min(labels), max(labels)
    shared = depth
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return "".join(first[depth:shared]) + _tree(labels, shared)

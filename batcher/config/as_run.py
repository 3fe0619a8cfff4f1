"""The copy of a job for its run directory: variables and options filled in, keys not.

Written by a small emitter of our own, because it must hold two promises exactly: what is read back
equals what was run, and no comment (people keep old keys in comments) and no key goes along.
"""

import json
import re

from batcher.config.tree import Node, Spot, resolve
from batcher.config.variables import escaped
from batcher.errors import JobError

HEADER = "# The job as it was run. Variables are filled in, keys are not; comments were left out.\n"

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*( [A-Za-z0-9_./-]+)*")
# Beside the controls: what YAML takes for a line break, a byte order mark, or no character at all.
_ODD = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
# Text here, but true or false to a reader of YAML 1.1.
_YAML_1_1_WORDS = {"y", "n", "yes", "no", "on", "off"}
_BLOCK_MIN_LINES = 2


def emit(tree: Node) -> str:
    """YAML text that `parse` and `Filler.fill` read back as the same job."""
    return HEADER + "".join(f"{line}\n" for line in _lines(tree, 0))


def _lines(node: Node, depth: int) -> list[str]:
    """The lines of a mapping or list that is not empty."""
    lines: list[str] = []
    pad = "  " * depth
    for part, child in node.children():
        head = f"{pad}-" if isinstance(part, int) else f"{pad}{_text(part)}:"
        if isinstance(child.value, dict | list) and child.value:
            lines += [head, *_lines(child, depth + 1)]
        elif isinstance(child.value, str):
            lines += _text_lines(head, _written(child), "  " * (depth + 1))
        else:
            lines.append(f"{head} {json.dumps(child.value)}")
    return lines


def _written(node: Node) -> str:
    return node.written if node.written is not None else escaped(str(node.value))


def _text_lines(head: str, text: str, pad: str) -> list[str]:
    """A text as a block where it has several lines and a block is exact, else on one line."""
    rows = text.removesuffix("\n").split("\n")
    if len(rows) < _BLOCK_MIN_LINES or not rows[0] or not rows[-1] or not all(map(_is_exact_in_block, rows)):
        return [f"{head} {_text(text)}"]
    ends = "|" if text.endswith("\n") else "|-"
    return [f"{head} {ends}", *(f"{pad}{row}" if row else "" for row in rows)]


def _is_exact_in_block(row: str) -> bool:
    """Whether a line of a block is read back as it is: what is indented or not printable is not worth the trap."""
    return not row or (row.isprintable() and row[0] != " " and not _ODD.search(row))


def _text(text: str) -> str:
    """One line of YAML that is read back as `text`."""
    if _PLAIN.fullmatch(text) and _is_text(text):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return _ODD.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def _is_text(text: str) -> bool:
    """Whether it needs no quotes to be read as text."""
    if text.lower() in _YAML_1_1_WORDS:
        return False
    try:
        return resolve(text, Spot("")) == text
    except JobError:
        return False

"""YAML text as a tree that remembers where each value was written.

ruamel.yaml scans and parses; the tree is built here from its events, because a job file comes from
strangers: tags, duplicate keys, alias bombs, deep nesting and several documents are each refused with
their line, before anything walks the tree. Scalars follow the YAML 1.2 core schema (`yes` and dates
are text) with one addition, `2_000_000`. Keys are always text.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from batcher.errors import JobError

NODES_MAX = 20_000
TEXT_CHARS_MAX = 4 * 1024 * 1024
DEPTH_MAX = 40
DIGITS_MAX = 40

Scalar = str | int | float | bool | None
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Spot:
    """Where something was written: `Spot("jobs/label.yaml", 14)` or `Spot("--set limits.concurrency=5")`."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True, slots=True)
class Node:
    """One value and its spot.

    `written` is the text that a copy of the job shows instead of the value; only secrets have one.
    """

    value: "Scalar | list[Node] | dict[str, Node]"
    spot: Spot
    written: str | None = None

    def plain(self) -> Any:
        """The value as Python's own lists, dicts and scalars."""
        match self.value:
            case dict():
                return {key: child.plain() for key, child in self.value.items()}
            case list():
                return [child.plain() for child in self.value]
            case scalar:
                return scalar

    def children(self) -> "Iterator[tuple[str | int, Node]]":
        """Key or index, and node, of each child."""
        match self.value:
            case dict():
                yield from self.value.items()
            case list():
                yield from enumerate(self.value)

    def at(self, path: Path) -> "Node | None":
        """The node at `path` below this one, or None."""
        node: Node | None = self
        for part in path:
            node = dict(node.children()).get(part) if node is not None else None
        return node

    def nearest(self, path: Path) -> "Node":
        """The node at `path`, or the deepest one above it that is there."""
        while (node := self.at(path)) is None:
            path = path[:-1]
        return node


def dotted(path: Path) -> str:
    """The path as people write it: `providers.0.limits`."""
    return ".".join(shorten(str(part)) for part in path)


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")


def parse(text: str, source: str) -> Node:
    """The one document in `text`.

    Raises:
        JobError: The text is not one YAML document of plain mappings, lists and scalars.
    """
    if found := _CONTROL.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise JobError(
            f"{Spot(source, line)}: the control character U+{ord(found[0]):04X} stands in the file; remove it"
        )
    builder = _Builder(source)
    try:
        for event in YAML(typ="safe", pure=True).parse(io.StringIO(text)):
            builder.take(event)
    except MarkedYAMLError as error:
        is_unfinished = re.search("end of stream|stream end", str(error.problem)) is not None
        mark = (error.context_mark if is_unfinished else None) or error.problem_mark or error.context_mark
        # Only the problem is told: the context and the snippet quote the file, which may hold a key.
        problem = shorten(" ".join(str(error.problem or "the syntax is wrong").split()), 120)
        spot = Spot(source, mark.line + 1 if mark else None)
        raise JobError(f"{spot}: not readable as YAML: {problem}; {_fix_for(problem)}") from None
    except (YAMLError, ValueError, OverflowError) as error:
        # ruamel lets `int` and `chr` fail by themselves on a wild escape or version number.
        raise JobError(
            f"{Spot(source, builder.line)}: not readable as YAML from here on ({type(error).__name__}); "
            "look for escapes like \\U00110000"
        ) from None
    if builder.root is None:
        raise JobError(f"{source}: the file is empty; `batcher init` writes a job to start from")
    return builder.root


def _fix_for(problem: str) -> str:
    if "\\t" in problem:
        return "indent with spaces, not tabs"
    if "could not find expected ':'" in problem or "mapping values" in problem:
        return "check the indentation, and put quotes around text that holds a colon"
    return "check quotes, brackets and indentation on this line"


@dataclass(frozen=True, slots=True)
class Size:
    """How much a part of the file stands for: values, and the characters of their texts."""

    nodes: int
    chars: int


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not come yet."""

    spot: Spot
    value: dict[str, Node] | list[Node]
    anchor: str | None
    size_before: "Size"
    key: str | None = None
    key_spots: dict[str, Spot] = field(default_factory=dict)


class _Builder:
    """Turns parser events into nodes, without recursion."""

    def __init__(self, source: str) -> None:
        self.root: Node | None = None
        self.line = 1
        self._source = source
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Node, Size]] = {}
        self._nodes = self._chars = 0
        self._documents = 0

    def take(self, event: Event) -> None:
        self.line = event.start_mark.line + 1
        spot = Spot(self._source, self.line)
        if isinstance(event, NodeEvent) and not isinstance(event, AliasEvent):
            self._refuse_tag(event, spot)
        match event:
            case DocumentStartEvent():
                self._start_document(event, spot)
            case AliasEvent():
                self._put(*self._alias(event, spot))
            case ScalarEvent():
                self._scalar(event, spot)
            case MappingStartEvent() | SequenceStartEvent():
                self._start(event, spot)
            case MappingEndEvent() | SequenceEndEvent():
                done = self._open.pop()
                size = Size(self._nodes - done.size_before.nodes, self._chars - done.size_before.chars)
                self._put(Node(done.value, done.spot), size, done.anchor)

    def _start_document(self, event: DocumentStartEvent, spot: Spot) -> None:
        self._documents += 1
        if self._documents > 1:
            raise JobError(f"{spot}: a second document begins here; keep one job in a file")
        if event.version not in (None, (1, 2)) or event.tags:
            raise JobError(f"{spot}: the file asks for another YAML by a % line; remove that line (YAML 1.2 is read)")

    def _refuse_tag(self, event: NodeEvent, spot: Spot) -> None:
        if getattr(event, "tag", None) is not None:
            raise JobError(f"{spot}: YAML tags (`!...`) are not read; write the value without its tag")

    def _alias(self, event: AliasEvent, spot: Spot) -> tuple[Node, Size, None]:
        if event.anchor not in self._anchors:
            name = shorten(event.anchor)
            raise JobError(f"{spot}: the alias *{name} has no finished anchor &{name} before it; write the value out")
        node, size = self._anchors[event.anchor]
        # An alias counts as all that it stands for, so a bomb is refused before anyone expands it.
        self._count(size, spot)
        return node, size, None

    def _scalar(self, event: ScalarEvent, spot: Spot) -> None:
        is_plain = event.style is None
        if self._awaits_key():
            self._take_key(event.value, spot, is_plain=is_plain)
            return
        value = resolve(event.value, spot) if is_plain else event.value
        if isinstance(value, str):
            refuse_unwritable(value, spot)
        size = Size(1, len(event.value))
        self._count(size, spot)
        self._put(Node(value, spot), size, event.anchor)

    def _start(self, event: MappingStartEvent | SequenceStartEvent, spot: Spot) -> None:
        if self._awaits_key():
            raise JobError(
                f"{spot}: a mapping or list stands where a field name belongs; "
                'put quotes around a template: "{{ text }}"'
            )
        if len(self._open) >= DEPTH_MAX:
            raise JobError(f"{spot}: values are nested more than {DEPTH_MAX} deep; a job needs far less")
        before = Size(self._nodes, self._chars)
        self._count(Size(1, 0), spot)
        value: dict[str, Node] | list[Node] = {} if isinstance(event, MappingStartEvent) else []
        self._open.append(_Open(spot, value, event.anchor, before))

    def _awaits_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].value, dict) and self._open[-1].key is None

    def _take_key(self, key: str, spot: Spot, *, is_plain: bool) -> None:
        mapping = self._open[-1]
        refuse_unwritable(key, spot)
        if is_plain and key == "<<":
            raise JobError(f"{spot}: `<<` (merge) is not part of YAML 1.2; write the fields out")
        if not key:
            raise JobError(f"{spot}: a field has no name; write `name: value`")
        if key in mapping.key_spots:
            first = mapping.key_spots[key].line
            raise JobError(f"{spot}: {shorten(key)} is given twice (also in line {first}); keep one of them")
        self._count(Size(0, len(key)), spot)
        mapping.key, mapping.key_spots[key] = key, spot

    def _count(self, size: Size, spot: Spot) -> None:
        self._nodes += size.nodes
        self._chars += size.chars
        if self._chars > TEXT_CHARS_MAX:
            raise JobError(
                f"{spot}: the file stands for more than {TEXT_CHARS_MAX >> 20} MiB of text (aliases count each time); "
                "move long texts into the input"
            )
        if self._nodes > NODES_MAX:
            raise JobError(
                f"{spot}: the file stands for more than {NODES_MAX} values (aliases count each time); "
                "move long lists into files of their own"
            )

    def _put(self, node: Node, size: Size, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node, size
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if isinstance(parent.value, list):
            parent.value.append(node)
        elif parent.key is not None:
            # A section is found by the line of its name, not by that of its first field; so is a missing value.
            has_own_spot = node.value is not None and not isinstance(node.value, dict | list)
            key, parent.key = parent.key, None
            parent.value[key] = node if has_own_spot else replace(node, spot=parent.key_spots[key])
        else:
            raise JobError(f"{node.spot}: an alias stands where a field name belongs; write the name out")


_UNWRITABLE = re.compile("[\\0\ud800-\udfff]")
_INT = re.compile(r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def resolve(text: str, spot: Spot) -> Scalar:
    """What an unquoted scalar means.

    Raises:
        JobError: A number that JSON cannot carry (`.nan`, `1e999`), or one of absurd length.
    """
    if text in _WORDS:
        return _WORDS[text]
    is_int, is_float = _INT.fullmatch(text) is not None, _FLOAT.fullmatch(text) is not None
    if (is_int or is_float) and len(text) > DIGITS_MAX:
        raise JobError(f"{spot}: a number of {len(text)} characters stands here; put quotes around it if it is text")
    if is_int:
        is_based = text[:2] in ("0o", "0x")
        return int(text, 0) if is_based else int(text.replace("_", ""))
    if is_float:
        number = float(text.replace("_", ""))
        if abs(number) != float("inf"):
            return number
    if is_float or _NOT_FINITE.fullmatch(text):
        raise JobError(f"{spot}: {text} is not a finite number; write one, or put quotes around it if it is text")
    return text


def refuse_unwritable(text: str, spot: Spot) -> None:
    """Refuse what no UTF-8 file and no JSON text may hold: half a surrogate pair, or NUL.

    Raises:
        JobError: The text holds one of them.
    """
    if found := _UNWRITABLE.search(text):
        raise JobError(f"{spot}: U+{ord(found[0]):04X} is not a character that text may hold; remove it")


_LIKE_A_KEY = re.compile(r"(?=[A-Za-z_-]*[0-9])(?=[0-9_-]*[A-Za-z])[A-Za-z0-9_-]{16,}")


def shorten(text: str, characters_max: int = 40) -> str:
    """Text of the user's for a message: one line, printable, short, and nothing in it that looks like a key."""
    return printable(_LIKE_A_KEY.sub("…", text), characters_max)


def printable(text: str, characters_max: int) -> str:
    """`text` on one line, without control characters, cut after so many."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return line if len(line) <= characters_max else line[: characters_max - 1] + "…"

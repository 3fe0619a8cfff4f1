"""Few-shot examples from a file of their own: a `.jsonl` of pairs, or a `.yaml` list of them."""

import json
from pathlib import Path
from typing import Any

from batcher.config.faults import validated
from batcher.config.fields import fields_of
from batcher.config.files import read_text, shown
from batcher.config.model import Example
from batcher.config.tree import Node, Spot, parse, refuse_unwritable, shorten
from batcher.errors import JobError

_BYTES_MAX = 16 << 20


def read_examples(path: Path) -> tuple[Example, ...]:
    """The examples in a file; `${NAME}` in them is text.

    Raises:
        JobError: The file cannot be read, or holds something else; names file and line.
    """
    match path.suffix.lower():
        case ".jsonl":
            nodes = _from_jsonl(path)
        case ".yaml" | ".yml":
            nodes = _from_yaml(path)
        case _:
            raise JobError(f"{shown(path)}: prompt.examples is a list, or a file that ends in .jsonl or .yaml")
    if not nodes:
        raise JobError(f"{shown(path)}: the examples file is empty; add a pair of user and assistant")
    return tuple(_example(node) for node in nodes)


def _from_yaml(path: Path) -> list[Node]:
    tree = parse(read_text(path, what="the examples file"), shown(path))
    if not isinstance(tree.value, list):
        raise JobError(f"{tree.spot}: the examples file is no list; write a list of user and assistant")
    return tree.value


def _from_jsonl(path: Path) -> list[Node]:
    nodes = []
    text = read_text(path, what="the examples file", bytes_max=_BYTES_MAX)
    for number, line in enumerate(text.split("\n"), start=1):
        spot = Spot(shown(path), number)
        if not line.strip():
            continue
        try:
            pair = json.loads(line)
        except (ValueError, RecursionError):
            raise JobError(f'{spot}: not a JSON object; write {{"user": "…", "assistant": "…"}}') from None
        nodes.append(_node(pair, spot))
    return nodes


def _node(pair: Any, spot: Spot) -> Node:
    if not isinstance(pair, dict):
        return Node([], spot)
    fields: dict[str, Node] = {}
    for name, value in pair.items():
        if isinstance(value, str):
            refuse_unwritable(value, spot)
        # A list or mapping is wrong here whatever it holds.
        fields[name] = Node(value if not isinstance(value, list | dict) else type(value)(), spot)
    return Node(fields, spot)


def _example(node: Node) -> Example:
    if not isinstance(node.value, dict):
        raise JobError(f"{node.spot}: an example is a mapping of user and assistant, and this one is not; write both")
    for name in node.value:
        if name not in fields_of(Example):
            raise JobError(f"{node.spot}: {shorten(name)} is not a field of an example; it has user and assistant")
    return validated(Example, node)

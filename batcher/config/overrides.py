"""`--set a.b=v`: single fields of a job, changed from the command line.

The value is read as YAML reads it in that place: `5` is a number, `[a, b]` a list, anything else text.
`null` takes a field out. The change happens on the tree, before it is checked, so that it meets the
same errors as the file; they name the option instead of a line.
"""

from collections.abc import Sequence
from dataclasses import replace

from batcher.config.tree import DEPTH_MAX, Node, Spot, dotted, parse, refuse_unwritable, resolve, shorten
from batcher.errors import JobError

SHORT_FORMS = {"input": "path", "prompt": "user"}
"""Sections that may be written as the value of one of their fields."""


def expanded(tree: Node) -> Node:
    """The tree with its short forms written out, so that a path means the same in every job."""
    if not isinstance(tree.value, dict):
        return tree
    fields = dict(tree.value)
    for name, field in SHORT_FORMS.items():
        node = fields.get(name)
        if node is not None and node.value is not None and not isinstance(node.value, dict):
            fields[name] = Node({field: node}, node.spot)
    return replace(tree, value=fields)


def with_set(tree: Node, option: str) -> Node:
    """The tree with one `path=value` put in.

    Raises:
        JobError: There is no `=`, or the path leads through something that has no fields.
    """
    path, equals, value = option.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise JobError(f"--set {_shown_path(path)}: write it as path=value, like --set limits.concurrency=50")
    spot = Spot(f"--set {_shown_option(path.strip(), value)}")
    refuse_unwritable(option, spot)
    if len(parts) > DEPTH_MAX:
        raise JobError(f"{spot}: the path has {len(parts)} parts; a job is at most {DEPTH_MAX} deep")
    return expanded(_put(tree, parts, 0, _value(value, spot), spot))


def with_limit(tree: Node, limit: int) -> Node:
    """The tree with `--limit N` put in as `input.limit`."""
    spot = Spot(f"--limit {limit}")
    return _put(tree, ["input", "limit"], 0, Node(limit, spot), spot)


def _shown_path(path: str) -> str:
    return shorten(path, 60)


def _shown_option(path: str, value: str) -> str:
    """The option as a message may show it: without its value where that may be a key."""
    may_be_key = path.startswith("provider") and ".limits." not in path
    if may_be_key or "key" in path.lower():
        return _shown_path(path)
    return shorten(f"{path}={value}", 60)


def _value(text: str, spot: Spot) -> Node:
    stripped = text.strip()
    is_template = stripped.startswith(("{{", "{%", "{#"))
    if stripped[:1] in ("[", "{", '"', "'") and not is_template:
        return _at(parse(stripped, str(spot)), spot)
    value = resolve(text, spot) if text else ""
    return Node(value, spot)


def _at(node: Node, spot: Spot) -> Node:
    match node.value:
        case dict():
            return Node({key: _at(child, spot) for key, child in node.value.items()}, spot)
        case list():
            return Node([_at(child, spot) for child in node.value], spot)
        case _:
            return Node(node.value, spot)


def _put(node: Node, parts: Sequence[str], depth: int, value: Node, spot: Spot) -> Node:
    """`node` with `value` at `parts[depth:]`; sections on the way are made where they are missing."""
    if depth == len(parts):
        return value
    part, is_last = parts[depth], depth == len(parts) - 1
    match node.value:
        case dict():
            fields = dict(node.value)
            if is_last and value.value is None:
                fields.pop(part, None)
            else:
                fields[part] = _put(fields.get(part, Node({}, spot)), parts, depth + 1, value, spot)
            return replace(node, value=fields)
        case list():
            children = list(node.value)
            index = int(part) if part.isascii() and part.isdigit() and len(part) < 10 else -1
            if not 0 <= index < len(children):
                raise JobError(
                    f"{spot}: {dotted(tuple(parts[:depth]))} is a list of {len(children)}, "
                    f"counted from 0, and has no {shorten(part)}; write the number of an entry"
                )
            children[index] = _put(children[index], parts, depth + 1, value, spot)
            return replace(node, value=children)
        case _:
            raise JobError(f"{spot}: {dotted(tuple(parts[:depth]))} has no fields to set; set it as a whole")

"""Faults as sentences: pydantic's findings and our own, each with its spot and field path."""

import difflib
from collections.abc import Iterator
from typing import NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from batcher.config.fields import KINDS_NOT_YET
from batcher.config.tree import Node, Path, dotted
from batcher.config.values import FAULT, found
from batcher.errors import JobError

Model = TypeVar("Model", bound=BaseModel)


def refuse(tree: Node, path: Path, sentence: str) -> NoReturn:
    """Raise the fault of the field at `path`, at its line or at that of the section it misses in."""
    raise JobError(f"{tree.nearest(path).spot}: {dotted(path)} {sentence}")


def validated(model: type[Model], tree: Node) -> Model:
    """The tree as a model.

    Raises:
        JobError: A value is wrong; of several, the one that stands first in the file.
    """
    try:
        return model.model_validate(tree.plain())
    except ValidationError as error:
        details = error.errors(include_url=False)
    # Outside of the handler: a traceback through pydantic would carry the values, keys among them.
    path, detail = min(_faults(tree, details), key=lambda fault: tree.nearest(fault[0]).spot.line or 0)
    node, sentence = tree.nearest(path), _sentence(tree.nearest(path), detail)
    is_of_option = node.spot.line is None
    spot = tree.spot if is_of_option and detail["type"] == "missing" else node.spot
    raise JobError(f"{spot}: {dotted(path)} {sentence}")


def _faults(tree: Node, details: list[ErrorDetails]) -> Iterator[tuple[Path, ErrorDetails]]:
    for detail in details:
        path = _path(tree, detail)
        # Pydantic counts a list after its wrong entries are taken out, and then calls it too short as well.
        if detail["type"] != "too_short" or not tree.nearest(path).value:
            yield path, detail


def _path(tree: Node, detail: ErrorDetails) -> Path:
    """Pydantic's location as a path in the file: its own tags for union members are left out."""
    path: Path = ()
    node: Node | None = tree
    for part in detail["loc"]:
        child = node.at((part,)) if node is not None else None
        is_missing = detail["type"] == "missing" and part == detail["loc"][-1]
        if child is None and not is_missing:
            continue
        path, node = (*path, part), child
    return path


def _sentence(node: Node, detail: ErrorDetails) -> str:
    value, kind = node.value, detail["type"]
    if kind == FAULT:
        return detail["msg"]
    if kind == "missing":
        return "is missing; add it"
    if kind in ("model_type", "dict_type"):
        return f"{found(value)}; write a mapping of fields"
    if kind == "too_short":
        return "is an empty list; give at least one value or remove the line"
    if kind == "too_long":
        return "has more than one entry; several providers are not built yet in this version, so keep one"
    if kind == "literal_error":
        return _about_choice(value, str(detail.get("ctx", {}).get("expected", "")))
    # Every kind that the models can raise is above; the next version of pydantic may know another.
    return f"{found(value)}; see docs/reference/job-file.md for what it may be"


def _about_choice(value: object, expected: str) -> str:
    choices = expected.replace("'", "").replace(" or ", ", ").split(", ")
    if isinstance(value, str) and value in KINDS_NOT_YET and "chat" in choices:
        return f"{value} is not built yet in this version; write {choices[0]}"
    near = difflib.get_close_matches(str(value).lower(), choices, n=1, cutoff=0.6)
    if value is False and "off" in choices:
        near = ["off"]
    return f"{found(value)}; write {near[0] if near else ' or '.join(choices)}"

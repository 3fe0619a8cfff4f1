"""The reference page of the job file, made from the models so that it cannot differ from them."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from batcher.config.fields import NOT_YET, fields_of, model_of
from batcher.config.model import Job
from batcher.config.values import Words

_HEAD = """\
# The job file

<!-- Made from batcher/config/model.py; `make docs` writes it again. -->

A job is one YAML file (YAML 1.2: `yes` and `no` are text).
Paths in it are relative to the file.
Durations are written `50ms`, `60s`, `30m`, `2h`, `1d`; shares `5%` or `0.05`; \
large numbers may have underscores, `2_000_000`.

`${NAME}` in a text reads `--var NAME=…`, else the environment; a name that is not set is an error, \
and `$${` stands for the two characters themselves.
`{{ NAME }}` in a prompt reads a column of the row, or `--var`.
`--set limits.concurrency=50` changes one field for one run, and `--set input.limit=null` takes one out.

An unknown field is an error that names the nearest one.
`batcher schema` prints the JSON Schema; editors that know it complete and check job files.
"""


def reference_markdown() -> str:
    """The page `docs/reference/job-file.md`: a table for each section."""
    parts = [_HEAD]
    for path, model in _sections(Job, ()):
        heading = f"## `{'.'.join(path)}`" if path else "## The top level"
        parts += [f"{heading}\n\n{_about(model)}\n", _table(model)]
    parts.append(_not_yet())
    return "\n".join(parts)


def _sections(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    yield path, model
    for name, section in fields_of(model).items():
        # `providers` is a list of `provider`, and a provider's limits are like the job's.
        if section is not None and name != "providers" and (*path, name) != ("provider", "limits"):
            yield from _sections(section, (*path, name))


def _about(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _table(model: type[BaseModel]) -> str:
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, info in model.model_fields.items():
        meaning = f"{info.description or ''}{_example(info)}"
        cells = (f"`{info.alias or name}`", _type_words(info), _default_words(info), meaning)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _example(info: FieldInfo) -> str:
    if not info.examples:
        return ""
    return f" Example: `{_yaml(info.examples[0])}`"


def _type_words(info: FieldInfo) -> str:
    for metadata in info.metadata:
        if isinstance(metadata, Words):
            return metadata.words
    return _annotation_words(info.annotation)


def _annotation_words(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        words = next((part.words for part in get_args(annotation) if isinstance(part, Words)), None)
        return words or _annotation_words(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"list of {_annotation_words(get_args(annotation)[0])}"
    if (model := model_of(annotation)) is not None and annotation is model:
        return "mapping"
    return " or ".join(_annotation_words(part) for part in get_args(annotation) if part is not type(None))


def _default_words(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    extra = info.json_schema_extra
    default = extra["default"] if isinstance(extra, dict) and "default" in extra else info.default
    if default in (None, "", ()) or default == {} or isinstance(default, BaseModel):
        return ""
    return f"`{_yaml(default)}`"


def _yaml(value: Any) -> str:
    """A value on one line, as a job file writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_yaml(child) for child in value) + "]"
    if isinstance(value, str) and not any(c in value for c in "\n{}[]$<"):
        return value
    if isinstance(value, float | Decimal) and value == int(value):
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)


def _not_yet() -> str:
    names = ", ".join(f"`{'.'.join(path)}`" for path in sorted(NOT_YET))
    return (
        "## Not in this version\n\n"
        f"These fields are known, and refused by name until they are built: {names}; "
        "so are more than one provider and remote paths (`s3://`).\n"
    )

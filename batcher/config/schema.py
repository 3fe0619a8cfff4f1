"""The JSON Schema of job files, for editors: draft 2020-12, made from the models."""

from typing import Any

from batcher.config.checks import OWNED_PARAMS
from batcher.config.model import Job

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TITLE = "batcher job"


def schema() -> dict[str, Any]:
    """What a YAML editor needs to complete and check a job file.

    It knows the short forms (a path as `input`, a text as `prompt`), and lets `${NAME}` stand where a
    text is expected. It cannot know what concerns two fields or a file; `batcher check` does.
    """
    made = Job.model_json_schema(by_alias=True)
    made = {"$schema": DIALECT, **_cleaned(made), "title": _TITLE}
    sections, fields = made["$defs"], made["properties"]

    text = {"type": "string", "minLength": 1}
    paths = {"type": "array", "items": text, "minItems": 1}
    fields["input"] = _with_short_form(fields["input"], text, paths)
    fields["prompt"] = _with_short_form(fields["prompt"], text)
    for section, name in (("Input", "path"), ("Provider", "api_key")):
        field = sections[section]["properties"][name]
        several = {"type": field.pop("type"), "items": field.pop("items"), "minItems": 1}
        field.pop("minItems", None)
        field["anyOf"] = [text, several]
    fields["params"]["propertyNames"] = {"not": {"enum": sorted(OWNED_PARAMS)}}
    made["not"] = {"required": ["provider", "providers"]}
    for section in (made, *sections.values()):
        for name, field in section["properties"].items():
            field.setdefault("title", name.replace("_", " ").capitalize())
    return made


def _with_short_form(field: dict[str, Any], *short_forms: dict[str, Any]) -> dict[str, Any]:
    reference = {"$ref": field.pop("$ref")}
    return {**field, "anyOf": [*short_forms, reference]}


def _cleaned(node: Any) -> Any:
    """Without null, which no field of a job may be, and without defaults of whole sections."""
    if isinstance(node, list):
        return [_cleaned(child) for child in node]
    if not isinstance(node, dict):
        return node
    cleaned = {key: _cleaned(value) for key, value in node.items()}
    if cleaned.get("default", "") in (None, "", [], {}) or isinstance(cleaned.get("default"), dict):
        cleaned.pop("default", None)
    alternatives = cleaned.get("anyOf")
    if isinstance(alternatives, list) and {"type": "null"} in alternatives:
        rest = [option for option in alternatives if option != {"type": "null"}]
        cleaned.pop("anyOf")
        cleaned = {**cleaned, **rest[0]} if len(rest) == 1 else {**cleaned, "anyOf": rest}
    return cleaned

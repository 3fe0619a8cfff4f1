"""The JSON Schema and the reference page: complete, because both are made from the models."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from batcher.config.fields import NOT_YET, fields_of
from batcher.config.model import Job
from batcher.config.reference import reference_markdown
from batcher.config.schema import schema


def sections(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    yield from node["$defs"].values()


def test_schema_is_json_and_names_its_dialect() -> None:
    """Editors choose their checker by it."""
    made = json.loads(json.dumps(schema()))

    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert made["required"] == ["input", "prompt"]


def test_every_field_is_described() -> None:
    """What an editor shows on hover."""
    for section in sections(schema()):
        assert section["additionalProperties"] is False
        assert section["description"]
        for name, field in section["properties"].items():
            assert field.get("description"), name
            assert field.get("title"), name


def test_schema_offers_what_people_write() -> None:
    """Durations and shares as text, short forms, no null, no default that breaks its own rule."""
    made = schema()
    text = json.dumps(made)

    assert '"null"' not in text
    assert made["properties"]["timeout"]["default"] == "60s"
    assert made["$defs"]["Success"]["properties"]["failed"]["default"] == "1%"
    assert {"$ref": "#/$defs/Input"} in made["properties"]["input"]["anyOf"]
    assert {"type": "string", "minLength": 1} in made["properties"]["prompt"]["anyOf"]
    assert "stream" in made["properties"]["params"]["propertyNames"]["not"]["enum"]
    assert [field for field in NOT_YET if field[-1] in made["properties"]] == []


def models(model: Any = Job) -> Iterator[Any]:
    yield model
    for section in fields_of(model).values():
        if section is not None:
            yield from models(section)


@pytest.mark.parametrize("model", list(dict.fromkeys(models())), ids=lambda model: model.__name__)
def test_reference_has_every_field(model: Any) -> None:
    """The page is the code's own list."""
    page = reference_markdown()

    for name in fields_of(model):
        assert f"| `{name}` |" in page


def test_reference_shows_defaults_as_written() -> None:
    """`60s`, not 60.0."""
    page = reference_markdown()

    assert "| `timeout` | duration | `60s` |" in page
    assert "| `failed` | share | `1%` |" in page
    assert "| `path` | path, glob or list | required |" in page
    assert "PydanticUndefined" not in page

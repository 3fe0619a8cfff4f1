"""Values that keep a JSON schema, for answers to requests that carry one.

Understands `enum`, `const`, `type`, `properties`, `items`, `anyOf`, `oneOf`, `allOf`, `minItems`, `minimum`, `maximum`
and local `$ref`; other keywords are not looked at. The schema comes from a client, so nonsense in it
becomes null and recursion ends: in depth, and in the number of values made.
"""

from collections.abc import Callable, Mapping
from typing import Any

_DEPTH_MAX = 32
_DEPTH_SOFT = 4
_VALUES_MAX = 2000
_ITEMS_MAX = 100


def conform(schema: Mapping[str, Any], text: str, draw: Callable[[str], float]) -> Any:
    """A value that keeps `schema`: `text` wherever it fits, else one chosen by `draw(path)`, a number in [0, 1)."""
    return _Maker(schema, text, draw).make(schema, "$", 0)


class _Maker:
    """Makes one value for one schema."""

    def __init__(self, root: Mapping[str, Any], text: str, draw: Callable[[str], float]) -> None:
        self._root, self._text, self._draw = root, text, draw
        self._values_left = _VALUES_MAX

    def make(self, schema: Any, path: str, depth: int) -> Any:
        """The value at `path`; null past the bounds."""
        self._values_left -= 1
        if not isinstance(schema, Mapping) or depth > _DEPTH_MAX or self._values_left < 0:
            return None
        if "$ref" in schema:
            return self.make(self._resolve(schema["$ref"]), path, depth + 1)
        if "const" in schema:
            return schema["const"]
        choices = schema.get("enum")
        if isinstance(choices, list) and choices:
            return self._text if self._text in choices else choices[int(self._draw(path) * len(choices))]
        for keyword in ("anyOf", "oneOf"):
            branches = schema.get(keyword)
            if isinstance(branches, list) and branches:
                # Recursive schemas end in null, and null stands last by custom.
                return self.make(branches[-1 if depth > _DEPTH_SOFT else 0], path, depth + 1)
        parts = schema.get("allOf")
        if isinstance(parts, list) and parts:
            return self.make(self._merged(parts), path, depth + 1)
        return self._typed(schema, path, depth)

    def _typed(self, schema: Mapping[str, Any], path: str, depth: int) -> Any:
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = kind[0] if kind else None
        if kind == "object":
            properties = schema.get("properties")
            if not isinstance(properties, Mapping):
                return {}
            return {name: self.make(part, f"{path}.{name}", depth + 1) for name, part in properties.items()}
        if kind == "array":
            count = min(int(_number(schema, "minItems", 0 if depth > _DEPTH_SOFT else 1)), _ITEMS_MAX)
            return [self.make(schema.get("items", {}), f"{path}[{index}]", depth + 1) for index in range(count)]
        if kind in ("integer", "number"):
            low = _number(schema, "minimum", 0)
            high = max(low, _number(schema, "maximum", low + 100))
            value = low + (high - low) * self._draw(path)
            return round(value) if kind == "integer" else round(value, 3)
        if kind == "boolean":
            return self._draw(path) < 0.5
        return self._text if kind == "string" else None

    def _merged(self, parts: list[Any]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for part in parts:
            if isinstance(part, Mapping):
                merged.update(self._resolve(part["$ref"]) if "$ref" in part else part)
        return merged

    def _resolve(self, reference: Any) -> Mapping[str, Any]:
        """The part of the root that a local `$ref` such as `#/$defs/Team` points at; empty if there is none."""
        part: Any = self._root
        for name in str(reference).removeprefix("#").split("/")[1:]:
            part = part.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(part, Mapping) else None
        return part if isinstance(part, Mapping) else {}


def _number(schema: Mapping[str, Any], name: str, otherwise: float) -> float:
    """A number from the schema, where it is one that arithmetic can bear."""
    value = schema.get(name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15
    return value if is_number and value is not None else otherwise

"""The types of JSONL columns: what was seen where, and the one Arrow type that holds it all.

| values of a column | type |
|---|---|
| true and false | bool |
| integers | int64 |
| integers and numbers with a point | float64 |
| text, or nothing but null | string |
| lists, objects | list and struct, by what is in them |

null goes with each of them, any other mixture has no type. A column has to have one only where it is
the key, is carried or stands in `where`: a prompt takes every value as it is.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import repeat
from operator import or_
from typing import Annotated, Any

import msgspec
import pyarrow as pa

from batcher.errors import InputError
from batcher.sources.table import COLUMNS_MAX, many_columns, shown

_KINDS: dict[type, str] = {
    type(None): "null",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    list: "list",
    dict: "dict",
}
_TYPES: dict[str, Any] = {name: kind for kind, name in _KINDS.items()}
_WORDS = {
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "str": "text",
    "list": "a list",
    "dict": "an object",
}
_SHAPES_MAX = 10_000
# Each line would fill in a field for each column, though it may have few of them: with 900 it took twice the time.
_COLUMNS_KNOWN_MAX = 64
_LEVELS_MAX = 64
_FIELDS_MAX = 1000
_NESTED = frozenset((dict, list))
_INT64_MAX = 2**63 - 1
_EXACT_IN_FLOAT_MAX = 2**53
"""Beyond it a float64 no longer holds every integer."""

_Int64 = Annotated[int, msgspec.Meta(ge=-_INT64_MAX - 1, le=_INT64_MAX)]
_ExactInt = Annotated[int, msgspec.Meta(ge=-_EXACT_IN_FLOAT_MAX, le=_EXACT_IN_FLOAT_MAX)]


@dataclass(slots=True)
class Kinds:
    """Which kinds of values each column holds, and where each kind was first seen; in order of appearance."""

    places: dict[str, dict[str, str]] = field(default_factory=dict)
    _missing: set[str] = field(default_factory=set)
    _shapes: set[tuple[Any, ...]] = field(default_factory=set)
    _decode: Callable[[bytes], Any] | None = None

    def knows(self, lines: Iterable[bytes]) -> bool:
        """Whether each line is a record with nothing in it that was not seen before.

        A third of the cost of decoding each and adding it. False says no more than that it has to be done.
        """
        if not self._shapes:
            return False
        if self._decode is None:
            self._decode = self._decoder()
        try:
            deque(map(self._decode, lines), maxlen=0)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return False
        return True

    def add(self, record: Mapping[str, Any], name: str, number: int) -> None:
        """Note one record; `name` and `number` are its file and line."""
        # Most records have a shape (names and kinds) seen before: one look-up settles all their columns.
        shape = (*record, *map(type, record.values()))
        if shape in self._shapes:
            return
        is_first = not self.places and not self._shapes
        if len(self._shapes) >= _SHAPES_MAX:
            self._shapes.clear()
        self._shapes.add(shape)
        self._decode = None
        self._missing.update(self.places.keys() - record.keys())
        if not is_first:
            self._missing.update(record.keys() - self.places.keys())
        for column, value in record.items():
            self.places.setdefault(column, {}).setdefault(_KINDS[type(value)], f"{name}:{number}")
        if len(self.places) > COLUMNS_MAX:
            raise InputError(many_columns(f"{name}:{number}"))

    def is_everywhere(self, column: str) -> bool:
        """Whether each record has the column."""
        return column not in self._missing

    def is_plain(self, column: str) -> bool:
        """Whether each value is text or null, or each is true, false or null: then every value fits its type."""
        return self.places[column].keys() <= {"str", "null"} or self.places[column].keys() <= {"bool", "null"}

    def _decoder(self) -> Callable[[bytes], Any]:
        """Decodes a line that has nothing new, and fails at any other."""
        if len(self.places) > _COLUMNS_KNOWN_MAX:
            return _fail
        fields = []
        for number, (column, kinds) in enumerate(self.places.items()):
            value = reduce(or_, [_TYPES[kind] for kind in kinds])
            default = None if column in self._missing else msgspec.NODEFAULT
            fields.append((f"c{number}", value, msgspec.field(name=column, default=default)))
        try:
            record = msgspec.defstruct("Record", fields, kw_only=True, forbid_unknown_fields=True)
            return msgspec.json.Decoder(record).decode
        except ValueError:
            # A name that msgspec gives no field, as one with a quotation mark in it.
            return _fail

    def is_nested(self, column: str) -> bool:
        """Whether the column holds lists or objects, so that its type depends on what is in them."""
        return not self.places[column].keys().isdisjoint(("list", "dict"))

    def check(self, column: str) -> None:
        """Refuse a column whose kinds have no common type."""
        places = {kind: place for kind, place in self.places[column].items() if kind != "null"}
        if len(places) > 1 and places.keys() != {"int", "float"}:
            (one, here), (other, there) = list(places.items())[:2]
            raise InputError(
                f"{there}: column {shown(column)!r} is {_WORDS[other]}, but {_WORDS[one]} in {here}; "
                "a key, a carried column or one in `where` needs one type"
            )

    def scalar_type(self, column: str) -> pa.DataType:
        """The Arrow type of a column that is not nested."""
        kinds = self.places[column].keys()
        if "float" in kinds:
            return pa.float64()
        if "int" in kinds:
            return pa.int64()
        return pa.bool_() if "bool" in kinds else pa.string()


def _fail(_: bytes) -> Any:
    raise ValueError("nothing is known of lines like this")


class Extent:
    """How far the lists and objects of one column reach, before Arrow is asked for their type.

    Arrow takes the square of the number of fields: a minute for 700,000 names in one object, as an object that is
    used as a dictionary has them. And it and we go down the levels by recursion.
    """

    def __init__(self) -> None:
        self._shape: dict[str | None, Any] = {}
        self._fields = 0

    def fault(self, value: Any) -> str | None:
        """What is too much with the values so far and this one, or None."""
        return self._add(value, self._shape, 0)

    def _add(self, value: Any, shape: dict[str | None, Any], level: int) -> str | None:
        if not isinstance(value, (dict, list)):
            return None
        if level >= _LEVELS_MAX:
            return (
                f"the JSON is nested too deeply; what is carried or stands in `where` has at most {_LEVELS_MAX} levels"
            )
        for name, inner in value.items() if isinstance(value, dict) else zip(repeat(None), value):
            below = shape.get(name)
            if below is None:
                below = shape[name] = {}
                self._fields += 1
                if self._fields > _FIELDS_MAX:
                    return (
                        f"its objects have more than {_FIELDS_MAX:,} different names; "
                        "write an object whose names vary as a list of {name, value}"
                    )
            if type(inner) in _NESTED and (fault := self._add(inner, below, level + 1)):
                return fault
        return None


def python_type(arrow_type: pa.DataType) -> Any:
    """What msgspec holds a value of the column to. Integers among floats stay integers for the prompt."""
    if pa.types.is_boolean(arrow_type):
        return bool | None
    if pa.types.is_integer(arrow_type):
        return _Int64 | None
    if pa.types.is_floating(arrow_type):
        return _ExactInt | float | None
    return str | None if pa.types.is_string(arrow_type) else Any


def nested_type(values: Iterable[Any], known: pa.DataType) -> pa.DataType:
    """The narrowest type that holds `values` and everything that `known` holds.

    Raises:
        TypeError: There is none, or an integer has more than 64 bits.
    """
    try:
        found = pa.array(list(values)).type
        schemas = [pa.schema([("", known)]), pa.schema([("", found)])]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise TypeError(str(error)) from None


def settled_nested_type(arrow_type: pa.DataType) -> pa.DataType:
    """The same type with text where only null was seen.

    Raises:
        TypeError: It holds an object that never has a field; files have no type for that.
    """
    if pa.types.is_null(arrow_type):
        return pa.string()
    if pa.types.is_list(arrow_type):
        return pa.list_(settled_nested_type(arrow_type.value_type))
    if pa.types.is_struct(arrow_type):
        if arrow_type.num_fields == 0:
            raise TypeError("its objects are all empty")
        return pa.struct([(child.name, settled_nested_type(child.type)) for child in arrow_type])
    return arrow_type


def fits(value: Any, arrow_type: pa.DataType) -> bool:
    """Whether Arrow takes the JSON value as this type without losing a part of it."""
    if value is None:
        return True
    if pa.types.is_list(arrow_type):
        return isinstance(value, list) and all(fits(one, arrow_type.value_type) for one in value)
    if pa.types.is_struct(arrow_type):
        types = {child.name: child.type for child in arrow_type}
        return isinstance(value, dict) and all(name in types and fits(one, types[name]) for name, one in value.items())
    if pa.types.is_boolean(arrow_type):
        return isinstance(value, bool)
    if pa.types.is_string(arrow_type):
        return isinstance(value, str)
    if isinstance(value, bool):
        return False
    if pa.types.is_floating(arrow_type):
        return isinstance(value, float) or (isinstance(value, int) and abs(value) <= _EXACT_IN_FLOAT_MAX)
    return isinstance(value, int) and -_INT64_MAX - 1 <= value <= _INT64_MAX

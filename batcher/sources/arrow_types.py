"""Arrow types and values where the program needs them plainer than a file may hold them."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batcher.core.records import Key


def plain_type(arrow_type: pa.DataType) -> pa.DataType:
    """The type without its encoding: dictionaries decoded, large and view variants as the usual ones.

    So the files of one input may come from different writers, and no batch differs from the next.
    """
    types = pa.types
    if types.is_dictionary(arrow_type):
        return plain_type(arrow_type.value_type)
    if isinstance(arrow_type, pa.BaseExtensionType):
        return plain_type(arrow_type.storage_type)
    if types.is_large_string(arrow_type) or types.is_string_view(arrow_type):
        return pa.string()
    if types.is_large_binary(arrow_type) or types.is_binary_view(arrow_type):
        return pa.binary()
    if types.is_list(arrow_type) or types.is_large_list(arrow_type):
        return pa.list_(plain_type(arrow_type.value_type))
    if types.is_struct(arrow_type):
        return pa.struct([(child.name, plain_type(child.type)) for child in arrow_type])
    return arrow_type


def python_values(array: pa.Array) -> list[Any]:
    """Plain Python values: text, numbers, lists, dicts, dates, decimals. Nanoseconds are cut to microseconds."""
    coarse = _without_nanoseconds(array.type)
    if coarse != array.type:
        array = array.cast(coarse, safe=False)
    values: list[Any] = array.to_pylist(maps_as_pydicts="lossy") if _has_map(array.type) else array.to_pylist()
    return values


def key_values(array: pa.Array) -> list[Key]:
    """Keys as JSON can say them: dates, times and decimals as text, without loss."""
    values: list[Key] = key_texts(array).to_pylist()
    return values


def key_texts(array: pa.Array) -> pa.Array:
    """The key column itself, or as text where JSON has no such type."""
    return pc.cast(array, pa.string()) if is_said_as_text(array.type) else array


def is_said_as_text(arrow_type: pa.DataType) -> bool:
    """Whether a key of this type becomes text."""
    return bool(pa.types.is_temporal(arrow_type) or pa.types.is_decimal(arrow_type))


def can_be_key(arrow_type: pa.DataType) -> bool:
    """Whether values of this type can name rows: equal ones are the same, and JSON can say them."""
    types = pa.types
    is_plain = types.is_integer(arrow_type) or types.is_string(arrow_type) or types.is_boolean(arrow_type)
    return bool(is_plain or is_said_as_text(arrow_type))


def _without_nanoseconds(arrow_type: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_list(arrow_type):
        return pa.list_(_without_nanoseconds(arrow_type.value_type))
    if types.is_struct(arrow_type):
        return pa.struct([(child.name, _without_nanoseconds(child.type)) for child in arrow_type])
    if getattr(arrow_type, "unit", None) != "ns":
        return arrow_type
    if types.is_timestamp(arrow_type):
        return pa.timestamp("us", arrow_type.tz)
    return pa.time64("us") if types.is_time(arrow_type) else pa.duration("us")


def _has_map(arrow_type: pa.DataType) -> bool:
    if pa.types.is_map(arrow_type):
        return True
    return any(_has_map(arrow_type.field(index).type) for index in range(arrow_type.num_fields))

"""The columns of the results: their names, order and types, and how outcomes become them.

The schema is fixed by the job, never by the rows: a column that is null in every row keeps its type.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from batcher.errors import JobError

KEY = "key"
LABEL = "label"

_TIME = pa.timestamp("ms", tz="UTC")

# Name and type of each column of a chat job, in order. `key` has the input's type.
_COLUMNS: tuple[tuple[str, pa.DataType | None], ...] = (
    ("row", pa.int64()),
    (KEY, None),
    ("status", pa.string()),
    ("answer", pa.string()),
    (LABEL, pa.string()),
    ("reasoning", pa.string()),
    ("error_kind", pa.string()),
    ("error", pa.string()),
    ("finish_reason", pa.string()),
    ("model", pa.string()),
    ("system_fingerprint", pa.string()),
    ("provider", pa.string()),
    ("cache", pa.string()),
    ("attempts", pa.int16()),
    ("input_tokens", pa.int32()),
    ("cached_tokens", pa.int32()),
    ("output_tokens", pa.int32()),
    ("reasoning_tokens", pa.int32()),
    ("cost_usd", pa.float64()),
    ("latency_ms", pa.float32()),
    ("finished_at", _TIME),
)
_INTEGERS_MAX = {pa.int16(): 2**15 - 1, pa.int32(): 2**31 - 1}


def result_schema(
    *, key: pa.DataType | None = None, has_labels: bool = False, carried: Sequence[pa.Field] = ()
) -> pa.Schema:
    """The results' schema.

    Args:
        key: The type of the input's key column, or None where the job names none.
        has_labels: Whether the job has `answer.labels`.
        carried: The input's columns that are copied, with their types.

    Raises:
        JobError: A carried column has the name of a result column.
    """
    fields = [
        pa.field(name, key if name == KEY else type_)
        for name, type_ in _COLUMNS
        if (name != KEY or key is not None) and (name != LABEL or has_labels)
    ]
    taken = {field.name for field in fields}
    for field in carried:
        if field.name in taken:
            raise JobError(
                f"input.carry names {field.name}, but the results have a column {field.name} of their own; "
                "leave it out, or rename it in the input"
            )
        taken.add(field.name)
    return pa.schema([*fields, *(field.remove_metadata() for field in carried)])


def result_batch(outcomes: pa.RecordBatch, beside: pa.RecordBatch | None, schema: pa.Schema) -> pa.RecordBatch:
    """Outcomes, and the input's columns beside them, as rows of the results.

    Args:
        outcomes: The fields of `core.records.Outcome`, by name.
        beside: `key` (where the schema has it) and the carried columns, for the same rows; or None.
        schema: As `result_schema` gave it.
    """
    own = {name for name, type_ in _COLUMNS if type_ is not None}
    carried = set() if beside is None else {*beside.schema.names}
    columns = []
    for field in schema:
        if field.name in carried and beside is not None:
            columns.append(_cast(beside.column(field.name), field.type))
        elif field.name == "finished_at":
            columns.append(_times(outcomes.column("finished_ms")))
        elif field.name in own:
            columns.append(_cast(outcomes.column(field.name), field.type))
        else:
            raise ValueError(f"nothing gives the column {field.name}")
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cast(column: pa.Array, type_: pa.DataType) -> pa.Array:
    if column.type == type_:
        return column
    if (largest := _INTEGERS_MAX.get(type_)) is not None:
        # A provider that reports 10^12 tokens must not cost a million rows their results.
        column = pc.min_element_wise(column, pa.scalar(largest, column.type), skip_nulls=False)
    return column.cast(type_)


def _times(finished_ms: pa.Array) -> pa.Array:
    """Milliseconds since 1970 as time; 0 says that it is not known."""
    known = pc.if_else(pc.equal(finished_ms, 0), pa.scalar(None, finished_ms.type), finished_ms)
    return known.cast(pa.int64()).cast(_TIME)

"""`where`: an SQL predicate over the columns, evaluated by polars on one batch after the other.

A row is kept where the predicate is true; null is not true, as in SQL. It may look only at the row itself:
an aggregate or a window would mean another thing on every batch, so both are refused.
"""

import json
from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from batcher.errors import InputError
from batcher.sources.files import unknown_column
from batcher.sources.table import AnyBatch, Table, shown
from batcher.sources.where_bounds import check_growth, check_size, too_deep

_SAID_MAX = 200
_POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""polars panics at some of what it cannot do; its panics are no `Exception`."""


class Predicate:
    """One `where`, checked against the table's columns and types.

    Raises:
        InputError: It is no SQL predicate, names an unknown column, is not true or false, or looks beyond the row.
    """

    def __init__(self, sql: str, table: Table) -> None:
        check_size(sql)
        try:
            self._expression = pl.sql_expr(sql)
            names = self._expression.meta.root_names()
        except _POLARS_ERRORS as error:
            raise InputError(f"input.where is not an SQL predicate: {_first_line(error)}") from None
        known = frozenset(table.columns)
        for name in names:
            if name not in known:
                raise unknown_column("input.where", name, table.columns)
        if not _is_bounded_row_by_row(self._expression):
            raise InputError(
                "input.where may look only at the columns of one row: no aggregate, window, subquery or COLUMNS()"
            )
        if not names:
            raise InputError("input.where names no column; leave it out to take every row")
        self.columns: tuple[str, ...] = tuple(dict.fromkeys(names))
        self._schema = table.compare_schema(self.columns)
        self._check_type()

    def kept(self, batch: AnyBatch) -> AnyBatch:
        """The records of a batch for which the predicate is true, in order."""
        mask = self._mask(batch)
        return batch if all(mask) else batch.keep(mask)

    def _mask(self, batch: AnyBatch) -> Sequence[bool]:
        records = batch.arrow(self.columns)
        if records.schema != self._schema:
            records = self._as_numbers(batch, records)
        try:
            result = self._evaluate(records)
        except _POLARS_ERRORS:
            # The message would quote values of the row; the place is what helps.
            index = next((one for one in range(len(batch)) if self._fails(records.slice(one, 1))), 0)
            raise batch.broken(
                index, "input.where cannot be computed for this row; TRY_CAST gives null where CAST fails"
            ) from None
        mask: list[bool] = result.fill_null(False).to_list()
        return mask

    def _check_type(self) -> None:
        try:
            result = self._evaluate(self._schema.empty_table())
        except _POLARS_ERRORS as error:
            types = ", ".join(f"{shown(field.name)} is {shown(field.type)}" for field in self._schema)
            types = types if len(types) <= _SAID_MAX else f"{types[:_SAID_MAX]}…"
            raise InputError(f"input.where does not fit the columns ({types}): {_first_line(error)}") from None
        if result.dtype != pl.Boolean:
            raise InputError(f"input.where gives {result.dtype}, not true or false; compare it, as in `score > 3`")

    def _evaluate(self, records: pa.RecordBatch | pa.Table) -> pl.Series:
        frame = pl.DataFrame(records)
        return frame.select(self._expression.alias("where")).to_series()

    def _fails(self, record: pa.RecordBatch) -> bool:
        try:
            self._evaluate(record)
        except _POLARS_ERRORS:
            return True
        return False

    def _as_numbers(self, batch: AnyBatch, records: pa.RecordBatch) -> pa.RecordBatch:
        """CSV cells of number columns as numbers, the empty ones as null."""
        arrays = []
        for field, texts in zip(self._schema, records.columns, strict=True):
            if field.type == texts.type:
                arrays.append(texts)
                continue
            values = [text or None for text in texts.to_pylist()]
            try:
                arrays.append(pa.array(values, pa.string()).cast(field.type))
            except pa.ArrowInvalid:
                index = next(one for one, value in enumerate(values) if not _is_number(value, field.type))
                word = "an integer" if pa.types.is_integer(field.type) else "a number"
                raise batch.broken(
                    index,
                    f"column {shown(field.name)!r}, which input.where compares, is not {word} here, "
                    "but was on every line looked at before",
                ) from None
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)


def _is_bounded_row_by_row(expression: pl.Expr) -> bool:
    try:
        tree = json.loads(expression.meta.serialize(format="json"))
        if not _is_row_by_row(tree):
            return False
        check_growth(tree)
    except RecursionError:
        raise too_deep() from None
    return True


def _is_row_by_row(node: Any) -> bool:
    """Whether an expression tree (polars' JSON) holds only steps that look at one row.

    What is not known here is refused: a new kind of step must be proven harmless first.
    """
    match node:
        case {"Column": _} | {"Literal": _}:
            return True
        case {"BinaryExpr": {"left": left, "right": right}}:
            return _is_row_by_row(left) and _is_row_by_row(right)
        case {"Ternary": {"predicate": predicate, "truthy": truthy, "falsy": falsy}}:
            return all(map(_is_row_by_row, (predicate, truthy, falsy)))
        case {"Cast": {"expr": inner}} | {"Alias": [inner, _]}:
            return _is_row_by_row(inner)
        case {"Function": {"input": inputs}}:
            return all(map(_is_row_by_row, inputs))
        case _:
            return False


def _is_number(text: str | None, arrow_type: pa.DataType) -> bool:
    try:
        pa.array([text], pa.string()).cast(arrow_type)
    except pa.ArrowInvalid:
        return False
    return True


def _first_line(error: Exception) -> str:
    """The beginning of what polars says, which quotes the predicate."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    return line if len(line) <= _SAID_MAX else f"{line[:_SAID_MAX]}…"

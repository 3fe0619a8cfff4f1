"""`FileSource`: the rows of Parquet, JSONL and CSV files, in flat memory. Keeps `core.contracts.Source`.

    open -> select the columns that prompts need -> check, before anything is sent -> rows, and at the end tables

What it promises: the same rows in the same order with the same indexes as long as the files stay as they are, and
`fingerprint` tells whether they do. What is looked at before: paths, columns and types of all files, every key, and
the first 64 MiB of text. A record behind that which cannot be read stops `rows` with a `BrokenInputError`, after the
rows before it.
"""

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from batcher.core.records import Key, Row
from batcher.errors import InputError
from batcher.sources import fingerprint as fingerprints
from batcher.sources.arrow_types import can_be_key, is_said_as_text, key_texts, key_values
from batcher.sources.chat import chat_column_fault, chat_fault
from batcher.sources.files import InputFile, InputSpec, resolve_files, unknown_column
from batcher.sources.fingerprint import InputFingerprint
from batcher.sources.jsonl import JsonlTable
from batcher.sources.keys import KeyCheck
from batcher.sources.table import LOOK_BYTES, Batch, BrokenInputError, Table, salvaged, shown

if TYPE_CHECKING:
    from batcher.sources.where import Predicate

__all__ = ["BrokenInputError", "FileSource", "InputFacts", "InputFingerprint", "InputSpec"]

_KEY_SHOWN_MAX = 80


@dataclass(frozen=True, slots=True)
class InputFacts:
    """What is known before the run: rows after `where` and `limit`.

    `rows` is None while it is not exact. `is_whole` says that no broken record can turn up later, as far as
    the format can have them: every line was looked at, or the file is Parquet, whose footer types every row.
    """

    rows: int | None
    rows_estimate: int
    is_whole: bool


class FileSource:
    """The rows of the files that an `InputSpec` names. Make one with `open`."""

    def __init__(self, spec: InputSpec, *, look_bytes: int = LOOK_BYTES) -> None:
        self._spec = spec
        self._files = resolve_files(spec.paths, spec.base)
        self._name = self._files[0].name
        self._table = _table(self._files, look_bytes)
        if not self._table.columns:
            raise InputError(f"{self._name}: the input has no rows")
        self._selected: tuple[str, ...] = self._table.columns
        self._carried: tuple[str, ...] = ()
        if spec.key is not None:
            self._require("input.key", (spec.key,))
        self._predicate = None if spec.where is None else _predicate(spec.where, self._table)

    @classmethod
    def open(cls, spec: InputSpec, *, look_bytes: int = LOOK_BYTES) -> "FileSource":
        """A source whose files are there, readable and alike.

        Args:
            spec: What the job says.
            look_bytes: How much uncompressed text is looked at, in all files together, before anything is sent.

        Raises:
            InputError: No file, a wrong one, files that differ, a broken line in the head, an unknown column.
        """
        return cls(spec, look_bytes=look_bytes)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column there is; of JSONL those that the head's lines have."""
        return self._table.columns

    def select(self, columns: Sequence[str]) -> "FileSource":
        """The same source whose rows carry only these columns.

        Raises:
            InputError: A column is unknown, or holds bytes, which are no text.
        """
        self._require("prompt", columns)
        selected = copy.copy(self)
        selected._selected = tuple(dict.fromkeys(columns))  # noqa: SLF001  # a copy of this very object
        if self._files[0].format == "parquet":
            for field in self._table.schema(selected._selected):  # noqa: SLF001
                if pa.types.is_binary(field.type) or pa.types.is_fixed_size_binary(field.type):
                    raise InputError(
                        f"{self._name}: column {shown(field.name)!r} holds bytes ({field.type}); "
                        "a prompt needs text, so store it as text"
                    )
        return selected

    def check(
        self,
        *,
        carry: Sequence[str] = (),
        list_column: str | None = None,
        keys: bool = True,
        tell: Callable[[int], None] | None = None,
    ) -> InputFacts:
        """Find what is wrong with the rows before anything is sent.

        Args:
            carry: Columns that go into the results. From now on `rows` holds their values to one type.
            list_column: The column that holds chat histories.
            keys: Whether to read every key of the input; a resumed run whose input is unchanged need not.
            tell: Called now and then with the number of rows read so far.

        Raises:
            InputError: With file and line.
            StorageError: The temporary files for very many keys found no room.
        """
        self._require("input.carry", carry)
        self._carried = tuple(carry)
        self.schema(self._strict)
        self._check_key_type()
        if list_column is not None:
            self._require("prompt.messages", (list_column,))
            self._check_chat_type(list_column)
        facts = self._look(list_column, tell)
        if keys and self._spec.key is not None:
            rows = self._check_keys(self._spec.key, tell)
            facts = replace(facts, rows=rows, rows_estimate=rows)
        if facts.rows == 0:
            is_filtered = self._predicate is not None and self._table.head().rows > 0
            raise InputError(
                f"{self._name}: the input has {'no row that input.where keeps' if is_filtered else 'no rows'}"
            )
        return facts

    def rows(self, start: int = 0) -> Iterator[Sequence[Row]]:
        """See `Source`. Batches of up to 1,000 rows and about 4 MB (one larger row: that row alone)."""
        needed = _union(self._selected, self._strict)
        for index, batch in self._kept(needed, start):
            yield from salvaged(batch, partial(self._to_rows, needed, index))

    def tables(self, columns: Sequence[str], start: int = 0) -> Iterator[pa.RecordBatch]:
        """The same rows in the same order as Arrow, typed by `schema`."""
        self._require("the results", columns)
        for _, batch in self._kept(tuple(columns), start):
            yield from salvaged(batch, lambda part: part.arrow(columns))

    def schema(self, columns: Sequence[str]) -> pa.Schema:
        """The types of columns as in the input, the same for every batch; JSONL's are taken from the head."""
        self._require("the results", columns)
        return self._table.schema(columns)

    def fingerprint(self, upto: BrokenInputError | None = None) -> InputFingerprint:
        """What the files are now; with `upto` only what comes before the line that `rows` broke at.

        A run that a broken line stopped keeps the second, so that it can go on when that line is mended.
        """
        return fingerprints.fingerprint(self._files, upto)

    def changed(self, earlier: InputFingerprint) -> str | None:
        """A sentence that names the file that is not as it was, or None."""
        return fingerprints.changed(self._files, earlier)

    @property
    def _strict(self) -> tuple[str, ...]:
        """Columns whose values are held to one type: they are written somewhere."""
        key = () if self._spec.key is None else (self._spec.key,)
        return _union(key, self._carried)

    def _kept(self, columns: Sequence[str], start: int = 0) -> Iterator[tuple[int, Batch]]:
        """Batches after `where` and `limit` from row `start` on, each with the index of its first row."""
        index = 0 if self._predicate is not None else start
        limit = sys.maxsize if self._spec.limit is None else self._spec.limit
        if max(index, start) >= limit:
            return
        for batch in self._filtered(columns, index):
            part = batch.part(max(0, start - index), limit - index)
            if len(part):
                yield max(index, start), part
            index += len(batch)
            if index >= limit:
                return

    def _filtered(self, columns: Sequence[str], start: int = 0, *, head: bool = False) -> Iterator[Batch]:
        """Batches after `where`, which may be empty. `start` counts rows before it."""
        if self._predicate is None:
            yield from self._table.batches(columns, start, head=head)
            return
        for batch in self._table.batches(_union(columns, self._predicate.columns), start, head=head):
            yield from salvaged(batch, self._predicate.kept)

    def _to_rows(self, columns: Sequence[str], index: int, batch: Batch) -> list[Row]:
        records = batch.dicts(columns, self._strict)
        key = self._spec.key
        keys: Sequence[Key] = [None] * len(records)
        if key is not None:
            is_text = is_said_as_text(self._table.schema([key]).field(0).type)
            keys = key_values(batch.arrow([key]).column(0)) if is_text else [record[key] for record in records]
        # Cheaper than dicts of the selected ones: most often there is one more, the key.
        for column in set(columns).difference(self._selected):
            for record in records:
                del record[column]
        return [Row(index + at, record, keys[at]) for at, record in enumerate(records)]

    def _look(self, list_column: str | None, tell: Callable[[int], None] | None) -> InputFacts:
        """Read the head's rows as `rows` will, where that can find something, and count them."""
        head = self._table.head()
        limit = sys.maxsize if self._spec.limit is None else self._spec.limit
        seen = kept = head.rows
        columns = _union(self._selected, self._strict, () if list_column is None else (list_column,))
        if self._predicate is not None or self._may_hide_faults(columns, list_column):
            seen = kept = 0
            needed = columns if self._predicate is None else _union(columns, self._predicate.columns)
            for whole in self._table.batches(needed, head=True):
                seen += len(whole)
                for batch in (whole,) if self._predicate is None else salvaged(whole, self._predicate.kept):
                    part = batch.part(0, limit - kept)
                    self._look_at(part, columns, list_column)
                    kept += len(part)
                if tell is not None:
                    tell(seen)
                if kept >= limit:
                    break
        if kept >= limit:
            return InputFacts(limit, limit, True)
        if head.is_whole and seen == head.rows:
            return InputFacts(kept, kept, True)
        return InputFacts(None, min(limit, max(kept, kept * head.rows_estimate // max(1, seen))), False)

    def _may_hide_faults(self, columns: Sequence[str], list_column: str | None) -> bool:
        """Whether the head's values have to be looked at. A file with a schema answers for them."""
        if not isinstance(self._table, JsonlTable):
            return False
        return list_column is not None or not self._table.is_looked_at(columns, self._strict)

    def _look_at(self, batch: Batch, columns: Sequence[str], list_column: str | None) -> None:
        if not isinstance(self._table, JsonlTable):
            return
        records = batch.dicts(columns, self._strict)
        if list_column is not None:
            for index, record in enumerate(records):
                if fault := chat_fault(record[list_column]):
                    raise batch.broken(index, f"column {shown(list_column)!r} {fault}")

    def _check_chat_type(self, column: str) -> None:
        match self._files[0].format:
            case "csv":
                raise InputError(
                    f"{self._name}: a CSV cell holds no chat history ({shown(column)!r}); use JSONL or Parquet"
                )
            case "parquet":
                if fault := chat_column_fault(self._table.schema([column]).field(0).type):
                    raise InputError(f"{self._name}: column {shown(column)!r} {fault}")

    def _check_key_type(self) -> None:
        key = self._spec.key
        if key is not None and not can_be_key(found := self._table.schema([key]).field(0).type):
            raise InputError(
                f"{self._name}: key column {shown(key)!r} is of type {shown(found)}; "
                "a key is an integer, text, a date or a decimal"
            )

    def _check_keys(self, key: str, tell: Callable[[int], None] | None) -> int:
        """Read every key of the rows; returns their number."""
        rows = 0
        with KeyCheck() as check:
            for _, batch in self._kept((key,)):
                check.add(_keys_of(batch, key))
                rows += len(batch)
                if tell is not None:
                    tell(rows)
            if check.has_suspects():
                self._compare_suspects(check, key)
        return rows

    def _compare_suspects(self, check: KeyCheck, key: str) -> None:
        """Read the keys again; of those with equal hashes the values decide."""
        places: dict[Key, str] = {}
        for _, batch in self._kept((key,)):
            keys = _keys_of(batch, key)
            for index, is_suspect in enumerate(check.is_suspect(keys)):
                if is_suspect:
                    value: Key = keys[index].as_py()
                    if value in places:
                        said = repr(value)[:_KEY_SHOWN_MAX]
                        raise InputError(
                            f"{batch.place(index)}: key {said} in column {shown(key)!r} is taken by {places[value]}; "
                            "give each row its own key"
                        )
                    places[value] = batch.place(index)

    def _require(self, where: str, columns: Sequence[str]) -> None:
        known = frozenset(self._table.columns)
        for column in columns:
            if column not in known:
                raise unknown_column(where, column, self._table.columns)


def _table(files: Sequence[InputFile], look_bytes: int) -> Table:
    # Each format brings modules and packages that the others have no use for.
    match files[0].format:
        case "parquet":
            from batcher.sources.parquet import ParquetTable  # noqa: PLC0415

            return ParquetTable(files, look_bytes=look_bytes)
        case "csv":
            from batcher.sources.csv_table import CsvTable  # noqa: PLC0415

            return CsvTable(files, look_bytes=look_bytes)
        case _:
            return JsonlTable(files, look_bytes=look_bytes)


def _predicate(sql: str, table: Table) -> "Predicate":
    from batcher.sources.where import Predicate  # noqa: PLC0415  # polars takes 0.1 s that few jobs need

    return Predicate(sql, table)


def _keys_of(batch: Batch, key: str) -> pa.Array:
    """The keys of a batch, none of them null or empty."""
    column = batch.arrow([key]).column(0)
    try:
        keys = key_texts(column)
    except pa.ArrowException:
        raise batch.broken(
            0, f"the key column {shown(key)!r} of type {shown(column.type)} cannot be read as text from here on"
        ) from None
    is_empty = pc.is_null(keys)
    if pa.types.is_string(keys.type):
        is_empty = pc.or_(is_empty, pc.fill_null(pc.equal(keys, ""), False))
    if (index := is_empty.index(True).as_py()) >= 0:
        raise InputError(f"{batch.place(index)}: the key column {shown(key)!r} is empty here; every row needs a key")
    return keys


def _union(*columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(columns)))

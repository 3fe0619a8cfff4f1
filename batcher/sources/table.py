"""What the three formats have in common, so that `FileSource` knows one of them: `Table` and its `Batch`es.

A table is all the files of one input, end to end. A batch is up to 1,000 consecutive records, still
in the format's own shape; it becomes Python values or Arrow arrays only for the columns that are asked
for. A record that cannot be read raises `BrokenInputError`, which knows how many records before it can.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import pyarrow as pa

from batcher.errors import InputError

BATCH_ROWS_MAX = 1000
BATCH_BYTES_MAX = 4 * 2**20
LOOK_BYTES = 64 * 2**20
"""How much uncompressed text is looked at before anything is sent: the whole of most files, 1 s of work."""

COLUMNS_MAX = 10_000
"""More columns than a table has: of a file that has them, most are names that vary from row to row."""

_SHOWN_MAX = 80


class BrokenInputError(InputError):
    """One record cannot be read; those before it can.

    Args:
        message: The sentence, with file and line.
        name: The file, as the input names it.
        line: The number of the line where the record begins; None in formats without lines.
        rows_good: How many records of the batch come before it.
    """

    def __init__(self, message: str, *, name: str, line: int | None, rows_good: int = 0) -> None:
        super().__init__(message)
        self.name = name
        self.line = line
        self.rows_good = rows_good


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of the number of records before `where` and `limit`.

    `rows` counts those that were looked at; `is_whole` says that there are no others.
    """

    rows: int
    is_whole: bool
    rows_estimate: int


class Batch(Protocol):
    """Consecutive records."""

    def __len__(self) -> int: ...

    def part(self, start: int, stop: int | None = None) -> Self:
        """The records from `start` up to `stop`, as a slice takes them."""
        ...

    def keep(self, mask: Sequence[bool]) -> Self:
        """The records whose place in `mask` is true, in order."""
        ...

    def place(self, index: int) -> str:
        """Where a record stands, for messages."""
        ...

    def broken(self, index: int, fault: str) -> BrokenInputError:
        """The error for a record of this batch."""
        ...

    def dicts(self, columns: Sequence[str], strict: Collection[str] = ()) -> list[dict[str, Any]]:
        """The values as plain Python; those of `strict` columns are held to the type in `Table.schema`."""
        ...

    def arrow(self, columns: Sequence[str]) -> pa.RecordBatch:
        """The values as Arrow, typed by `Table.schema`."""
        ...


class Table(Protocol):
    """The files of one input, end to end."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column there is."""
        ...

    def head(self) -> Head:
        """Look at the beginning (Parquet: at the footers)."""
        ...

    def batches(self, columns: Sequence[str], start: int = 0, *, head: bool = False) -> Iterator[Batch]:
        """The records from number `start` (from 0) on; with `head` only those that `head()` looks at."""
        ...

    def schema(self, columns: Sequence[str]) -> pa.Schema:
        """The Arrow types of columns, the same for every batch.

        Raises:
            InputError: A column holds values that have no common type.
        """
        ...

    def compare_schema(self, columns: Sequence[str]) -> pa.Schema:
        """The types in which `where` compares: those of `schema`, but CSV columns of numbers are numbers."""
        ...


AnyBatch = TypeVar("AnyBatch", bound=Batch)
Made = TypeVar("Made")


def salvaged(batch: AnyBatch, make: Callable[[AnyBatch], Made]) -> Iterator[Made]:
    """`make(batch)`; if a record of it is broken, what can be made of those before, and then the error."""
    try:
        made = make(batch)
    except BrokenInputError as error:
        if error.rows_good:
            yield make(batch.part(0, error.rows_good))
        raise
    yield made


def many_columns(place: str) -> str:
    """The sentence for an input with too many columns."""
    return f"{place}: the input has more than {COLUMNS_MAX:,} columns here; put names that vary into one column's text"


def twice(names: Sequence[str]) -> str:
    """The first name that stands more than once."""
    return next(name for name, count in Counter(names).items() if count > 1)


def shown(what: object) -> str:
    """A name or a type as a message can hold it: its beginning, where it is long."""
    text = str(what)
    return text if len(text) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 1]}…"

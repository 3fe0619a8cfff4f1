"""JSONL files: one JSON object a line, decoded only as far as the asked columns go.

Blank lines are no records. The head is decoded whole when the table is opened: it tells the columns and
their types, and finds broken lines before anything is sent. Behind the head a line is decoded when it
is reached, for its asked columns alone, and what does not fit is a `BrokenInputError` then.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

import msgspec
import pyarrow as pa

from batcher.errors import InputError
from batcher.sources.files import InputFile
from batcher.sources.jsonl_types import Extent, Kinds, fits, nested_type, python_type, settled_nested_type
from batcher.sources.lines import Meter, TextHead, line_blocks
from batcher.sources.table import BATCH_ROWS_MAX, LOOK_BYTES, BrokenInputError, Head, shown

_MISSING = re.compile(r"missing required field `(?P<column>.*)`$", re.DOTALL)
_MISTYPED = re.compile(r"(?P<fault>Expected .*) - at `\$(?P<path>.*)`$", re.DOTALL)


class JsonlTable:
    """JSONL files, end to end. See `Table`."""

    def __init__(self, files: Sequence[InputFile], *, look_bytes: int = LOOK_BYTES) -> None:
        self._files = files
        self._look_bytes = look_bytes
        self._types: dict[str, pa.DataType] = {}
        self._decoders: dict[tuple[tuple[str, ...], frozenset[str]], msgspec.json.Decoder[dict[str, Any]]] = {}

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Every column of the head's lines, in order of appearance."""
        return tuple(self._survey.kinds.places)

    def head(self) -> Head:
        """See `Table`."""
        return self._survey.head

    def batches(
        self,
        columns: Sequence[str],  # noqa: ARG002  # lines come whole; columns are chosen when they are decoded
        start: int = 0,
        *,
        head: bool = False,
    ) -> Iterator["JsonlBatch"]:
        """See `Table`. Records before `start` are counted, not decoded."""
        for batch in self._head_batches(TextHead(self._files, self._look_bytes)) if head else self._all_batches():
            if start < len(batch):
                yield batch.part(start)
            start = max(0, start - len(batch))

    def schema(self, columns: Sequence[str]) -> pa.Schema:
        """See `Table`."""
        return pa.schema([(column, self.type(column)) for column in columns])

    def compare_schema(self, columns: Sequence[str]) -> pa.Schema:
        """See `Table`."""
        return self.schema(columns)

    def type(self, column: str) -> pa.DataType:
        """The column's Arrow type, from the head."""
        if column not in self._types:
            kinds = self._survey.kinds
            kinds.check(column)
            self._types[column] = self._nested(column) if kinds.is_nested(column) else kinds.scalar_type(column)
        return self._types[column]

    def decoder(self, columns: Sequence[str], strict: Collection[str]) -> msgspec.json.Decoder[dict[str, Any]]:
        """A decoder of these columns alone; each of them must be on the line."""
        wanted = (tuple(columns), frozenset(strict))
        if wanted not in self._decoders:
            types = {column: python_type(self.type(column)) if column in strict else Any for column in columns}
            record = TypedDict("record", types)  # type: ignore[misc]  # the columns are known only now
            decoder: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(record)
            # msgspec finds a name beyond ASCII only after the same string has been encoded once (its pull
            # request 1126). The sample does that, and fails here and now if it ever stops to be enough.
            decoder.decode(msgspec.json.encode(dict.fromkeys(record.__annotations__)))
            self._decoders[wanted] = decoder
        return self._decoders[wanted]

    def is_looked_at(self, columns: Iterable[str], strict: Iterable[str]) -> bool:
        """Whether `Batch.dicts` finds nothing in the head that is not known already."""
        kinds = self._survey.kinds
        return all(map(kinds.is_everywhere, columns)) and all(map(kinds.is_plain, strict))

    @cached_property
    def _survey(self) -> "_Survey":
        decode, kinds, head = (
            msgspec.json.Decoder(dict[str, Any]).decode,
            Kinds(),
            TextHead(self._files, self._look_bytes),
        )
        for batch in self._head_batches(head):
            if kinds.knows(batch.lines):
                continue
            name = batch.file.name
            for index, line in enumerate(batch.lines):
                try:
                    kinds.add(decode(line), name, batch.numbers[index])
                except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                    raise batch.broken(index, json_fault(error)) from None
        return _Survey(kinds, head.result())

    def _head_batches(self, head: TextHead) -> Iterator["JsonlBatch"]:
        return head.batches(self._file_batches)

    def _all_batches(self) -> Iterator["JsonlBatch"]:
        for file in self._files:
            yield from self._file_batches(file)

    def _file_batches(self, file: InputFile, meter: Meter | None = None) -> Iterator["JsonlBatch"]:
        for block in line_blocks(file, meter):
            # A small archive can hold a great many empty lines: they are not split first.
            if block.content.isspace():
                continue
            lines = block.lines()
            numbers: Sequence[int] = range(block.first_number, block.first_number + len(lines))
            if not all(lines) or any(map(bytes.isspace, lines)):
                kept = [index for index, line in enumerate(lines) if line and not line.isspace()]
                lines, numbers = [lines[index] for index in kept], [numbers[index] for index in kept]
            for start in range(0, len(lines), BATCH_ROWS_MAX):
                stop = start + BATCH_ROWS_MAX
                yield JsonlBatch(self, file, lines[start:stop], numbers[start:stop])

    def _nested(self, column: str) -> pa.DataType:
        """The type of a column of lists or objects: the union of all there is in the head."""
        found, extent = pa.null(), Extent()
        decode = msgspec.json.Decoder(dict[str, Any]).decode
        try:
            for batch in self._head_batches(TextHead(self._files, self._look_bytes)):
                values = [decode(line).get(column) for line in batch.lines]
                for index, value in enumerate(values):
                    if fault := extent.fault(value):
                        raise batch.broken(index, f"column {shown(column)!r}: {fault}")
                try:
                    found = nested_type(values, found)
                except TypeError:
                    self._blame(batch, values, found, column)
            return settled_nested_type(found)
        except TypeError as error:
            raise InputError(
                f"{self._files[0].name}: column {shown(column)!r} has no type: {shown(error)}; leave it out"
            ) from None

    @staticmethod
    def _blame(batch: "JsonlBatch", values: Sequence[Any], found: pa.DataType, column: str) -> None:
        for index, value in enumerate(values):
            try:
                found = nested_type([value], found)
            except TypeError:
                raise batch.broken(
                    index,
                    f"the list or object in column {shown(column)!r} holds other types than those before it; "
                    "a carried column needs one type",
                ) from None
        raise TypeError("its lists or objects hold different types")


@dataclass(frozen=True, slots=True)
class _Survey:
    kinds: Kinds
    head: Head


@dataclass(frozen=True, slots=True)
class JsonlBatch:
    """Lines that are not blank, not decoded yet, and their numbers. See `Batch`."""

    table: JsonlTable
    file: InputFile
    lines: Sequence[bytes]
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.lines)

    def part(self, start: int, stop: int | None = None) -> "JsonlBatch":
        """See `Batch`."""
        return JsonlBatch(self.table, self.file, self.lines[start:stop], self.numbers[start:stop])

    def keep(self, mask: Sequence[bool]) -> "JsonlBatch":
        """See `Batch`."""
        kept = [index for index, is_kept in enumerate(mask) if is_kept]
        lines, numbers = [self.lines[index] for index in kept], [self.numbers[index] for index in kept]
        return JsonlBatch(self.table, self.file, lines, numbers)

    def place(self, index: int) -> str:
        """See `Batch`."""
        return f"{self.file.name}:{self.numbers[index]}"

    def broken(self, index: int, fault: str) -> BrokenInputError:
        """See `Batch`."""
        return BrokenInputError(
            f"{self.place(index)}: {fault}", name=self.file.name, line=self.numbers[index], rows_good=index
        )

    def dicts(self, columns: Sequence[str], strict: Collection[str] = ()) -> list[dict[str, Any]]:
        """See `Batch`."""
        decode = self.table.decoder(columns, strict).decode
        try:
            records = list(map(decode, self.lines))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise self._first_broken(decode) from None
        for column in strict:
            if column in columns and pa.types.is_nested(arrow_type := self.table.type(column)):
                self._check_nested(records, column, arrow_type)
        return records

    def arrow(self, columns: Sequence[str]) -> pa.RecordBatch:
        """See `Batch`."""
        schema = self.table.schema(columns)
        records = self.dicts(columns, columns)
        arrays = [pa.array([record[field.name] for record in records], field.type) for field in schema]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _first_broken(self, decode: Any) -> BrokenInputError:
        for index, line in enumerate(self.lines):
            try:
                decode(line)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                return self.broken(index, json_fault(error))
        raise AssertionError("a line was broken a moment ago")

    def _check_nested(self, records: Sequence[dict[str, Any]], column: str, arrow_type: pa.DataType) -> None:
        for index, record in enumerate(records):
            if not fits(record[column], arrow_type):
                raise self.broken(
                    index,
                    f"column {shown(column)!r} does not fit its type so far ({shown(arrow_type)}); "
                    "a carried column has one type",
                )


def json_fault(error: Exception) -> str:
    """What is wrong with a line, in words, without its values."""
    if isinstance(error, UnicodeDecodeError):
        return "the line is not UTF-8; save the file as UTF-8"
    if isinstance(error, RecursionError):
        return "the JSON is nested too deeply"
    message = str(error)
    if missing := _MISSING.search(message):
        return f"column {shown(missing['column'])!r} is missing; write null where there is no value"
    if message.startswith("Expected `object`"):
        return "the line is not a JSON object; write one {...} a line, not one list around them"
    if mistyped := _MISTYPED.search(message):
        column = mistyped["path"].removeprefix(".") or "?"
        return f"column {shown(column)!r} does not fit its type so far: {mistyped['fault']}".replace("`", "")
    return f"the line is not valid JSON: {message}"

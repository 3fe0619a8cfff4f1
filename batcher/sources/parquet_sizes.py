"""How many records of a Parquet file may be decoded at once.

The footer tells how large a column is with its encoding, which says little about the memory it takes: a dictionary
of one text of 1 MB and two thousand numbers that point to it are 1 MB in the footer and 2 GB in memory. So a batch has
the fewest records that three measures allow:

| measure | bound of a batch |
|---|---|
| the mean record, as it is encoded | 4 MiB |
| the longest record, as far as its columns tell: longest dictionary entry, fixed width, mean of lists | 64 MiB |
| columns packed more than 50-fold, or encoded as differences: their records may be of very unequal size | 16 records |

Not bounded: one single record, one page (Arrow unpacks it whole), and a footer that lies about all of this.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batcher.sources.table import BATCH_BYTES_MAX, BATCH_ROWS_MAX

BUFFER_BYTES = 256 * 2**10
DECODED_BYTES_MAX = 64 * 2**20
_RECORDS_UNEQUAL_MAX = 16
_PACKED_MAX = 50
_SPAN_ROWS = 100_000
_SPAN_ROW_GROUPS_MAX = 1000
_VALUE_BYTES = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}
_DECIMAL_BYTES = 16
_DICTIONARIES = frozenset(("PLAIN_DICTIONARY", "RLE_DICTIONARY"))


@dataclass(frozen=True, slots=True)
class Span:
    """Row groups that are read together; `first` is the number of their first record in the file."""

    row_groups: list[int]
    first: int
    rows: int


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One column as it is stored: `width` is of a value in bytes, None where values are texts."""

    index: int
    path: str
    is_flat: bool
    width: int | None


def spans(metadata: pq.FileMetaData, start: int) -> Iterator[Span]:
    """The row groups that hold records from `start` on, about 100,000 records at a time."""
    row_groups: list[int] = []
    at = first = rows = 0
    for group in range(metadata.num_row_groups):
        count = metadata.row_group(group).num_rows
        if start < at + count:
            first = first if row_groups else at
            row_groups.append(group)
            rows += count
        at += count
        if rows >= _SPAN_ROWS or len(row_groups) >= _SPAN_ROW_GROUPS_MAX:
            yield Span(row_groups, first, rows)
            row_groups, rows = [], 0
    if row_groups:
        yield Span(row_groups, first, rows)


_Chunk = tuple[_Leaf, pq.ColumnChunkMetaData]
"""A stored column of one row group."""

LongestEntries = dict[tuple[int, str], int | None]
"""By row group and path of a stored column: the bytes of its dictionary's longest entry; None is not known."""


class BatchSizes:
    """How many records of some columns make a batch, for one row group after the other.

    Args:
        path: The file.
        metadata: Its footer.
        columns: Those to be read.
        known: What was found of the file's dictionaries before; added to. To look at one takes up to 15 MB, and when
            the results are written, and some columns read again, the memory of a run is at its peak.
    """

    def __init__(
        self, path: Path, metadata: pq.FileMetaData, columns: Sequence[str], known: LongestEntries | None = None
    ) -> None:
        self._path, self._metadata = path, metadata
        self._known = {} if known is None else known
        self._leaves = _leaves(metadata, frozenset(columns))

    def rows(self, span: Span) -> int:
        """The most records that a batch of these row groups may have: 1 to 1,000."""
        return min((self._group_rows(group) for group in span.row_groups), default=BATCH_ROWS_MAX)

    def _group_rows(self, number: int) -> int:
        group = self._metadata.row_group(number)
        rows = group.num_rows
        if rows == 0:
            return BATCH_ROWS_MAX
        chunks = [(leaf, group.column(leaf.index)) for leaf in self._leaves]
        longest = self._longest(number, chunks, rows)
        encoded_bytes = longest_bytes = unequal_bytes = packed_bytes = 0
        for leaf, chunk in chunks:
            size_bytes = chunk.total_uncompressed_size
            encoded_bytes += size_bytes
            value_bytes = longest.get(leaf.path, leaf.width) or 0
            # Texts that are in no dictionary take no more than their column does, but one may be most of it.
            decoded_bytes = size_bytes if leaf.width is None else 0
            if leaf.is_flat:
                longest_bytes += value_bytes
            else:
                decoded_bytes = max(decoded_bytes, value_bytes * chunk.num_values)
                longest_bytes += value_bytes * chunk.num_values // rows
            if decoded_bytes:
                unequal_bytes += decoded_bytes
                packed_bytes += chunk.total_compressed_size
        found: int = min(
            BATCH_ROWS_MAX,
            BATCH_BYTES_MAX * rows // max(1, encoded_bytes),
            DECODED_BYTES_MAX // max(1, longest_bytes),
        )
        if None in longest.values() or unequal_bytes > max(DECODED_BYTES_MAX, _PACKED_MAX * packed_bytes):
            found = min(found, _RECORDS_UNEQUAL_MAX)
        return max(1, found)

    def _longest(self, group: int, chunks: Sequence[_Chunk], rows: int) -> dict[str, int | None]:
        """By path of each column of texts: the bytes of the longest that many records may share; None: not known."""
        longest: dict[str, int | None] = {}
        asked: dict[str, int] = {}
        for leaf, chunk in chunks:
            if leaf.width is not None:
                continue
            values = min(rows, BATCH_ROWS_MAX) if leaf.is_flat else chunk.num_values
            # No entry is longer than its column: mostly that is all there is to know.
            if chunk.total_uncompressed_size * values * len(chunks) <= DECODED_BYTES_MAX:
                longest[leaf.path] = chunk.total_uncompressed_size
            elif "DELTA_BYTE_ARRAY" in chunk.encodings:
                longest[leaf.path] = None
            elif _DICTIONARIES.isdisjoint(chunk.encodings):
                longest[leaf.path] = 0
            else:
                asked[leaf.path] = chunk.total_uncompressed_size
        for path, size_bytes in asked.items():
            if (group, path) not in self._known:
                self._known[group, path] = self._longest_entry(group, path, size_bytes)
            longest[path] = self._known[group, path]
        return longest

    def _longest_entry(self, group: int, path: str, size_bytes: int) -> int | None:
        """The bytes of the longest entry of a column's dictionary, by reading it with the first record.

        One column at a time: a dictionary of 1 MB takes ten times as much while it is read.
        """
        try:
            with pq.ParquetFile(
                self._path, metadata=self._metadata, read_dictionary=[path], buffer_size=BUFFER_BYTES, pre_buffer=False
            ) as parquet:
                batch = next(parquet.iter_batches(1, [group], [path], use_threads=False), None)
        except (pa.ArrowException, OSError):
            # Reading the rows will tell what is wrong, and those before it come first.
            return None
        found = [] if batch is None else list(chain.from_iterable(map(_dictionaries, batch.columns)))
        if len(found) != 1:
            return None
        entry_bytes = _longest_text(found[0])
        return size_bytes if entry_bytes is None else entry_bytes


def _leaves(metadata: pq.FileMetaData, wanted: Collection[str]) -> list[_Leaf]:
    """The stored columns of the asked ones: "a" and all that is in it."""
    leaves = []
    for index in range(metadata.num_columns):
        column = metadata.schema.column(index)
        if _is_part_of(column.path, wanted):
            physical = column.physical_type
            width = max(column.length, _DECIMAL_BYTES) if physical == "FIXED_LEN_BYTE_ARRAY" else None
            is_flat = column.max_repetition_level == 0
            leaves.append(_Leaf(index, column.path, is_flat, _VALUE_BYTES.get(physical, width)))
    return leaves


def _is_part_of(path: str, wanted: Collection[str]) -> bool:
    end = len(path)
    while end >= 0:
        if path[:end] in wanted:
            return True
        end = path.rfind(".", 0, end)
    return False


def _dictionaries(array: pa.Array) -> Iterator[pa.Array | None]:
    """The dictionary of each stored column in an array, in order; None for one that has none."""
    types = pa.types
    if types.is_dictionary(array.type):
        yield array.dictionary
    elif types.is_list(array.type) or types.is_large_list(array.type) or types.is_map(array.type):
        yield from _dictionaries(array.values)
    elif types.is_struct(array.type):
        for index in range(array.type.num_fields):
            yield from _dictionaries(array.field(index))
    else:
        yield None


def _longest_text(entries: pa.Array | None) -> int | None:
    # A single entry may be the first text of a column that begins without its dictionary.
    if entries is None or len(entries) < 2:
        return None
    longest: int | None = pc.max(pc.binary_length(entries)).as_py()
    return longest

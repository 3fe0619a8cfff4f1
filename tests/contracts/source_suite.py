"""What every source keeps. A new one joins with a subclass that makes it:

class TestCsvSource(SourceSuite):
    def make(self, directory): return FileSource.open(InputSpec(("rows.csv",), directory, key="id"))
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from batcher.core.records import Row


class SourceSuite:
    """Subclass, name it Test..., and give `make`; `rows_expected` is how many rows that source has.

    `table_columns` are columns that a source with `tables` is asked for; leave it empty where there are none.
    """

    rows_expected: int
    rows_max: int = 1000
    table_columns: Sequence[str] = ()

    def make(self, directory: Path) -> Any:
        """A source with more than `rows_max` rows, so that it has several batches."""
        raise NotImplementedError

    @pytest.fixture
    def source(self, tmp_path: Path) -> Any:
        return self.make(tmp_path)

    def test_indexes_begin_at_zero_and_have_no_gap(self, source: Any) -> None:
        """The journal names rows by index: a gap would be a row that is never asked."""
        assert list(range(self.rows_expected)) == [row.index for row in all_rows(source)]

    def test_batches_are_bounded_and_never_empty(self, source: Any) -> None:
        """Memory holds a few batches, so their size is the size of the program."""
        sizes = [len(batch) for batch in source.rows()]
        assert len(sizes) > 1
        assert min(sizes) > 0
        assert max(sizes) <= self.rows_max

    def test_rows_are_the_same_when_read_again(self, source: Any) -> None:
        """A resumed run reads the same rows under the same indexes."""
        assert all_rows(source) == all_rows(source)

    def test_two_readers_do_not_disturb_each_other(self, source: Any) -> None:
        """The results are written from the input while nobody promises that all readers are closed."""
        first, second = chain.from_iterable(source.rows()), chain.from_iterable(source.rows())
        assert all(one == other for one, other in zip(first, second, strict=True))

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.99, 1.0, 2.0])
    def test_start_gives_the_tail(self, source: Any, share: float) -> None:
        """A run that goes on begins behind the rows it has, anywhere inside a batch."""
        start = int(self.rows_expected * share)
        assert all_rows(source)[start:] == all_rows(source, start)

    def test_columns_are_plain_python(self, source: Any) -> None:
        """Templates and JSON know no Arrow scalar."""
        for row in all_rows(source)[:10]:
            assert all(type(value).__module__ in {"builtins", "datetime", "decimal"} for value in row.columns.values())

    def test_tables_are_aligned_with_rows(self, source: Any) -> None:
        """Results put carried columns beside the outcome of the same row."""
        if not self.table_columns:
            pytest.skip("this source gives no tables")
        schema = source.schema(self.table_columns)
        for start in (0, self.rows_expected // 2, self.rows_expected):
            tables = list(source.tables(self.table_columns, start))
            assert all(table.schema.equals(schema) for table in tables)
            records = list(chain.from_iterable(table.to_pylist() for table in tables))
            expected = [
                {column: row.columns[column] for column in self.table_columns} for row in all_rows(source, start)
            ]
            assert expected == records


def all_rows(source: Any, start: int = 0) -> list[Row]:
    return list(chain.from_iterable(source.rows(start)))

"""The set of rows: one bit a row, and every question answered as a set of ints would."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.journal.rowset import RowSet

rows = st.integers(0, 300)


def row_set(members) -> RowSet:
    made = RowSet()
    for row in members:
        made.add(row)
    return made


@given(st.lists(st.tuples(st.sampled_from(["add", "discard"]), rows)))
def test_it_equals_a_set_of_ints(steps) -> None:
    """Adding and discarding in any order leaves the same members, the same count and the same answers."""
    model: set[int] = set()
    tried = RowSet()
    for step, row in steps:
        if step == "add":
            assert (row not in model) == tried.add(row)
            model.add(row)
        else:
            assert (row in model) == tried.discard(row)
            model.discard(row)

    assert sorted(model) == list(tried)
    assert len(model) == len(tried)
    assert [row for row in range(320) if row not in model] == list(tried.missing(320))


@given(st.sets(rows), rows, rows)
def test_a_range_is_its_rows(members, one, other) -> None:
    """Adding a range at once is adding its rows one by one, edges inside a byte included."""
    start, stop = sorted((one, other))
    tried = row_set(members)

    assert any(row in members for row in range(start, stop)) == tried.overlaps(start, stop)
    assert len(set(range(start, stop)) - members) == tried.add_range(start, stop)
    assert sorted(members | set(range(start, stop))) == list(tried)
    assert len(members | set(range(start, stop))) == len(tried)


@given(st.sets(rows), rows)
def test_first_missing_from_any_start(members, start) -> None:
    """The engine begins at the first row without an outcome, wherever it looks from."""
    expected = next(row for row in range(start, 302) if row not in members)
    assert expected == row_set(members).first_missing(start)


def test_a_negative_row_is_no_row() -> None:
    """Python would take -1 for the last byte; the set must not."""
    tried = row_set([7])

    assert -1 not in tried
    with pytest.raises(ValueError, match="negative"):
        tried.add(-1)


def test_it_may_grow_while_it_is_read() -> None:
    """The engine walks through missing rows while outcomes come in."""
    tried = row_set([0])
    walk = iter(tried)
    next(walk)
    tried.add(100_000)
    assert [100_000] == list(walk)


def test_a_hundred_million_rows_take_an_eighth_of_a_byte_each() -> None:
    """12.5 MB for 100 million rows, and a range of them costs no loop."""
    tried = RowSet()
    tried.add_range(0, 100_000_000)

    assert 100_000_000 == tried.first_missing()
    assert 12_500_000 == len(tried._bits)


@given(st.sets(rows), st.sets(rows))
def test_rows_that_lie_apart_are_taken_in_together(there, new) -> None:
    """A segment in no order is taken in as it would be row by row."""
    tried = row_set(there)

    assert bool(there & new) == tried.has_any(sorted(new))
    tried.add_new(sorted(new - there))
    assert (sorted(there | new), len(there | new)) == (list(tried), len(tried))

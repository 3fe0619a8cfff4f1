"""Turns to make a connection: bounded, first come first served, and nothing is lost with who gives up."""

import asyncio

import pytest

from batcher.providers.http1_turns import Turns
from batcher.testing.clock import settle


class Fake:
    """A connection, as far as turns know one."""

    def __init__(self, turns: Turns, *, is_open: bool = True) -> None:
        self.turns, self.is_open = turns, is_open
        self.is_left = False

    def free_again(self) -> None:
        self.is_left = not self.turns.offer(self)


async def waiting(turns: Turns, count: int) -> list[asyncio.Task]:
    tasks = [asyncio.create_task(turns.take(1.0)) for _ in range(count)]
    await settle()
    return tasks


async def test_so_many_connections_are_made_at_once_and_who_waits_longest_is_next() -> None:
    turns = Turns(2)
    tasks = await waiting(turns, 5)
    assert [True, True, False, False, False] == [task.done() for task in tasks]

    turns.give_back()
    await settle()
    assert [True, True, True, False, False] == [task.done() for task in tasks]
    for _ in range(4):
        turns.give_back()
        await settle()
    assert [None] * 5 == [task.result() for task in tasks]
    assert (0, 0) == (turns.taken, turns.waiting)


async def test_a_free_connection_goes_to_who_waits_longest_and_to_nobody_where_nobody_waits() -> None:
    """Otherwise calls that begin later would take it away, for as long as there are such calls."""
    turns = Turns(1)
    connection = Fake(turns)
    assert not turns.offer(connection)
    first, second, third = await waiting(turns, 3)

    assert turns.offer(connection)
    await settle()

    assert (None, connection, False) == (first.result(), second.result(), third.done())
    third.cancel()
    await settle()
    assert not turns.offer(connection)


async def test_a_connection_that_closed_on_the_way_is_waited_for_again() -> None:
    turns = Turns(1)
    _, late = await waiting(turns, 2)
    closed = Fake(turns)
    assert turns.offer(closed)
    closed.is_open = False
    await settle()
    assert not late.done()

    turns.give_back()
    await settle()
    assert late.result() is None


@pytest.mark.parametrize("gift", ["turn", "connection", "closed connection"])
async def test_what_came_in_the_turn_of_the_loop_in_which_the_call_was_cancelled_goes_to_the_next(gift) -> None:
    turns = Turns(1)
    _, given_up, last = await waiting(turns, 3)
    connection = Fake(turns)

    if gift == "turn":
        turns.give_back()
    else:
        turns.offer(connection)
    connection.is_open = gift != "closed connection"
    given_up.cancel()
    await settle()

    assert given_up.cancelled()
    if gift == "closed connection":
        assert not last.done()
        turns.give_back()
        await settle()
    assert (connection if gift == "connection" else None) is last.result()
    turns.give_back()
    assert (0, 0, False) == (turns.taken, turns.waiting, connection.is_left)


async def test_a_wait_ends_when_its_time_is_over_and_takes_nothing_along() -> None:
    turns = Turns(1)
    (_, late) = await waiting(turns, 2)
    longer = asyncio.create_task(turns.take(2.0))
    await settle()

    turns.end_late(1.5)
    await settle()

    with pytest.raises(TimeoutError):
        late.result()
    assert (False, 1) == (longer.done(), turns.waiting)
    turns.give_back()
    await settle()
    assert longer.result() is None
    turns.give_back()
    assert (0, 0) == (turns.taken, turns.waiting)


async def test_a_wait_that_is_cancelled_as_its_time_is_over_is_cancelled() -> None:
    turns = Turns(1)
    (_, late) = await waiting(turns, 2)
    turns.end_late(1.0)
    late.cancel()
    await settle()
    assert late.cancelled()

"""Which client carries a call."""

import pytest

from batcher.providers.lanes import Lanes


class Client:
    async def close(self) -> None: ...


def test_no_connection_carries_more_calls_than_a_server_takes() -> None:
    """The 101st call on a connection would wait for one of the others, however fast the server is."""
    lanes = Lanes(Client, calls_max=100)

    taken = [lanes.take() for _ in range(1000)]

    assert 10 == len(lanes)
    assert 10 == len({id(lane) for lane in taken})
    assert all(lane.calls == 100 for lane in taken)


def test_a_place_that_was_given_back_is_taken_before_a_new_client_is_opened() -> None:
    """And the first lane before the last, so that a quieter hour needs fewer connections."""
    lanes = Lanes(Client, calls_max=2)
    first, _, third = lanes.take(), lanes.take(), lanes.take()
    lanes.give(third)
    lanes.give(first)

    assert first is lanes.take()
    assert third is lanes.take()
    assert 2 == len(lanes)


def test_with_a_connection_for_each_call_one_client_is_enough() -> None:
    """Over HTTP/1.1 its own pool is as large as it must be, and shared by all calls."""
    lanes = Lanes(Client, calls_max=2)
    before = [lanes.take() for _ in range(5)]
    lanes.widen()

    assert 1 == len({id(lanes.take()) for _ in range(50)})
    assert 3 == len(list(lanes.clients())), "those opened before are closed with the others"
    for lane in before:
        lanes.give(lane)
    assert [50, 0, 0] == sorted((lane.calls for lane in {*before}), reverse=True)


def test_a_retired_client_gets_no_new_call_and_is_to_be_closed_after_its_last() -> None:
    """Its machine is asked no more, and what it was asked already is worth an answer."""
    opened: list[Client] = []
    lanes = Lanes(lambda: opened.append(Client()) or opened[-1], calls_max=2)
    busy, also_busy, idle = lanes.take(), lanes.take(), lanes.take()
    assert not lanes.give(idle), "not retired"

    assert [opened[1]] == lanes.retire(), "one without a call is to be closed at once"
    new = lanes.take()
    assert opened[2] is new.client
    assert {opened[0], opened[2]} == set(lanes.clients()), "all that are open are closed with the exchange"

    assert [False, True] == [lanes.give(busy), lanes.give(also_busy)]
    assert not lanes.give(new)
    assert [opened[2]] == list(lanes.clients())


def test_that_no_client_can_be_opened_retires_none() -> None:
    """A file may be gone: what is open goes on."""
    lanes = Lanes(Client, calls_max=2)
    before = lanes.take()
    lanes._open = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        lanes.retire()

    assert lanes.take() is before
    assert not before.is_retired

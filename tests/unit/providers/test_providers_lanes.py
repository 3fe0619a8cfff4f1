"""Which client carries a call."""

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

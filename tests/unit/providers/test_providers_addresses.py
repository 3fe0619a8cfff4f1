"""What is known of a host's addresses: looked up once for all who ask, raced once, forgotten where it failed."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
from networks import Names, mute_port

from batcher.providers.addresses import Addresses, is_literal, is_whole
from batcher.providers.http1 import Http1Client
from batcher.providers.http1_errors import ConnectFailed

RACE_S = 5.0


@pytest.fixture
def listening() -> Iterator[int]:
    """The port of a server on 127.0.0.1, and on no other address of this machine."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


async def chosen(addresses: Addresses, *, anew: bool = False) -> str:
    loop = asyncio.get_running_loop()
    return str((await addresses.choose(loop, anew=anew, race_s=RACE_S))[4][0])


async def test_a_thousand_who_ask_at_once_wait_for_one_answer() -> None:
    """Resolvers answer a burst with "try again", and each lookup of the system holds a thread."""
    names = Names(fleet_test=["127.0.0.1"])
    addresses, loop = Addresses("fleet.test", 443), asyncio.get_running_loop()

    found = await asyncio.gather(*(addresses.look_up(loop) for _ in range(1000)))
    later = await addresses.look_up(loop)

    assert {"127.0.0.1"} == {one[0][4][0] for one in [*found, later]}
    assert ["fleet.test"] == names.asked


async def test_a_failure_is_told_to_all_who_wait_and_the_next_asks_again() -> None:
    """One after the other, a thousand failures of a slow resolver take hours."""
    names = Names()
    addresses, loop = Addresses("fleet.test", 443), asyncio.get_running_loop()

    told = await asyncio.gather(*(addresses.look_up(loop) for _ in range(1000)), return_exceptions=True)
    names.means["fleet.test"] = ["127.0.0.1"]
    found = await addresses.look_up(loop)

    assert {socket.gaierror} == {type(one) for one in told}
    assert "127.0.0.1" == found[0][4][0]
    assert 2 == len(names.asked)


async def test_the_plain_client_tells_a_slow_failure_to_all_its_calls() -> None:
    """Calls that look up by turns would be late instead, with the wrong words."""
    names = Names()
    one = Http1Client(
        "http://fleet.test/v1", headers={}, timeout_s=0.5, connect_timeout_s=0.5, body_bytes_max=9, error_bytes_max=9
    )

    told = await asyncio.gather(*(one.post(b"{}") for _ in range(100)), return_exceptions=True)
    await one.close()

    assert {ConnectFailed} == {type(error) for error in told}
    assert 1 == len(names.asked)


async def test_who_gives_up_does_not_take_the_answer_from_the_others() -> None:
    """A hedged call's loser is cancelled at any moment."""
    names = Names(fleet_test=["127.0.0.1"])
    addresses, loop = Addresses("fleet.test", 443), asyncio.get_running_loop()
    first = asyncio.ensure_future(addresses.look_up(loop))
    others = [asyncio.ensure_future(addresses.look_up(loop)) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()

    assert 3 == len(await asyncio.gather(*others))
    assert first.cancelled()
    assert 1 == len(names.asked)


async def test_what_was_found_is_believed_for_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a changed record is seen."""
    names = Names(fleet_test=["127.0.0.1"])
    addresses, loop = Addresses("fleet.test", 443), asyncio.get_running_loop()
    await addresses.look_up(loop)
    names.means["fleet.test"] = ["127.0.0.2"]
    now_s = loop.time
    monkeypatch.setattr(loop, "time", lambda: now_s() + 29.5)
    kept = await addresses.look_up(loop)
    monkeypatch.setattr(loop, "time", lambda: now_s() + 30.5)
    anew = await addresses.look_up(loop)

    assert ("127.0.0.1", "127.0.0.2", 2) == (kept[0][4][0], anew[0][4][0], len(names.asked))


async def test_an_address_stays_in_use_for_some_minutes_after_the_name_meant_it(monkeypatch) -> None:
    """A large service names a few of its machines, each time others; not each answer may cost all connections."""
    names = Names(fleet_test=["127.0.0.1"])
    addresses, loop = Addresses("fleet.test", 443), asyncio.get_running_loop()
    now_s, found = loop.time, []
    for at_s, means in ((0, "127.0.0.1"), (31, "127.0.0.2"), (62, "127.0.0.1"), (361, "127.0.0.2"), (393, "127.0.0.2")):
        names.means["fleet.test"] = [means]
        monkeypatch.setattr(loop, "time", lambda at_s=at_s: now_s() + at_s)
        found.append(await chosen(addresses))

    assert [*["127.0.0.1"] * 4, "127.0.0.2"] == found
    assert 5 == len(names.asked)


async def test_of_several_addresses_the_one_that_answers_is_taken_and_raced_for_once(listening: int) -> None:
    """The first refuses here; whoever asks meanwhile waits for the same race."""
    names = Names(fleet_test=["127.0.0.2", "127.0.0.1"])
    addresses = Addresses("fleet.test", listening)
    races = []
    race = addresses.race
    addresses.race = lambda *args: races.append(1) or race(*args)

    found = await asyncio.gather(*(chosen(addresses) for _ in range(100)))

    assert ({"127.0.0.1"}, "127.0.0.1") == (set(found), await chosen(addresses))
    assert (1, 1) == (len(races), len(names.asked))
    assert ["127.0.0.1", "127.0.0.2"] == [one[4][0] for one in await addresses.look_up(asyncio.get_running_loop())]


async def test_an_address_that_hangs_loses_the_race(listening: int) -> None:
    """The system would wait for two minutes."""
    Names(fleet_test=["127.0.0.2", "127.0.0.1"])
    with mute_port("127.0.0.2", listening):
        async with asyncio.timeout(3):
            assert "127.0.0.1" == await chosen(Addresses("fleet.test", listening))


async def test_a_race_that_nobody_wins_has_an_end() -> None:
    """And its failure is told to all who wait for it."""
    Names(fleet_test=["127.0.0.2", "127.0.0.1"])
    with mute_port("127.0.0.1") as port, mute_port("127.0.0.2", port):
        addresses, loop = Addresses("fleet.test", port), asyncio.get_running_loop()
        async with asyncio.timeout(3):
            told = await asyncio.gather(
                *(addresses.choose(loop, race_s=0.6) for _ in range(50)), return_exceptions=True
            )
    assert {TimeoutError} == {type(error) for error in told}


async def test_addresses_that_all_refuse_say_so() -> None:
    """In the words of the system, by which the failure's kind is told."""
    Names(fleet_test=["127.0.0.2", "127.0.0.1"])
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(OSError, match=r"Errno 111|Connection refused"):
        await chosen(Addresses("fleet.test", port))


async def test_after_a_failure_the_name_is_asked_again_once_for_all_who_failed(listening: int) -> None:
    """A thousand connections fail together when a machine goes."""
    names = Names(fleet_test=["127.0.0.2"])
    addresses = Addresses("fleet.test", listening)
    first = await chosen(addresses)
    names.means["fleet.test"] = ["127.0.0.1"]

    then = await asyncio.gather(*(chosen(addresses, anew=True) for _ in range(1000)))

    assert ("127.0.0.2", {"127.0.0.1"}) == (first, set(then))
    assert 2 == len(names.asked)


async def test_who_fails_while_the_others_look_takes_nothing_from_them(listening: int) -> None:
    """What is found then is newer than the failure."""
    names = Names(fleet_test=["127.0.0.2", "127.0.0.1"])
    addresses = Addresses("fleet.test", listening)
    with mute_port("127.0.0.2", listening):
        first = asyncio.ensure_future(chosen(addresses, anew=True))
        await asyncio.sleep(0.1)
        second = await chosen(addresses, anew=True)
        third = await chosen(addresses)

    assert ["127.0.0.1"] * 3 == [await first, second, third]
    assert 1 == len(names.asked)


async def test_closing_ends_what_is_under_way_and_begins_no_more() -> None:
    """A resolver may be silent for half a minute."""
    names = Names(fleet_test=["127.0.0.1"])
    names.silent = True
    addresses, loop = Addresses("fleet.test", 443), asyncio.get_running_loop()
    waiting = [asyncio.ensure_future(chosen(addresses)), asyncio.ensure_future(addresses.look_up(loop))]
    await asyncio.sleep(0.01)
    addresses.close()
    told = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 1)

    assert ["the client is closed"] * 2 == [str(error) for error in told]
    with pytest.raises(OSError, match="the client is closed"):
        await chosen(addresses)
    assert 1 == len(names.asked)


@pytest.mark.parametrize("host", ["fleet..test", f"{'x' * 64}.test"])
async def test_a_name_that_is_none_is_an_unknown_one(host: str) -> None:
    """Python has an error of another kind for it, which would end the run."""
    with pytest.raises(socket.gaierror):
        await Addresses(host, 443).look_up(asyncio.get_running_loop())


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("2001:db8::7", True), ("localhost", False), ("1.2.3", False), ("", False)],
)
def test_an_address_is_told_from_a_name(host: str, expected: bool) -> None:
    """There is nothing to look up."""
    assert expected == is_literal(host)


def test_an_address_with_the_number_of_a_network_card_is_not_whole() -> None:
    """`fe80::1` means another machine on each card."""
    link_local = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 443, 0, 2))
    assert not is_whole(link_local)
    assert is_whole((socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::7", 443, 0, 0)))
    assert is_whole((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 443)))

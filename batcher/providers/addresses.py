"""What is known of the addresses of one host and port, for clients that connect to it again and again.

A name is looked up once for all who ask at the same time, kept for 30 s, and forgotten where a connection failed: it
may mean another machine by now. Of several addresses the one that was reached last is taken while the name means it,
and for five minutes more; which can be reached is decided by a race (happy eyeballs, RFC 8305). A client that leaves
this to each connection asks the resolver a thousand times when a thousand calls begin, and resolvers answer such a
burst with "try again".

It looks up and it races; how long a call waits for that, and what a failure means, is for the client to say.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

import aiohappyeyeballs

KEPT_S = 30.0
"""So long an answer of the resolver is believed; how long the name's owner lets it be kept does not come through."""

STAYS_S = 300.0
"""So long an address stays in use that the name no longer means: the answers of large services name a few of their
machines, each time others, and each change would cost all connections. One that cannot be reached is left at once."""

_EYEBALLS_DELAY_S = 0.25  # RFC 8305, section 5

Address = aiohappyeyeballs.AddrInfoType
T = TypeVar("T")


class Addresses:
    """The addresses of one host and port.

    Args:
        host: A name in ASCII, or an address without brackets.
        port: Of the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._found: Sequence[Address] = ()
        self._until_s = self._stays_until_s = 0.0
        self._looking: _Shared[Sequence[Address]] = _Shared()
        self._choosing: _Shared[Address] = _Shared()
        self.reached: Address | None = None
        """The address that was reached last; None where none was, or a connection failed since."""

    async def look_up(self, loop: asyncio.AbstractEventLoop) -> Sequence[Address]:
        """All addresses, at least one; the winner of a race is the first until they are looked up again.

        Raises:
            OSError: The name cannot be looked up (`socket.gaierror`), or this was closed.
        """
        if self._found and loop.time() < self._until_s:
            return self._found
        return await self._looking.run(lambda: self._ask(loop))

    async def race(self, loop: asyncio.AbstractEventLoop, addresses: Sequence[Address]) -> socket.socket:
        """A connection to the address that answers first, which is then the reached one.

        Raises:
            OSError: None can be reached.
        """
        sock = await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=_EYEBALLS_DELAY_S, interleave=1, loop=loop
        )
        try:
            self._remember(sock, addresses)
        except BaseException:
            sock.close()
            raise
        return sock

    async def choose(self, loop: asyncio.AbstractEventLoop, *, anew: bool = False, race_s: float) -> Address:
        """The one address to connect to: the reached one while the name means it, else the winner of a race.

        A single address needs no race. All who ask at the same time wait for one answer, or for one failure.

        Args:
            loop: That runs.
            anew: A connection failed; nothing is believed that was known before.
            race_s: The end of a race, if nobody answers.

        Raises:
            OSError: The name cannot be looked up, none of several addresses was reached in time, or this was closed.
        """
        if anew and not self._choosing.is_running:
            self.forget()
        return await self._choosing.run(lambda: self._choose(loop, race_s))

    def forget(self) -> None:
        """A connection failed: look up anew, and take no address on trust."""
        self._found, self.reached = (), None

    def close(self) -> None:
        """End what is under way, and begin no more; who waits for it gets an OSError."""
        self._looking.close()
        self._choosing.close()

    async def _ask(self, loop: asyncio.AbstractEventLoop) -> Sequence[Address]:
        try:
            found = self._found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            # Python's word for a label that is empty, or longer than 63 characters.
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from error
        self._until_s = loop.time() + KEPT_S
        return found

    async def _choose(self, loop: asyncio.AbstractEventLoop, race_s: float) -> Address:
        found = await self.look_up(loop)
        if self.reached is not None:
            if self.reached in found:
                self._stays_until_s = loop.time() + STAYS_S
            if loop.time() < self._stays_until_s:
                return self.reached
        if len(found) == 1:
            self.reached = found[0]
        else:
            async with asyncio.timeout(race_s):
                sock = await self.race(loop, found)
            sock.close()
        self._stays_until_s = loop.time() + STAYS_S
        return self.reached or found[0]

    def _remember(self, sock: socket.socket, addresses: Sequence[Address]) -> None:
        peer = sock.getpeername()
        for address in addresses:
            if address[4] == peer:
                self.reached = address
                if address in self._found:
                    self._found = (address, *(other for other in self._found if other != address))


class _Shared(Generic[T]):
    """One run of a coroutine for all who wait for it at the same time: they share its result, or its failure.

    With a lock in its place, a thousand calls would wait for a thousand failures, one after the other.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[T] | None = None
        self._is_closed = False

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def run(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the run under way gives, or a new one; who is cancelled does not end it for the others."""
        task = self._task
        if not self._is_closed and (task is None or task.done()):
            task = self._task = asyncio.ensure_future(start())
            task.add_done_callback(_look_at)
        if task is not None:
            await asyncio.wait((task,))
        if task is None or self._is_closed:
            raise OSError("the client is closed")
        return task.result()

    def close(self) -> None:
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()


def _look_at(task: "asyncio.Task[Any]") -> None:
    """All who waited may have been cancelled: then its failure is nobody's, and asyncio would complain."""
    if not task.cancelled():
        task.exception()


def is_literal(host: str) -> bool:
    """Whether a host is an address already, without brackets, so that there is nothing to look up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_whole(address: Address) -> bool:
    """Whether an address is whole without the number of a network card (IPv6, link-local)."""
    return len(address[4]) < 4 or not address[4][3]

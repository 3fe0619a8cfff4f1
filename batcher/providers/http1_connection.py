"""One HTTP/1.1 connection: one request out, one response back, and again.

It holds no timer and no task. Whoever owns it (`http1.Http1Client`) is told of its beginning, of its
being free and of its end, and ends it when its time is over.
"""

import asyncio
import select
import socket
from typing import Protocol, cast

from batcher.providers.http1_errors import AnswerTimeout, BrokenHead, ConnectFailed, ConnectionClosed, Http1Error
from batcher.providers.http1_parse import CUT, Http1Response, ResponseReader

# Up to this a body is copied behind its head, which costs less than handing over two pieces.
_JOINED_BYTES_MAX = 64 * 2**10
_CLOSED = "the connection was closed before an answer came"
_CLOSED_UNSENT = "the connection was closed before the request was sent"


class Owner(Protocol):
    """Who is told."""

    def made(self, connection: "Connection") -> None:
        """The connection stands."""
        ...

    def freed(self, connection: "Connection") -> None:
        """The connection can take the next request."""
        ...

    def unfreed(self, connection: "Connection") -> None:
        """The connection, perhaps free, is no longer to be used."""
        ...

    def lost(self, connection: "Connection") -> None:
        """The connection is closed."""
        ...


class Connection(asyncio.Protocol):
    """A connection; `is_free` between two exchanges.

    Attributes:
        until_s: In the loop's time: the deadline of the exchange, or of its being free.
    """

    __slots__ = ("_answer", "_owner", "_reader", "_transport", "_unsent", "until_s")

    def __init__(self, owner: Owner, *, body_bytes_max: int, error_bytes_max: int) -> None:
        self._owner = owner
        self._reader = ResponseReader(body_bytes_max=body_bytes_max, error_bytes_max=error_bytes_max)
        self._answer: asyncio.Future[Http1Response] | None = None
        self._unsent: tuple[bytes, ...] = ()
        self.until_s = 0.0

    @property
    def is_free(self) -> bool:
        """Whether no exchange is under way."""
        return self._answer is None

    @property
    def is_open(self) -> bool:
        """Whether nobody has closed it, as far as the loop knows."""
        return not self._transport.is_closing()

    @property
    def socket(self) -> socket.socket:
        """For its options and its number; the loop reads and writes."""
        found: socket.socket = self._transport.get_extra_info("socket")
        return found

    def is_quiet(self) -> bool:
        """Whether it still stands by the kernel's word: neither its end nor a byte is waiting."""
        poll = select.poll()
        poll.register(self.socket.fileno(), select.POLLIN)
        return not poll.poll(0)

    def ask(self, head: bytes, body: bytes, answer: "asyncio.Future[Http1Response]", until_s: float) -> None:
        """Take a request, which `send` sends; `answer` gets its response, or an `Http1Error`.

        A connection that ends between the two was no connection: the error is `ConnectFailed`.
        """
        self._answer = answer
        self.until_s = until_s
        if len(body) <= _JOINED_BYTES_MAX:
            self._unsent = (b"%b%d\r\n\r\n%b" % (head, len(body), body),)
        else:
            self._unsent = (b"%b%d\r\n\r\n" % (head, len(body)), body)

    def send(self) -> None:
        """Send the request that was taken, if somebody still waits for its answer."""
        if self._answer is not None and self.is_open:
            unsent, self._unsent = self._unsent, ()
            for piece in unsent:
                self._transport.write(piece)

    def give_up(self, answer: "asyncio.Future[Http1Response]") -> None:
        """Nobody waits for this answer any more: the connection is closed, since the answer would be another's."""
        if self._answer is answer:
            self._answer = None
            self.drop()

    def expire(self) -> None:
        """The time for an exchange is over."""
        # An error status says more than that its words did not end.
        if self._reader.has_error:
            self._give(CUT)
        else:
            self._fail(AnswerTimeout("no whole answer in time"))

    def fail(self, words: str) -> None:
        """End the exchange, if there is one, and the connection."""
        self._fail(ConnectionClosed(words))

    def drop(self) -> None:
        """Close the connection at once; what is unread stays unread."""
        self._owner.unfreed(self)
        self._transport.abort()

    def free_again(self) -> None:
        """Who was given this connection did not use it."""
        self._owner.freed(self)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being of that class
        self._owner.made(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._answer is None or self._unsent:
            # Nobody asked, or not yet: whatever it is, an answer could not be told from it.
            self.fail(_CLOSED)
            return
        try:
            if not self._reader.feed(data):
                return
        except BrokenHead as error:
            self._fail(error)
        else:
            self._give(None)

    def eof_received(self) -> None:
        """See `asyncio.Protocol`; the transport closes itself after it."""
        self._owner.unfreed(self)
        if self._answer is not None and self._reader.has_head:
            self._give(None if self._reader.ends_with_connection() else CUT)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if self._answer is not None:
            if self._reader.has_head:
                self._give(CUT)
            elif self._reader.has_begun:
                self._fail(BrokenHead("the response's head was cut"), exc)
            else:
                self._fail(ConnectionClosed(_CLOSED), exc)
        self._owner.lost(self)
        self._reader.close()

    def _give(self, fault: str | None) -> None:
        answer, self._answer = self._answer, None
        assert answer is not None  # nothing is given that nobody asked for
        response = self._reader.take(fault)
        # A response that overtakes its request leaves a server that does not read on.
        if self._reader.keeps_alive and not self._transport.get_write_buffer_size():
            self._owner.freed(self)
        else:
            self.drop()
        if not answer.done():
            answer.set_result(response)

    def _fail(self, error: Http1Error, cause: Exception | None = None) -> None:
        answer, self._answer = self._answer, None
        self.drop()
        if self._unsent:
            error = ConnectFailed(_CLOSED_UNSENT)
        if answer is not None and not answer.done():
            error.__cause__ = cause
            answer.set_exception(error)

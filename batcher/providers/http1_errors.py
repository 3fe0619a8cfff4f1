"""How an HTTP/1.1 exchange fails, told by what the server can have seen of the request.

    Http1Error
    ├── ConnectFailed       there was no connection: nothing was sent, nothing can be billed
    │   └── ConnectTimedOut     none in time
    ├── ConnectionClosed    the request was sent, or begun, and no byte of an answer came
    ├── AnswerTimeout       the request was sent, and there was no whole answer in time
    ├── BrokenHead          an answer began that is no HTTP/1.1
    └── BrokenContent       a 200 whose body is cut, too large or not readable; keeps what came of it

Only standard library here, so that whoever tells kinds apart loads no HTTP client.
"""

from collections.abc import Mapping


class Http1Error(Exception):
    """Base of all failures of `Http1Client.post`."""


class ConnectFailed(Http1Error):  # noqa: N818  # named for what happened
    """No connection: refused, unreachable, no such name, or the client is closed. Nothing was sent."""


class ConnectTimedOut(ConnectFailed):
    """No connection in time. Nothing was sent."""


class ConnectionClosed(Http1Error):  # noqa: N818  # named for what happened
    """The server closed or reset the connection before an answer began; it may have served the request."""


class AnswerTimeout(Http1Error):  # noqa: N818  # named for what happened
    """No whole answer in time; the server may still be at work."""


class BrokenHead(Http1Error):  # noqa: N818  # named for what happened
    """What came is not the head of an HTTP/1.1 response, or is too long for one, or was cut."""


class BrokenContent(Http1Error):  # noqa: N818  # named for what happened
    """The head of a 200 came, its body did not: cut, not decodable, or larger than its bound.

    `headers` are the response's, names in any case. `received` is what came of the body, decompressed;
    empty where it is larger than its bound.
    """

    def __init__(self, message: str, *, headers: Mapping[str, str], received: bytes = b"") -> None:
        super().__init__(message)
        self.headers = headers
        self.received = received

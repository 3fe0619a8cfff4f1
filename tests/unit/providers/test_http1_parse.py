"""Responses from bytes: any cut into pieces reads the same, nothing is laxer than the standard, all is bounded."""

import gzip
import zlib
from collections.abc import Iterable
from itertools import pairwise, repeat

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from batcher.providers.http1_content import decode
from batcher.providers.http1_errors import BrokenHead
from batcher.providers.http1_parse import (
    CUT,
    HEAD_BYTES_MAX,
    HEAD_LINES_MAX,
    Headers,
    Http1Response,
    ResponseReader,
)

TEXT = "ดี tốt 好 🙂".encode()
OK = b"HTTP/1.1 200 OK\r\n"


def reader(body_bytes_max: int = 2**20, error_bytes_max: int = 1000) -> ResponseReader:
    return ResponseReader(body_bytes_max=body_bytes_max, error_bytes_max=error_bytes_max)


def read(*pieces: bytes) -> tuple[Http1Response, bool]:
    """The response that is whole with the last piece, and whether the connection can be used again."""
    one = reader()
    *before, last = [one.feed(piece) for piece in pieces]
    assert (last, any(before)) == (True, False)
    return one.take(), one.keeps_alive


def feed_all(one: ResponseReader, pieces: Iterable[bytes]) -> bool:
    """Whether a response was whole with any piece."""
    return [one.feed(piece) for piece in pieces].count(True) > 0


def length(body: bytes, *headers: bytes, status: bytes = b"200 OK", version: bytes = b"1.1") -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"HTTP/%b %b\r\n%bcontent-length: %d\r\n\r\n%b" % (version, status, lines, len(body), body)


def chunked(*parts: bytes, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts if part)
    return OK + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailers + b"\r\n"


INFORMATIONAL = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n"
WHOLE = st.one_of(
    st.binary(max_size=300).map(length),
    st.lists(st.binary(max_size=80), max_size=6).map(lambda parts: chunked(*parts)),
    st.lists(st.binary(max_size=80), max_size=6).map(
        lambda parts: chunked(*parts, extension=b";a=b", trailers=b"x-sum: 1\r\nx-more: 2\r\n")
    ),
    st.binary(max_size=80).map(lambda body: INFORMATIONAL + length(body)),
    st.binary(max_size=80).map(lambda body: length(body, "x-name: ชื่อ tên 名".encode(), b"X-A: 1", b"x-a: 2")),
    st.binary(max_size=80).map(lambda body: length(body, status=b"429 Too Many Requests")),
    st.just(b"HTTP/1.1 204 No Content\r\n\r\n"),
)  # fmt: skip


@given(WHOLE, st.data())
def test_any_response_cut_into_any_pieces_reads_the_same(wire: bytes, data: st.DataObject) -> None:
    """Where the network cuts is chance; what is read must not be."""
    at_once, keeps_alive = read(wire)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(wire) - 1)), max_size=12)))
    edges = [0, *(cut for cut in cuts if cut < len(wire)), len(wire)]
    pieces = [wire[start:end] for start, end in pairwise(edges)]

    response, keeps_alive_too = read(*pieces)

    assert (at_once.status, at_once.body, dict(at_once.headers)) == (
        response.status, response.body, dict(response.headers),
    )  # fmt: skip
    assert keeps_alive == keeps_alive_too


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=6))
def test_a_connection_gives_each_answer_its_own_body(bodies: list[bytes]) -> None:
    """Nothing of one answer is left for the next, by length or by chunks."""
    one = reader()
    for number, body in enumerate(bodies):
        assert one.feed(length(body) if number % 2 else chunked(body))
        response = one.take()
        assert (body, True) == (response.body, one.keeps_alive)


@given(WHOLE, st.binary(min_size=1, max_size=40).filter(lambda more: more.strip(b"\r\n") != b""))
def test_what_follows_an_answer_is_not_kept_for_the_next(wire: bytes, more: bytes) -> None:
    """A whole second response, too: whoever takes it for the next answer gives a row somebody else's."""
    expected, _ = read(wire)
    for excess in (more, length(b"smuggled"), wire):
        response, keeps_alive = read(wire + excess)
        assert (expected.status, expected.body, False) == (response.status, response.body, keeps_alive)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_response_or_one_error(wire: bytes) -> None:
    for start in (b"", OK, OK + b"transfer-encoding: chunked\r\n\r\n"):
        one = reader()
        try:
            if one.feed(start + wire):
                one.take()
        except BrokenHead:
            pass


def test_an_answer_is_read_as_it_was_sent() -> None:
    response, keeps_alive = read(length(TEXT, b"Retry-After:  7 ", b"X-Request-Id: a"))

    assert (200, TEXT, True) == (response.status, response.body, keeps_alive)
    assert "7" == response.headers["retry-after"] == response.headers["Retry-AFTER"]
    assert {"retry-after": "7", "x-request-id": "a", "content-length": str(len(TEXT))} == dict(response.headers)
    assert response.headers.get("x-none") is None


def test_headers_that_come_twice_are_joined_and_odd_bytes_are_text() -> None:
    """RFC 9110, section 5.2; and no byte of a header may end a run."""
    found = Headers(OK + b"x-a: 1\r\nX-A: 2\r\nx-u: " + TEXT + b"\r\nx-l: \xe9\xff\r\nx-empty:\r\n\r\n")

    assert ("1, 2", TEXT.decode(), "éÿ", "") == (found["x-a"], found["x-u"], found["x-l"], found["x-empty"])


NOT_HTTP = {
    "two lengths": OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\nab",
    "a list of lengths": OK + b"content-length: 2, 3\r\n\r\nab",
    "negative length": OK + b"content-length: -2\r\n\r\nab",
    "length with a sign": OK + b"content-length: +2\r\n\r\nab",
    "length beyond 64 bits": OK + b"content-length: 99999999999999999999999\r\n\r\nab",
    "length and chunks": OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "chunks and length": OK + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "folded line": OK + b"x: a\r\n b\r\ncontent-length: 2\r\n\r\nab",
    "NUL": OK + b"x: a\0b\r\ncontent-length: 2\r\n\r\nab",
    "bare CR": OK + b"x: a\rb\r\ncontent-length: 2\r\n\r\nab",
    "bare LF": b"HTTP/1.1 200 OK\ncontent-length: 2\n\nab",
    "space in a name": OK + b"x y: a\r\ncontent-length: 2\r\n\r\nab",
    "space before the colon": OK + b"content-length : 2\r\n\r\nab",
    "no colon": OK + b"hello\r\ncontent-length: 2\r\n\r\nab",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\ncontent-length: 2\r\n\r\nab",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nab",
    "status 099": b"HTTP/1.1 099 X\r\ncontent-length: 2\r\n\r\nab",
    "status 2000": b"HTTP/1.1 2000 X\r\ncontent-length: 2\r\n\r\nab",
    "switching protocols": b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\nxx",
    "a mail server": b"220 mail.example.com ESMTP\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46",
    "a page": b"<!DOCTYPE html>",
}


@pytest.mark.parametrize("how", NOT_HTTP)
def test_what_is_no_http_is_refused_at_once(how: str) -> None:
    """In one piece and byte by byte: a head that two readers read differently is how answers get swapped."""
    with pytest.raises(BrokenHead):
        reader().feed(NOT_HTTP[how])
    one = reader()
    with pytest.raises(BrokenHead):
        feed_all(one, (bytes([byte]) for byte in NOT_HTTP[how]))


@pytest.mark.parametrize("piece", [b"x-more: " + b"y" * 8000 + b"\r\n", b"y" * 10_000, b"x: y\r\n"])
def test_a_head_without_end_is_left_at_its_bound(piece: bytes) -> None:
    one = reader()
    pieces = [OK, *repeat(piece, HEAD_BYTES_MAX // len(piece) + 1)]
    with pytest.raises(BrokenHead):
        feed_all(one, pieces)
    assert not feed_all(reader(), pieces[: HEAD_BYTES_MAX // len(piece) - 2])


def test_the_lines_of_a_head_are_counted() -> None:
    lines = [b"x: y"] * (HEAD_LINES_MAX - 1)
    assert 200 == read(length(b"ab", *lines))[0].status
    with pytest.raises(BrokenHead):
        reader().feed(length(b"ab", *lines, b"x: y", b"x: y"))


def test_informational_responses_without_end_are_bounded() -> None:
    """Each is a whole head; only all together are too much."""
    one = reader()
    with pytest.raises(BrokenHead):
        feed_all(one, repeat(b"HTTP/1.1 100 Continue\r\n\r\n", HEAD_BYTES_MAX // 25 + 2))


@pytest.mark.parametrize(
    ("wire", "keeps_alive"),
    [
        (length(b"ab", b"connection: close"), False),
        (length(b"ab", b"Connection: Keep-Alive, Close"), False),
        (length(b"ab", version=b"1.0"), False),
        (length(b"ab", b"connection: keep-alive", version=b"1.0"), True),
        (length(b"ab", b"connection: upgrade", b"upgrade: h2,h2c"), True),
        (length(b"ab"), True),
    ],
)
def test_the_connection_is_kept_only_where_both_may(wire: bytes, keeps_alive: bool) -> None:
    response, found = read(wire)
    assert (b"ab", keeps_alive) == (response.body, found)


def test_a_body_that_ends_with_the_connection_is_whole_only_then() -> None:
    one = reader()
    assert not one.feed(OK + b"\r\n" + TEXT)
    assert one.ends_with_connection()
    assert (TEXT, None, False) == ((taken := one.take()).body, taken.fault, one.keeps_alive)

    for cut in (length(b"abc")[:-1], chunked(b"abc")[:-2], OK + b"transfer-encoding: gzip\r\n\r\nab", OK + b"x:"):
        one = reader()
        assert not one.feed(cut)
        assert not one.ends_with_connection()


@pytest.mark.parametrize("chunk", [b"zz\r\nab\r\n", b"-2\r\nab\r\n", b"fffffffffffffffff\r\nab", b"2\r\nabX\r\n"])
def test_broken_chunks_are_a_cut_that_keeps_what_came(chunk: bytes) -> None:
    one = reader()
    assert one.feed(OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n" + chunk)
    response = one.take()

    assert (b"hello", CUT, False) == (response.body[:5], response.fault, one.keeps_alive)


def test_no_more_of_a_body_is_kept_than_its_bound() -> None:
    """A 200 is then no answer; the words of an error are read to their bound."""
    for status, expected in ((b"200 OK", (b"", "the response is larger than 1 MiB")), (b"500 X", (b"a" * 1000, None))):
        one, size = reader(), 0
        done = one.feed(length(b"", status=status).replace(b"content-length: 0", b"content-length: 99999999"))
        while not done:
            done = one.feed(b"a" * 999)
            size += 999
        response = one.take()
        assert expected == (response.body, response.fault)
        assert not one.keeps_alive
        assert size <= 2**20 + 999


@given(st.binary(max_size=3000), st.integers(0, 3000))
def test_what_was_compressed_comes_back_and_a_part_is_known_as_one(content: bytes, cut: int) -> None:
    raw = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(content),
        " X-Gzip ": gzip.compress(content[:10]) + gzip.compress(content[10:]),
        "deflate": zlib.compress(content),
        "Deflate": raw.compress(content) + raw.flush(),
        "zstd": zstandard.compress(content),
        "identity": content,
    }
    for encoding, body in packed.items():
        found = decode(body, encoding, 2**20)
        assert (content, True) == (found.content, found.is_whole), encoding
    for encoding in ("gzip", "zstd"):
        whole = packed[encoding]
        part = decode(whole[: 1 + cut % (len(whole) - 1)], encoding, 2**20)
        assert not part.is_whole
        assert content.startswith(part.content)


@pytest.mark.parametrize(
    ("body", "encoding"),
    [(b"not gzip", "gzip"), (b"xx", "br"), (b"xx", "zstd"), (b"xx", "gzip, gzip"), (b"\xff", "deflate")],
)
def test_what_cannot_be_decompressed_is_said_to_be_broken(body: bytes, encoding: str) -> None:
    assert not decode(body, encoding, 2**20).is_whole


def test_what_came_of_a_cut_body_is_all_there() -> None:
    """A few bytes may stand for more than one piece of output."""
    content = bytes(3 * 2**20 + 7)
    found = decode(gzip.compress(content)[:-8], "gzip", 4 * 2**20)
    assert (content, False) == (found.content, found.is_whole)


def test_a_bomb_stops_at_the_bound_and_empty_members_soon() -> None:
    bomb = gzip.compress(bytes(64 * 2**20), 9)
    assert 2**20 < len(decode(bomb, "gzip", 2**20).content) <= 2 * 2**20
    assert 2**20 < len(decode(zstandard.compress(bytes(640 * 2**20)), "zstd", 2**20).content) <= 10 * 2**20
    assert not decode(gzip.compress(b"") * 100_000, "gzip", 2**20).is_whole

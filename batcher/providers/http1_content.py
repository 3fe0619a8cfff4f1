"""Content codings of HTTP bodies: gzip, deflate and zstd, decompressed in bounded pieces.

Servers are offered what is read here and no more (`ACCEPT_ENCODING`). Brotli is not: it would need one more
package, for connections on which compression buys next to nothing.
"""

import zlib
from dataclasses import dataclass

ACCEPT_ENCODING = "gzip, deflate, zstd"

_GZIP = 31
_ZLIB = 15
_RAW_DEFLATE = -15
_PIECE_BYTES = 2**20
# A block of 4 bytes can stand for 128 KiB: of these come 8 MiB at most. Windows are as large as HTTP's (RFC 9659).
_ZSTD_PIECE_BYTES = 256
_ZSTD_WINDOW_BYTES_MAX = 8 * 2**20
# Each takes a copy of all that follows it: a body of empty members would take hours.
_MEMBERS_MAX = 64


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a body held. `is_whole` is False where it broke off or cannot be read, and then `content` is what came."""

    content: bytes
    is_whole: bool


def decode(body: bytes, encoding: str, bytes_max: int) -> Decoded:
    """The content of a body, decompressed up to `bytes_max` and at most 8 MiB more.

    Args:
        body: As it was on the wire, without chunks; whole or its beginning.
        encoding: The content-encoding header. Several codings, one over the other, are not read.
        bytes_max: Decompressing stops when there is more than this.
    """
    name = encoding.strip().lower()
    if not body or name in ("", "identity"):
        return Decoded(body, is_whole=True)
    if name in ("gzip", "x-gzip"):
        return _inflate(body, _GZIP, bytes_max)
    if name == "deflate":
        # RFC 9110 says a zlib stream; some servers send it without its frame.
        found = _inflate(body, _ZLIB, bytes_max)
        return found if found.is_whole or found.content else _inflate(body, _RAW_DEFLATE, bytes_max)
    if name == "zstd":
        return _unpack_zstd(body, bytes_max)
    return Decoded(b"", is_whole=False)


def _inflate(body: bytes, wbits: int, bytes_max: int) -> Decoded:
    content = bytearray()
    stream, members = zlib.decompressobj(wbits), 1
    unread = body
    try:
        while len(content) <= bytes_max:
            piece = stream.decompress(unread, _PIECE_BYTES)
            content += piece
            unread = stream.unconsumed_tail
            if stream.eof:
                if wbits != _GZIP or not stream.unused_data:
                    return Decoded(bytes(content), is_whole=True)
                # A gzip body may be several members, one after the other (RFC 1952, section 2.2).
                if members == _MEMBERS_MAX:
                    break
                unread = stream.unused_data
                stream, members = zlib.decompressobj(wbits), members + 1
            elif not unread and len(piece) < _PIECE_BYTES:
                break
    except zlib.error:
        pass
    return Decoded(bytes(content), is_whole=False)


def _unpack_zstd(body: bytes, bytes_max: int) -> Decoded:
    import zstandard  # noqa: PLC0415  # few servers use it

    content = bytearray()
    stream = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES_MAX).decompressobj()
    try:
        for start in range(0, len(body), _ZSTD_PIECE_BYTES):
            content += stream.decompress(body[start : start + _ZSTD_PIECE_BYTES])
            if stream.eof or len(content) > bytes_max:
                break
    except zstandard.ZstdError:
        return Decoded(bytes(content), is_whole=False)
    return Decoded(bytes(content), is_whole=stream.eof)

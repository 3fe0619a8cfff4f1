"""A stream written from a thread of its own, so that a reader who stops reading stops nothing else.

A terminal paused with Ctrl-S, a sleeping laptop at the far end of ssh, a pipe into a pager: each of
them blocks `write` for as long as it likes, and on the event loop that would let every call in
flight time out. Here the writer waits alone, up to a bounded backlog; beyond it, text is dropped.
A stream that is gone (broken pipe, closed terminal) is noticed once and not written to again.
"""

import queue
import threading
from typing import TextIO

from batcher.observe.text import cells

_BACKLOG_MAX = 256
_CLOSE_WAIT_S = 1.0
# One cell each, so that a line keeps its width where the stream cannot say the sign itself.
_PLAIN_SIGNS = str.maketrans({"≈": "~", "…": ".", "━": "=", "─": "-", "·": "-"})


class Writer:
    """Whole pieces of text to one stream, in order, never waiting for it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._says_all = self._encoding.lower().replace("-", "").replace("_", "").startswith("utf")
        self._backlog: queue.Queue[str | None] = queue.Queue(_BACKLOG_MAX)
        self._thread: threading.Thread | None = None
        self.is_lost = False
        self.dropped = 0

    @property
    def is_behind(self) -> bool:
        """Whether the stream has not taken yet what it was given: no use in drawing another frame."""
        return self._backlog.unfinished_tasks > 0

    def write(self, text: str) -> None:
        """Hand over `text`; it is dropped, and counted, where the backlog is full."""
        if self.is_lost:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="batcher-stderr", daemon=True)
            self._thread.start()
        try:
            self._backlog.put_nowait(self.sayable(text))
        except queue.Full:
            self.dropped += 1

    def sayable(self, text: str) -> str:
        """`text` in the signs that the stream's encoding has; others become `?`."""
        if self._says_all:
            return text
        # Marks that take no cell would become a `?` that takes one.
        shown = "".join(c for c in text.translate(_PLAIN_SIGNS) if c.isascii() or cells(c))
        return shown.encode(self._encoding, "replace").decode(self._encoding)

    def close(self) -> None:
        """Wait a moment until all is written; the stream stays open. May be called again."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            self._backlog.put(None, timeout=_CLOSE_WAIT_S)
        except queue.Full:
            return
        thread.join(_CLOSE_WAIT_S)

    def _work(self) -> None:
        while (text := self._backlog.get()) is not None:
            if not self.is_lost:
                self._write_now(text)
            self._backlog.task_done()
        self._backlog.task_done()

    def _write_now(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            # ValueError: the stream was closed. Nobody is left to tell; the event log has it all.
            self.is_lost = True

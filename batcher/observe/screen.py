"""Draws frames in place at the end of a terminal, and keeps what is above them.

Nothing of the terminal's state is changed: the cursor stays visible, lines wrap as they did, colour is
switched off within each line. So there is nothing to put right after an exception, Ctrl-Z or `kill -9`.
rich makes the colours; its own `Live` is not used, since it leaves rows of ghosts when a terminal gets
narrower, hides the cursor, and waits for a terminal that was paused.
"""

import io
import os
from collections.abc import Mapping, Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from batcher.observe.text import cells
from batcher.observe.writer import Writer

_SIZE_UNKNOWN = os.terminal_size((80, 24))
_PAUSE_S = 2.0


class Screen:
    """One live region on one terminal."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._stream = stream
        self._writer = Writer(stream)
        self._console = Console(
            file=io.StringIO(),
            force_terminal=True,
            no_color=bool(environ.get("NO_COLOR")),
            legacy_windows=False,
            _environ=environ,
        )
        self._widths: list[int] = []
        self._drawn_s = 0.0

    @property
    def is_lost(self) -> bool:
        """Whether the terminal is gone."""
        return self._writer.is_lost

    def size(self) -> os.terminal_size:
        """Columns and lines of the terminal as they are now."""
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return _SIZE_UNKNOWN
        # A serial console says 0 x 0.
        return os.terminal_size((size.columns or _SIZE_UNKNOWN.columns, size.lines or _SIZE_UNKNOWN.lines))

    def draw(self, lines: Sequence[Text], now_s: float) -> None:
        """Show `lines` in the place of the frame before; skipped while the terminal has not taken that one."""
        if self._writer.is_behind:
            return
        # After Ctrl-Z and `fg` the shell has written below the last frame: leave that and begin anew.
        was_paused = bool(self._widths) and now_s - self._drawn_s > _PAUSE_S
        start = "\r\n" if was_paused else self._erase()
        self._writer.write(start + "\r\n".join(map(self._styled, lines)))
        self._widths = [cells(line.plain) for line in lines]
        self._drawn_s = now_s

    def above(self, text: str) -> None:
        """Write whole lines above the frame; the frame comes back with the next `draw`."""
        self._writer.write(self._erase() + text.replace("\n", "\r\n"))
        self._widths = []

    def close(self) -> None:
        """Remove the frame and leave the cursor at the start of its first line."""
        if self._widths:
            self._writer.write(self._erase())
        self._widths = []
        self._writer.close()

    def _erase(self) -> str:
        """Erase the frame, cursor to its first cell. A terminal that got narrower has wrapped its lines meanwhile.

        Line by line and whole lines: erasing "to the end of the screen" from the top makes tmux keep a copy in its
        history each time, and lines erased in part keep their length and are wrapped with their blanks.
        """
        columns = self.size().columns
        rows = sum(max(1, -(-width // columns)) for width in self._widths)
        return "\r\x1b[2K" + "\x1b[1A\x1b[2K" * (rows - 1)

    def _styled(self, line: Text) -> str:
        with self._console.capture() as capture:
            self._console.print(line, end="", no_wrap=True, overflow="ignore", crop=False, highlight=False)
        return capture.get()

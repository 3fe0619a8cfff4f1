"""How a run is shown in a terminal."""

from collections.abc import Mapping
from typing import TextIO

from batcher.core.progress import Progress
from batcher.observe.display import frame
from batcher.observe.pace import RATE_WINDOW_S
from batcher.observe.screen import Screen
from batcher.observe.view import View

_LIVE_EVERY_S = 0.25


class Live:
    """A frame four times a second, warnings above it. Keeps `reporter.Surface`."""

    every_s, rate_window_s = _LIVE_EVERY_S, RATE_WINDOW_S

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._screen = Screen(stream, environ)

    def look(self, progress: Progress, view: View) -> None:
        """See `reporter.Surface`."""
        size = self._screen.size()
        self._screen.draw(frame(progress, view, width=size.columns, height=size.lines), view.now_s)

    def line(self, text: str) -> None:
        """The frame says it already."""

    def say(self, text: str) -> None:
        """See `reporter.Surface`."""
        self._screen.above(text)

    def close(self) -> None:
        """See `reporter.Surface`."""
        self._screen.close()

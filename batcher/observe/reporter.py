"""Says how a run goes while it goes: live in a terminal, in plain lines elsewhere, in JSON on request.

All of it on stderr. Whatever is shown, the event log gets a `progress` event at the pace of the plain
lines, so it tells afterwards how fast the run was at which hour; with `--log-format json` the events
are what is shown, and nothing else is.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol, TextIO

from batcher.clock import Clock
from batcher.core.progress import Progress
from batcher.observe.human import duration
from batcher.observe.log import Events
from batcher.observe.pace import FAILURES_WINDOW_S, Pace
from batcher.observe.text import clean
from batcher.observe.view import Meter, View, progress_fields, progress_line
from batcher.observe.writer import Writer

_PLAIN_EVERY_S = 1.0


class Reporter(Protocol):
    """Shows one run: `start`, then `run` as a task, then `stop`, whatever happened in between."""

    def start(self, progress: Progress, job_name: str, run_directory: Path, *, unpriced: str | None = None) -> None:
        """Begin to watch `progress`; `unpriced` names the model that has no known price."""
        ...

    async def run(self, stop: asyncio.Event) -> None:
        """Show the run until `stop` is set. Safe to cancel."""
        ...

    def stop(self) -> None:
        """Leave the terminal as it was and write what is pending. May be called twice, or without `start`."""
        ...


class Surface(Protocol):
    """Where a run is shown."""

    every_s: float
    rate_window_s: float

    def look(self, progress: Progress, view: View) -> None:
        """Called every `every_s`."""
        ...

    def line(self, text: str) -> None:
        """A plain line is due, or there is news. Ends with a line break."""
        ...

    def say(self, text: str) -> None:
        """A warning from the event log."""
        ...

    def close(self) -> None:
        """Nothing more will be shown."""
        ...


def make_reporter(
    *,
    stream: TextIO,
    log_format: Literal["auto", "plain", "json"],
    is_terminal: bool,
    environ: Mapping[str, str],
    clock: Clock,
    events: Events,
) -> Reporter:
    """The reporter for this stream: live only in a terminal that can move its cursor."""
    if log_format == "json":
        return RunReporter(_Nothing(), clock, events)
    if log_format == "auto" and is_terminal and environ.get("TERM", "dumb") not in ("dumb", "unknown", ""):
        from batcher.observe.live import Live  # noqa: PLC0415  # rich takes 10 ms that a pipe has no use for

        return RunReporter(Live(stream, environ), clock, events)
    return RunReporter(_Lines(stream), clock, events)


class RunReporter:
    """See `Reporter`."""

    def __init__(self, surface: Surface, clock: Clock, events: Events) -> None:
        self._surface, self._clock, self._events = surface, clock, events
        self._meter: Meter | None = None
        self._news = News()

    def start(self, progress: Progress, job_name: str, run_directory: Path, *, unpriced: str | None = None) -> None:
        """See `Reporter`."""
        self._progress = progress
        self._meter = Meter(
            progress,
            job_name,
            self._clock,
            mask=self._events.mask,
            unpriced=unpriced,
            window_s=self._surface.rate_window_s,
        )
        self._pace = Pace(self._clock.monotonic())
        self._events.route(self._surface.say)
        self._surface.line(clean(self._events.mask(f"{job_name}: {run_directory}")) + "\n")

    async def run(self, stop: asyncio.Event) -> None:
        """See `Reporter`."""
        async with asyncio.TaskGroup() as tasks:
            ticking = tasks.create_task(self._tick())
            await stop.wait()
            ticking.cancel()

    async def _tick(self) -> None:
        while True:
            self.look()
            await self._clock.sleep(self._surface.every_s)

    def look(self) -> None:
        """Look at the run once and show what is due."""
        if self._meter is None:
            return
        progress, view = self._progress, self._meter.look()
        for event, sentence in self._news.since_last(view):
            self._events.info(event, **progress_fields(progress, view))
            self._surface.line(f"{view.job_name}: {sentence}\n")
        if self._pace.is_due(view.now_s):
            self._events.info("progress", **progress_fields(progress, view))
            self._surface.line(progress_line(progress, view) + "\n")
        self._surface.look(progress, view)
        self._events.tick()

    def stop(self) -> None:
        """See `Reporter`. The log's last `progress` event holds the final numbers."""
        if self._meter is not None:
            self._events.info("progress", **progress_fields(self._progress, self._meter.look()))
        self._meter = None
        self._events.route(None)
        self._surface.close()


class News:
    """What changed since the last look and cannot wait for the next line: down, back, stopping."""

    def __init__(self) -> None:
        self._was_down = False
        self._note = ""

    def since_last(self, view: View) -> list[tuple[str, str]]:
        """Pairs of event name and sentence."""
        news = []
        was_down, self._was_down = self._was_down, view.down_since_s is not None
        if self._was_down and not was_down:
            news.append(("provider_down", "the provider is down; rows wait until it is back, none is lost"))
        if was_down and not self._was_down:
            news.append(("provider_back", f"the provider is back after {duration(view.latest_outage_s or 0.0)}"))
        was_noted, self._note = self._note, view.note
        if view.note and view.note != was_noted:
            news.append(("note", view.note))
        return news


class _Nothing:
    """JSON mode: the events say it all."""

    every_s, rate_window_s = _PLAIN_EVERY_S, FAILURES_WINDOW_S

    def look(self, progress: Progress, view: View) -> None:
        """Nothing to draw."""

    def line(self, text: str) -> None:
        """Said as an event already."""

    say = line

    def close(self) -> None:
        """Nothing to leave."""


class _Lines:
    """A pipe, a file, cron's mail: whole lines at a humane pace."""

    # A line speaks for the minute before it.
    every_s, rate_window_s = _PLAIN_EVERY_S, FAILURES_WINDOW_S

    def __init__(self, stream: TextIO) -> None:
        self._writer = Writer(stream)

    def look(self, progress: Progress, view: View) -> None:
        """Nothing to draw."""

    def line(self, text: str) -> None:
        """See `Surface`."""
        self._writer.write(text)

    say = line

    def close(self) -> None:
        """See `Surface`."""
        self._writer.close()

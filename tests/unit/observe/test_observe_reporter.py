"""The reporter on each kind of stream: frames without ghosts, lines at a humane pace, nothing ever in the way."""

import asyncio
import errno
import fcntl
import io
import json
import os
import pty
import re
import struct
import termios
import threading
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
from rich.text import Text

from batcher.core.progress import Progress
from batcher.observe.log import Events, open_events
from batcher.observe.reporter import Reporter, make_reporter
from batcher.observe.screen import Screen
from batcher.observe.writer import Writer
from batcher.testing.clock import ManualClock

XTERM = {"TERM": "xterm-256color"}
RUN = Path("runs/tickets/x")


class Terminal(io.StringIO):
    """Obeys the few signals that the display may use, and fails at any other."""

    SIGNALS = re.compile(r"\r\n|\r|\n|\x1b\[(\d*)([A-Za-z])|\x1b\[[\d;]*m|[^\r\n\x1b]+|\x1b")

    def screen(self) -> list[str]:
        rows, y, x = [""], 0, 0
        for match in self.SIGNALS.finditer(self.getvalue()):
            text = match[0]
            if text == "\r\n":
                y, x = y + 1, 0
                rows += [""] * (y + 1 - len(rows))
            elif text == "\r":
                x = 0
            elif text == "\x1b[2K":
                rows[y] = ""
            elif match[2] == "A":
                y -= int(match[1])
            elif text.startswith("\x1b[") and text.endswith("m"):
                continue
            else:
                assert text[0] not in "\x1b\n", f"the display may not use {text!r}"
                rows[y] = rows[y][:x].ljust(x) + text + rows[y][x + len(text) :]
                x += len(text)
        return rows


class Run:
    """A reporter at work on a manual clock."""

    def __init__(
        self,
        tmp_path: Path,
        *,
        log_format: Literal["auto", "plain", "json"] = "auto",
        is_terminal: bool = False,
        environ: Mapping[str, str] = XTERM,
        stream: io.StringIO | None = None,
    ) -> None:
        self.clock, self.progress = ManualClock(), Progress(rows_total=1000, rows_total_is_exact=True)
        self.stream = stream if stream is not None else Terminal()
        self.log = tmp_path / "log.jsonl"
        is_json = log_format == "json"
        self.events: Events = open_events(
            self.log,
            secrets=["hunter2-hunter2"],
            json_to=self.stream if is_json else None,
            plain_to=None if is_json else self.stream,
            clock=self.clock,
        )
        self.reporter: Reporter = make_reporter(
            stream=self.stream,
            log_format=log_format,
            is_terminal=is_terminal,
            environ=environ,
            clock=self.clock,
            events=self.events,
        )
        self._stop = asyncio.Event()

    async def __aenter__(self) -> "Run":
        self.reporter.start(self.progress, "tickets", RUN)
        self._task = asyncio.create_task(self.reporter.run(self._stop))
        await self.clock.advance(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await self._task
        self.reporter.stop()
        self.events.close()

    async def drawn(self) -> list[str]:
        """The terminal, when the writer's thread has written."""
        await asyncio.to_thread(self.reporter._surface._screen._writer._backlog.join)  # type: ignore[attr-defined]
        return self.stream.screen()  # type: ignore[attr-defined]

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


async def test_a_pipe_gets_lines_at_a_humane_pace(tmp_path: Path) -> None:
    """Cron mails the output: a handful of lines for ten minutes, each complete."""
    async with Run(tmp_path) as run:
        for _ in range(10 * 60):
            run.progress.ok += 1
            await run.clock.advance(1)

    lines = run.stream.getvalue().splitlines()
    assert "tickets: runs/tickets/x" == lines[0]
    assert 14 == len(lines)
    assert "tickets: 10 of 1,000 rows (1 %), 1.0 rows/s, $0, about 16 min 30 s left" in lines
    assert all(line.startswith("tickets: ") for line in lines)
    assert "\x1b" not in run.stream.getvalue()


async def test_news_comes_at_once(tmp_path: Path) -> None:
    """Down, back and stopping are not kept for the next minute."""
    async with Run(tmp_path) as run:
        await run.clock.advance(11)
        run.progress.down_since_s = run.clock.monotonic()
        await run.clock.advance(1)
        run.progress.down_since_s, run.progress.latest_outage_s = None, 3.2
        await run.clock.advance(3)
        run.progress.note = "stopping: 3 calls in flight, key hunter2-hunter2 \x1b[2J"
        await run.clock.advance(1)

    news = [line for line in run.stream.getvalue().splitlines()[1:] if " rows (" not in line]
    assert [
        "tickets: the provider is down; rows wait until it is back, none is lost",
        "tickets: the provider is back after 3 s",
        "tickets: stopping: 3 calls in flight, key ***",
    ] == news
    assert ["provider_down", "provider_back", "note"] == [
        event["event"] for event in run.logged() if event["event"] != "progress"
    ]


async def test_json_lines_hold_all_and_nothing_else(tmp_path: Path) -> None:
    """A machine reads every line on stderr; the log file has the same ones."""
    async with Run(tmp_path, log_format="json", is_terminal=True) as run:
        await run.clock.advance(11)
        run.events.warning("attempt_failed", kind="timeout")

    shown = [json.loads(line) for line in run.stream.getvalue().splitlines()]
    assert ["progress", "progress", "attempt_failed", "progress"] == [line["event"] for line in shown]
    assert (0, 1000) == (shown[0]["rows_done"], shown[0]["rows_total"])
    assert shown == run.logged()


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {"TERM": ""}, {}])
async def test_a_terminal_without_a_cursor_gets_lines(tmp_path: Path, environ: dict[str, str]) -> None:
    """An editor's shell and a serial console cannot redraw."""
    async with Run(tmp_path, is_terminal=True, environ=environ) as run:
        await run.clock.advance(2)

    assert "\x1b" not in run.stream.getvalue()
    assert "tickets: 0 of 1,000 rows (0 %)" in run.stream.getvalue()


async def test_plain_is_plain_in_a_terminal_too(tmp_path: Path) -> None:
    """Whoever asks for plain lines gets them."""
    async with Run(tmp_path, log_format="plain", is_terminal=True) as run:
        await run.clock.advance(2)

    assert "\x1b" not in run.stream.getvalue()


async def test_frames_replace_each_other_below_warnings(tmp_path: Path) -> None:
    """One frame at any time, warnings above it, and nothing of it left at the end."""
    async with Run(tmp_path, is_terminal=True) as run:
        for count in range(20):
            run.progress.ok += 10
            if count % 2:
                run.progress.wait_begin("disk", run.clock.monotonic())
            else:
                run.progress.waits.clear()
            await run.clock.advance(0.25)
            await run.drawn()
            if count == 10:
                run.events.warning("attempt_failed", kind="server", message="\x1b[2Jboom")
                await run.drawn()
        rows = await run.drawn()

    warning = "warning: boom (kind=server)"
    assert warning == rows[0]
    assert rows[1].startswith("tickets  ━")
    assert 1 == sum("tickets" in row for row in rows)
    assert [warning] == [row for row in run.stream.screen() if row]


async def test_no_color_means_no_color(tmp_path: Path) -> None:
    """See no-color.org: any value counts, the empty one does not; bold is no colour."""
    colours = re.compile(r"\x1b\[[\d;]*(?:3[0-7]|9[0-7])[;m]")
    for environ, is_coloured in (({**XTERM, "NO_COLOR": "1"}, False), ({**XTERM, "NO_COLOR": ""}, True)):
        async with Run(tmp_path, is_terminal=True, environ=environ) as run:
            await run.drawn()
            run.progress.ok = 500
            await run.clock.advance(1)
            await run.drawn()

        assert is_coloured is bool(colours.search(run.stream.getvalue())), environ


async def test_an_exception_leaves_a_sane_terminal(tmp_path: Path) -> None:
    """The cursor is never hidden and no mode is changed; `stop` may come twice, late, or without a start."""
    run = Run(tmp_path, is_terminal=True)
    run.reporter.start(run.progress, "tickets", RUN)

    async def fail() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run.reporter.run(asyncio.Event()))
            await run.clock.advance(1)
            raise OSError("the run failed")

    with pytest.raises(ExceptionGroup):
        await fail()
    run.reporter.stop()
    run.reporter.stop()
    run.events.warning("after")
    run.events.close()

    frame, after = run.stream.getvalue().rsplit("\x1b[2K", 1)
    assert "warning: after\n" == after
    assert "\x1b[?" not in frame


async def test_stop_without_start_is_no_fault(tmp_path: Path) -> None:
    """The run may fail before the display begins."""
    Run(tmp_path, is_terminal=True).reporter.stop()


class Paused(io.StringIO):
    """A terminal after Ctrl-S: writes wait until it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()

    def write(self, text: str) -> int:
        self.goes_on.wait()
        return super().write(text)


async def test_a_paused_terminal_stops_nothing(tmp_path: Path) -> None:
    """Looks and warnings go on while the terminal takes nothing; what it missed is bounded."""
    stream = Paused()
    run = Run(tmp_path, is_terminal=True, stream=stream)
    run.reporter.start(run.progress, "tickets", RUN)
    task = asyncio.create_task(run.reporter.run(stop := asyncio.Event()))
    for number in range(500):
        await run.clock.advance(0.25)
        run.events.warning("odd", number=number)
    stop.set()
    await task
    stream.goes_on.set()
    run.reporter.stop()
    run.events.close()

    assert 500 == sum(line["event"] == "odd" for line in run.logged())


async def test_a_vanished_terminal_stops_nothing(tmp_path: Path) -> None:
    """ssh ends, the run goes on; the log has it all."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, "gone")

    async with Run(tmp_path, is_terminal=True, stream=Gone()) as run:
        await run.clock.advance(61)

    assert 5 == sum(line["event"] == "progress" for line in run.logged())


async def test_no_frame_is_drawn_in_the_place_of_the_shell(tmp_path: Path) -> None:
    """After Ctrl-Z and `fg` the lines above the cursor are the shell's."""
    screen = Screen(terminal := Terminal(), XTERM)
    screen.draw([Text("one"), Text("two")], 10.0)
    screen._writer._backlog.join()
    screen.draw([Text("one"), Text("two")], 100.0)
    screen.close()

    assert ["one", "two"] == terminal.screen()[:2]


def test_a_terminal_that_got_narrower_is_cleaned_of_what_it_wrapped() -> None:
    """A line of 60 cells takes two rows at 40 columns: both are erased."""
    reader, writer = pty.openpty()
    resize = lambda columns: fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))  # noqa: E731
    with os.fdopen(reader, "rb", buffering=0) as output, os.fdopen(writer, "w") as stream:
        resize(80)
        screen = Screen(stream, {"TERM": "xterm", "NO_COLOR": "1"})
        assert (80, 24) == screen.size()
        screen.draw([Text("x" * 60), Text("y" * 30)], 1.0)
        screen._writer._backlog.join()
        output.read(4096)
        resize(40)
        screen.draw([Text("z")], 1.25)
        screen._writer._backlog.join()

        assert b"\r\x1b[2K\x1b[1A\x1b[2K\x1b[1A\x1b[2Kz" == output.read(4096)
        screen._widths = []
        screen.close()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "iso8859-11"])
def test_a_stream_of_another_encoding_gets_what_it_can_say(encoding: str) -> None:
    """LANG=C on an old server: no line fails, and none gets wider."""
    stream = io.TextIOWrapper(buffer := io.BytesIO(), encoding=encoding)
    writer = Writer(stream)
    writer.write("≈1,000 ━━── ตั๋ว …\n")
    writer.close()

    assert buffer.getvalue().decode(encoding).startswith("~1,000 ==-- ")
    assert not writer.is_lost


async def test_what_is_shown_in_the_end_is_the_ledger_of_progress(tmp_path: Path) -> None:
    """The numbers of the last line are those of `Progress`, cost included."""
    async with Run(tmp_path) as run:
        run.progress.ok, run.progress.cost_usd = 1000, Decimal("0.0004")
        await run.clock.advance(2)

    assert "tickets: 1,000 of 1,000 rows (100 %), 500 rows/s, $0.0004" == run.stream.getvalue().splitlines()[-1]

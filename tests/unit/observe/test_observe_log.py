"""The event log: every line whole, harmless and without secrets; repeats counted; no disk stops a run."""

import errno
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batcher.observe.log import open_events
from batcher.storage.durable import LocalDisk, storage_error

SECRET = "hunter2-hunter2"


class HandClock:
    """Stands still until moved."""

    def __init__(self) -> None:
        self.now_s = 1_795_000_000.0

    def now(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s - 1_795_000_000.0

    async def sleep(self, wait_s: float) -> None:
        raise AssertionError("events never sleep")


class FullDisk(LocalDisk):
    """Takes whole files; refuses each append to a log while `is_full`."""

    is_full = True

    def open_log(self, path: Path, *, size_bytes: int = 0) -> Any:
        log, disk = super().open_log(path, size_bytes=size_bytes), self

        class Log:
            def append(self, chunk: bytes) -> None:
                if disk.is_full:
                    raise storage_error(OSError(errno.ENOSPC, "no space"), path)
                log.append(chunk)

            def __getattr__(self, name: str) -> Any:
                return getattr(log, name)

        return Log()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_event_is_a_json_line_at_once(tmp_path: Path, clock: HandClock) -> None:
    """A killed process leaves every event it had."""
    events = open_events(tmp_path / "log.jsonl", clock=clock)

    events.info("run_started", rows=3, job="ตั๋ว", path=Path("runs/x"), cost=Decimal("0.10"), ok=True, none=None)

    assert (
        '{"timestamp": "2026-11-18T11:06:40.000Z", "level": "info", "event": "run_started", "rows": 3, "job": "ตั๋ว",'
        ' "path": "runs/x", "cost": "0.10", "ok": true, "none": null}\n'
    ) == (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    events.close()


def test_nothing_is_opened_before_the_first_event(tmp_path: Path) -> None:
    """A refused job writes nothing, not even an empty log."""
    open_events(tmp_path / "log.jsonl").close()

    assert not (tmp_path / "log.jsonl").exists()


def test_a_later_process_appends_and_mends_a_torn_line(tmp_path: Path, clock: HandClock) -> None:
    """A power cut may tear the last line; the next one still stands alone."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"event": "old"}\n{"event": "to')

    events = open_events(path, clock=clock)
    events.info("new")
    events.close()
    events = open_events(path, clock=clock)
    events.info("newer")
    events.close()

    old, torn, new, newer = path.read_text().splitlines()
    assert ("old", '{"event": "to') == (json.loads(old)["event"], torn)
    assert ("new", "newer") == (json.loads(new)["event"], json.loads(newer)["event"])


def test_secrets_are_masked_wherever_they_hide(tmp_path: Path, clock: HandClock) -> None:
    """In values, names, nested ones, objects, and behind escapes that a terminal would swallow."""
    out, plain = io.StringIO(), io.StringIO()
    events = open_events(tmp_path / "log.jsonl", secrets=[SECRET], json_to=out, plain_to=plain, clock=clock)

    events.warning(
        "odd",
        message=f"key {SECRET} bad; sk-abcdefgh12345678",
        deep=[{"a": {SECRET: (SECRET, {"b": SECRET})}}],
        error=ValueError(SECRET),
        split=SECRET[:7] + "\x1b[0m" + SECRET[7:],
        headers={"Authorization": "Bearer whatever-it-is", "api_key": "abc"},
        raw=SECRET.encode(),
    )
    events.error("failed", url=f"https://u:{SECRET}@h/v1?key={SECRET}")
    events.close()

    everything = (tmp_path / "log.jsonl").read_text() + out.getvalue() + plain.getvalue()
    assert "hunter2" not in everything
    assert "sk-abc" not in everything
    assert "whatever" not in everything
    assert '"abc"' not in everything
    assert '"split": "***"' in everything


def test_no_line_can_move_a_terminal(tmp_path: Path, clock: HandClock) -> None:
    """Whoever runs `cat log.jsonl` sees text; line breaks stay within their line."""
    out, plain = io.StringIO(), io.StringIO()
    events = open_events(tmp_path / "log.jsonl", json_to=out, plain_to=plain, clock=clock)

    events.warning("odd", message="\x1b]52;c;eA==\x07one\r\ntwo\x9b2J \u202eabc\u2028x \ud800")
    events.close()

    shown = (tmp_path / "log.jsonl").read_text(encoding="utf-8") + out.getvalue() + plain.getvalue()
    assert not set(shown) & set("\x1b\x07\r\x9b\u202e\u2028")
    assert 3 == shown.count("\n")
    assert "warning: one two abc x \ufffd\n" == plain.getvalue()


def test_odd_values_still_give_json(tmp_path: Path, clock: HandClock) -> None:
    """NaN is no JSON, a loop in a dict has no end, and a log line is no place to fail."""
    loop: dict[str, Any] = {}
    loop["self"] = loop
    events = open_events(tmp_path / "log.jsonl", clock=clock)

    events.info("odd", nan=float("nan"), inf=float("-inf"), big=2**80, loop=loop, long="x" * 100_000)
    events.close()

    (line,) = lines(tmp_path / "log.jsonl")
    assert ("nan", "-inf", 2**80) == (line["nan"], line["inf"], line["big"])
    assert 8000 == len(line["long"])


def test_repeats_are_counted_not_written(tmp_path: Path, clock: HandClock) -> None:
    """A million timeouts are five lines and a number; another kind is heard all the same."""
    plain = io.StringIO()
    events = open_events(tmp_path / "log.jsonl", plain_to=plain, clock=clock)

    for _ in range(1000):
        events.warning("attempt_failed", kind="timeout", provider="main")
    events.warning("attempt_failed", kind="server", provider="main")
    clock.now_s += 60
    events.tick()
    events.warning("attempt_failed", kind="timeout", provider="main")
    events.close()

    written = lines(tmp_path / "log.jsonl")
    assert ["timeout"] * 5 + ["server"] == [line["kind"] for line in written[:6]]
    assert ("repeated", "attempt_failed", "timeout", 995) == tuple(
        written[6][name] for name in ("event", "of", "kind", "count")
    )
    assert 8 == len(written)
    assert ["timeout", "server", "timeout"] == [
        line.partition("kind=")[2].split()[0] for line in plain.getvalue().splitlines()
    ]


def test_counts_are_written_without_a_tick(tmp_path: Path, clock: HandClock) -> None:
    """Before the display runs, and after it ended, the next warning or the end writes what was counted."""
    events = open_events(tmp_path / "log.jsonl", clock=clock)
    for _ in range(7):
        events.warning("attempt_failed", kind="timeout")
    clock.now_s += 61
    for _ in range(6):
        events.warning("attempt_failed", kind="timeout")
    events.close()

    assert [2, 1] == [line["count"] for line in lines(tmp_path / "log.jsonl") if line["event"] == "repeated"]


def test_warnings_without_a_kind_and_errors_are_all_written(tmp_path: Path, clock: HandClock) -> None:
    """What happens once a run is never taken for a repeat."""
    events = open_events(tmp_path / "log.jsonl", clock=clock)
    for _ in range(20):
        events.warning("segment_sealed_late")
        events.error("failed", kind="auth")
    events.close()

    assert 40 == len(lines(tmp_path / "log.jsonl"))


def test_info_is_not_shown_as_a_plain_line(clock: HandClock) -> None:
    """The display says how it goes; plain lines are for trouble."""
    plain = io.StringIO()
    events = open_events(None, plain_to=plain, clock=clock)

    events.info("run_started")
    events.error("run_failed", message="the provider refused the key")
    events.close()

    assert "error: the provider refused the key\n" == plain.getvalue()


def test_plain_lines_go_through_the_display_while_there_is_one(clock: HandClock) -> None:
    """A line written past a live display would break it."""
    plain, routed = io.StringIO(), []
    events = open_events(None, plain_to=plain, clock=clock)

    events.route(routed.append)
    events.warning("first")
    events.route(None)
    events.warning("second")
    events.close()

    assert ["warning: first\n"] == routed
    assert "warning: second\n" == plain.getvalue()


def test_a_full_disk_stops_no_run_and_is_told(tmp_path: Path, clock: HandClock) -> None:
    """Lost events are said once on stderr, counted, and the count is written when the disk takes lines again."""
    plain, disk = io.StringIO(), FullDisk()
    events = open_events(tmp_path / "log.jsonl", plain_to=plain, clock=clock, disk=disk)

    events.info("one")
    events.info("two")
    disk.is_full = False
    events.info("three")
    events.info("four")
    events.close()

    assert 1 == plain.getvalue().count("\n")
    assert "the disk is full; the run goes on without its event log" in plain.getvalue()
    assert [("events_lost", 2), ("three", None), ("four", None)] == [
        (line["event"], line.get("count")) for line in lines(tmp_path / "log.jsonl")
    ]


def test_a_missing_directory_is_told_not_raised(tmp_path: Path, clock: HandClock) -> None:
    """The directory may have been removed under a running job."""
    out = io.StringIO()
    events = open_events(tmp_path / "gone" / "log.jsonl", json_to=out, clock=clock)

    events.info("one")
    events.close()

    assert ["one", "log_lost"] == [json.loads(line)["event"] for line in out.getvalue().splitlines()]


def test_a_log_that_cannot_be_read_is_told_not_raised(tmp_path: Path, clock: HandClock) -> None:
    """A directory stands where the log should be."""
    (tmp_path / "log.jsonl").mkdir()
    plain = io.StringIO()
    events = open_events(tmp_path / "log.jsonl", plain_to=plain, clock=clock)

    events.info("one")
    events.close()

    assert "the run goes on without its event log" in plain.getvalue()


def test_a_disk_that_fails_at_the_end_is_told_not_raised(tmp_path: Path, clock: HandClock) -> None:
    """The last sync of the log must not hide how the run ended."""

    class Unsynced(LocalDisk):
        def open_log(self, path: Path, *, size_bytes: int = 0) -> Any:
            log = super().open_log(path, size_bytes=size_bytes)

            def sync() -> None:
                log.close()
                raise storage_error(OSError(errno.EIO, "input/output error"), path)

            log.sync = sync  # type: ignore[method-assign]
            return log

    plain = io.StringIO()
    events = open_events(tmp_path / "log.jsonl", plain_to=plain, clock=clock, disk=Unsynced())

    events.info("one")
    events.close()

    assert "input/output error" in plain.getvalue()


class Broken(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "gone")


def test_a_closed_stderr_stops_no_run(tmp_path: Path, clock: HandClock) -> None:
    """`batcher run JOB 2>&1 | head` ends the reader, not the run; the log has everything."""
    events = open_events(tmp_path / "log.jsonl", json_to=Broken(), plain_to=Broken(), clock=clock)

    for number in range(300):
        events.warning("odd", number=number)
    events.close()

    assert 300 == len(lines(tmp_path / "log.jsonl"))


def test_events_from_many_threads_stay_whole(tmp_path: Path, clock: HandClock) -> None:
    """The journal's thread may have something to say while the loop has."""
    import threading

    events = open_events(tmp_path / "log.jsonl", clock=clock)
    threads = [
        threading.Thread(target=lambda: [events.info("e", text="ตั๋ว" * 50) for _ in range(100)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events.close()

    assert 800 == len(lines(tmp_path / "log.jsonl"))

"""The event log: what happened to a run, one JSON object a line, for people and machines.

An event is a fixed name with fields, `attempt_failed kind=timeout provider=main`, for things that happen once
a run or once a problem; never for a row that went well. Each line is in `log.jsonl` when the call
returns, so it survives `kill -9`. Secrets are masked and terminal escapes removed in every string,
nested ones too. A warning that has a `kind` may come a million times: the first few of a kind in a
minute are written, the rest are counted, and the count is written when the minute is over.

A log that cannot be written stops no run: the loss is said once on stderr, counted, and the count is
written as soon as the disk takes lines again.
"""

import json
import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, cast

import structlog

from batcher.clock import Clock, SystemClock
from batcher.errors import StorageError
from batcher.observe.text import MASK, Masker, clean, cut, without_controls
from batcher.observe.writer import Writer
from batcher.storage.durable import Disk, LocalDisk, LogFile, storage_error

REPEATS_MAX = 5
REPEATS_INTERVAL_S = 60.0

_TEXT_LENGTH_MAX = 8000
_PLAIN_WIDTH = 400
_DEPTH_MAX = 6
_SECRET_FIELDS = frozenset({"api_key", "authorization", "password", "secret", "token"})
_HIDDEN_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

Fields = MutableMapping[str, Any]


def open_events(
    log_path: Path | None,
    *,
    secrets: Iterable[str] = (),
    json_to: TextIO | None = None,
    plain_to: TextIO | None = None,
    clock: Clock | None = None,
    disk: Disk | None = None,
) -> "Events":
    """The events of one run.

    Args:
        log_path: `log.jsonl`, appended to and opened at the first event; None keeps no log.
        secrets: Values to mask wherever they appear; see `text.Masker` for the forms it knows.
        json_to: Where every event goes as a JSON line as well (`--log-format json`).
        plain_to: Where warnings and errors go as one plain line each.
        clock: For the timestamps.
        disk: Where the log is.
    """
    clock = clock or SystemClock()
    log = _Log(log_path, disk or LocalDisk()) if log_path is not None else None
    return Events(log, Masker(secrets), clock, json_to=json_to, plain_to=plain_to)


class Events:
    """Made by `open_events`. May be used from any thread."""

    def __init__(
        self, log: "_Log | None", masker: Masker, clock: Clock, *, json_to: TextIO | None, plain_to: TextIO | None
    ) -> None:
        self._log, self._masker, self._clock = log, masker, clock
        self._json = Writer(json_to) if json_to is not None else None
        self._plain = Writer(plain_to) if plain_to is not None else None
        self._say_plain: Callable[[str], None] | None = self._plain.write if self._plain is not None else None
        self._lock = threading.RLock()
        self._repeats = _Repeats()
        self._logger = structlog.wrap_logger(
            _Sink(self._deliver),
            processors=[self._limit, structlog.processors.add_log_level, self._defuse, _as_argument],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            context_class=dict,
        ).bind()

    def info(self, event: str, **fields: Any) -> None:
        """Something happened as it should."""
        with self._lock:
            self._logger.info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something went wrong and the run goes on. With a `kind` field, repeats are counted instead of written."""
        with self._lock:
            self.tick()
            self._logger.warning(event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something ends the run."""
        with self._lock:
            self._logger.error(event, **fields)

    def route(self, say: Callable[[str], None] | None) -> None:
        """Let plain lines go through `say`, which keeps a live display whole; None: straight to the stream again."""
        if self._plain is not None:
            self._say_plain = say or self._plain.write

    def mask(self, text: str) -> str:
        """`text` without secrets, for those who show text that is no event."""
        return self._masker.mask(without_controls(text))

    def tick(self) -> None:
        """Write the counts of repeats whose minute is over. Called about once a second."""
        with self._lock:
            for event, kind, count in self._repeats.over(self._clock.monotonic()):
                self._logger.info("repeated", of=event, kind=kind, count=count, interval_s=REPEATS_INTERVAL_S)

    def close(self) -> None:
        """Write what is still counted and close the log. An event after this opens it again."""
        with self._lock:
            for event, kind, count in self._repeats.over(float("inf")):
                self._logger.info("repeated", of=event, kind=kind, count=count)
            trouble = self._log.close() if self._log is not None else None
            if trouble is not None:
                self._tell(trouble)
            for writer in (self._json, self._plain):
                if writer is not None:
                    writer.close()

    def _limit(self, logger: Any, level: str, fields: Fields) -> Fields:
        """Processor: drop what was said often enough."""
        del logger
        if level == "warning" and "kind" in fields:
            number = self._repeats.number(fields["event"], str(fields["kind"]), self._clock.monotonic())
            if number > REPEATS_MAX:
                raise structlog.DropEvent
            fields["_is_first"] = number == 1
        return fields

    def _defuse(self, logger: Any, level: str, fields: Fields) -> Fields:
        """Processor: a timestamp first, then every field masked and harmless."""
        del logger, level
        moment = datetime.fromtimestamp(self._clock.now(), UTC).isoformat(timespec="milliseconds")
        head = {"timestamp": moment.replace("+00:00", "Z"), "level": fields.pop("level"), "event": fields.pop("event")}
        return head | cast("dict[str, Any]", self._harmless(fields, 0))

    def _harmless(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            return value if abs(value) < float("inf") else str(value)
        if isinstance(value, Mapping) and depth < _DEPTH_MAX:
            return {self._text(str(name)): self._field(str(name), inner, depth) for name, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset) and depth < _DEPTH_MAX:
            return [self._harmless(inner, depth + 1) for inner in value]
        return self._text(value if isinstance(value, str) else str(value))

    def _field(self, name: str, value: Any, depth: int) -> Any:
        if name.lower() in _SECRET_FIELDS and isinstance(value, str):
            return MASK
        return self._harmless(value, depth + 1)

    def _text(self, text: str) -> str:
        # Escapes go first: they could stand inside a secret and hide it from the mask. The cut comes
        # last: half a secret is no longer known.
        masked = self.mask(text)
        return masked if len(masked) <= _TEXT_LENGTH_MAX else masked[: _TEXT_LENGTH_MAX - 1] + "…"

    def _deliver(self, fields: dict[str, Any]) -> None:
        is_first = fields.pop("_is_first", True)
        line = _json_line(fields)
        if self._json is not None:
            self._json.write(line)
        if self._say_plain is not None and is_first and fields["level"] in ("warning", "error"):
            self._say_plain(_plain_line(fields) + "\n")
        if self._log is not None:
            trouble = self._log.append(line)
            if trouble is not None:
                self._tell(trouble)

    def _tell(self, trouble: StorageError) -> None:
        """Say on stderr, past the log, that the log cannot be written."""
        if self._json is not None:
            self._json.write(_json_line({"level": "warning", "event": "log_lost", "message": trouble.message}))
        if self._say_plain is not None:
            self._say_plain(f"warning: {clean(trouble.message)}; the run goes on without its event log\n")


class _Sink:
    """What structlog calls at the end of its chain."""

    def __init__(self, deliver: Callable[[dict[str, Any]], None]) -> None:
        self.info = self.warning = self.error = deliver


class _Repeats:
    """Counts warnings by event and kind within an interval that starts with the first of them."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], tuple[float, int]] = {}

    def number(self, event: str, kind: str, now_s: float) -> int:
        """Which one in its interval this is, from 1."""
        started_s, count = self._counts.get((event, kind), (now_s, 0))
        self._counts[event, kind] = (started_s, count + 1)
        return count + 1

    def over(self, now_s: float) -> list[tuple[str, str, int]]:
        """Intervals that are over: event, kind, and how many were not written. They start anew."""
        ended = [key for key, (started_s, _) in self._counts.items() if now_s - started_s >= REPEATS_INTERVAL_S]
        counts = [(event, kind, self._counts.pop((event, kind))[1] - REPEATS_MAX) for event, kind in ended]
        return [(event, kind, count) for event, kind, count in counts if count > 0]


class _Log:
    """`log.jsonl`: lines that are on disk, or counted as lost."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path, self._disk = path, disk
        self._file: LogFile | None = None
        self._lost = 0

    def append(self, line: str) -> StorageError | None:
        """Add one line. Gives the trouble the first time that it cannot; later losses are counted only."""
        loss = _json_line({"level": "warning", "event": "events_lost", "count": self._lost}) if self._lost else ""
        try:
            if self._file is None:
                self._file = self._open()
            self._file.append((loss + line).encode())
        except StorageError as error:
            self._lost += 1
            return error if self._lost == 1 else None
        self._lost = 0
        return None

    def _open(self) -> LogFile:
        size_bytes, ends_whole = _size_and_end(self._path)
        file = self._disk.open_log(self._path, size_bytes=size_bytes)
        if not ends_whole:
            # A full disk or a power cut tore the last line of the process before.
            file.append(b"\n")
        return file

    def close(self) -> StorageError | None:
        """Close the file; the last words of a run should survive a power cut too, so it is synced."""
        file, self._file = self._file, None
        if file is None:
            return None
        try:
            file.sync()
            file.close()
        except StorageError as error:
            return error
        return None


def _size_and_end(path: Path) -> tuple[int, bool]:
    try:
        with path.open("rb") as file:
            size_bytes = file.seek(0, 2)
            file.seek(max(0, size_bytes - 1))
            return size_bytes, size_bytes == 0 or file.read(1) == b"\n"
    except FileNotFoundError:
        return 0, True
    except OSError as error:
        raise storage_error(error, path) from error


def _as_argument(logger: Any, level: str, fields: Fields) -> tuple[tuple[Fields], dict[str, Any]]:
    """Processor: hand the fields to the sink as they are."""
    del logger, level
    return (fields,), {}


def _json_line(fields: Mapping[str, Any]) -> str:
    line = json.dumps(fields, ensure_ascii=False)
    # Allowed in JSON as they are, yet a terminal that shows the log would obey them.
    return _HIDDEN_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", line) + "\n"


def _plain_line(fields: Mapping[str, Any]) -> str:
    """`warning: provider main is down (kind=timeout)`; the event's name stands in where there is no message."""
    said = clean(str(fields["message"])) if fields.get("message") else fields["event"].replace("_", " ")
    rest = {name: value for name, value in fields.items() if name not in ("timestamp", "level", "event", "message")}
    named = " ".join(f"{name}={clean(str(value))}" for name, value in rest.items())
    return cut(f"{fields['level']}: {said}" + (f" ({named})" if named else ""), _PLAIN_WIDTH)

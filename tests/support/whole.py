"""Whole runs inside the test's own process, on whatever disk and clock the test gives them.

One `Rig` (a simulator with its own count) serves many rounds. Each round has a folder and texts of its own, so
that the simulator's witness can be asked what was served for this round alone.
"""

import errno
import json
import os
import shutil
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO

import polars as pl
from rig import KEY, Rig

from batcher.assemble.run import RunOptions, resume_run, run_job
from batcher.clock import Clock, SystemClock
from batcher.errors import BatcherError
from batcher.journal.frames import log_header, row_numbers, scan_log
from batcher.journal.recovery import recover
from batcher.runs.runfile import read_run_file
from batcher.simulator.answers import messages_digest
from batcher.simulator.witness import read_witness
from batcher.storage.durable import Disk, LocalDisk, LocalLog, LogFile, storage_error

LOG_BYTES_MAX = 1_200
"""A log of so many bytes is sealed in these runs: a few rows."""

JOB = """\
name: job
input: {{path: rows.jsonl, key: id, carry: [text]}}
prompt: "{{{{ text }}}}"
model: gpt-4.1-nano
provider: {{base_url: "{base_url}", api_key: "${{RIG_KEY}}"}}
limits: {{concurrency: {concurrency}}}
retry: {{min_wait: 20ms}}
output: {{path: out.csv}}
{more}"""


@dataclass(frozen=True)
class RunEnded:
    """How one process of a run ended: its exit code, and the error that kept it from beginning, if any."""

    code: int
    error: BatcherError | None
    directory: Path | None


class Round:
    """One job in a folder of its own, run as often as the test likes.

    `TEXT_3` in `more` becomes the text, and so the answer, of row 3. No two rounds ask the same.
    """

    _numbers = count(1)

    def __init__(
        self, rig: Rig, folder: Path, *, rows: int = 12, concurrency: int = 3, more: str = "", text_chars: int = 0
    ) -> None:
        self.rig, self.folder, self.rows = rig, folder, rows
        self.runs = folder / "runs"
        folder.mkdir(parents=True)
        number = next(self._numbers)
        more_text = "x" * text_chars
        self.texts = [f"{number}: แถว {row} dòng số {row} 第{row}行 🙂{more_text}" for row in range(rows)]
        self._row_of = {
            messages_digest([{"role": "user", "content": text}]): row for row, text in enumerate(self.texts)
        }
        with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
            for row, text in enumerate(self.texts):
                file.write(json.dumps({"id": f"r{row}", "text": text}, ensure_ascii=False) + "\n")
        self.job = folder / "job.yaml"
        job = JOB.format(base_url=rig.base_url, concurrency=concurrency, more=more)
        if "TEXT_3" in job:
            job = job.replace("TEXT_3", self.texts[3])
        self.job.write_text(job, encoding="utf-8")

    def options(self, disk: Disk | None = None, clock: Clock | None = None, *, is_retry: bool = False) -> RunOptions:
        return RunOptions(
            runs=self.runs,
            environ={**os.environ, "RIG_KEY": KEY},
            disk=disk or LocalDisk(),
            clock=clock or SystemClock(),
            is_retry=is_retry,
            log_format="plain",
        )

    def run(self, disk: Disk | None = None, clock: Clock | None = None) -> RunEnded:
        return ended(run_job, self.job, self.options(disk, clock))

    def resume(self, disk: Disk | None = None, clock: Clock | None = None, *, is_retry: bool = False) -> RunEnded:
        return ended(resume_run, self.job, self.options(disk, clock, is_retry=is_retry))

    def served(self) -> Counter[int]:
        """How many good answers the simulator gave for each row."""
        url = f"{self.rig.base_url.removesuffix('/v1')}/simulator/witness"
        with urllib.request.urlopen(url) as answer:  # answered after the last line is written
            answer.read()
        rows = (self._row_of.get(record.digest or "") for record in read_witness(self.rig.witness) if record.is_good)
        return Counter(row for row in rows if row is not None)

    def directories(self) -> list[Path]:
        """The runs that began."""
        return sorted(path.parent for path in self.runs.glob("job/*/run.json"))

    @property
    def is_finished(self) -> bool:
        """Whether the newest run says so; `batcher run` would begin another."""
        directories = self.directories()
        return bool(directories) and read_run_file(directories[-1] / "run.json").state == "finished"

    def journalled(self) -> set[int]:
        """The rows that a new process would find in the journal of the run that it would go on with."""
        directories = self.directories()
        if not directories:
            return set()
        copy = self.folder / "journal-copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(directories[-1] / "journal", copy)
        fingerprint = str(read_run_file(directories[-1] / "run.json").fingerprints["journal"])
        found = recover(copy, fingerprint=fingerprint, disk=LocalDisk())
        shutil.rmtree(copy)
        return set(found.tally.done)

    def assert_results_are_whole_or_absent(self) -> None:
        for directory in self.directories():
            if (directory / "results.parquet").exists():
                self.assert_whole(directory)

    def assert_whole(self, directory: Path | None = None) -> None:
        """Each row once, with its own answer, in the results and in the job's output."""
        frame = pl.read_parquet((directory or self.directories()[-1]) / "results.parquet")
        assert list(range(self.rows)) == frame["row"].to_list()
        assert [f"r{row}" for row in range(self.rows)] == frame["key"].to_list()
        assert self.texts == frame["answer"].to_list()
        assert self.texts == frame["text"].to_list()

    def assert_output_is_whole(self) -> None:
        frame = pl.read_csv(self.folder / "out.csv")
        assert self.texts == frame["answer"].to_list()

    def assert_nothing_is_left_over(self) -> None:
        """A finished run leaves no temporary file and no log behind; one that never began is none of its business."""
        places = [self.runs / "job", *(place for run in self.directories() for place in (run, run / "journal"))]
        names = [path.name for place in places for path in place.iterdir()]
        assert [] == [name for name in names if name.endswith((".tmp", ".log"))]


def ended(go: Callable[[Path, RunOptions], tuple[Path, int]], target: Path, options: RunOptions) -> RunEnded:
    """What the command line would make of it; anything but an error of batcher's own is a fault and is raised."""
    try:
        directory, code = go(target, options)
    except BatcherError as error:
        return RunEnded(int(error.exit_code), error, None)
    return RunEnded(code, None, directory)


class StoppingDisk(LocalDisk):
    """Full for good when the journal's log has taken so many appends and so many logs were sealed and removed."""

    def __init__(self, *, appends: int = 6, sealed: int = 0) -> None:
        self._appends, self._sealed = appends, sealed
        self._is_full = False

    def durable_write(self, target: Path, write: Callable[[BinaryIO], None]) -> None:
        self._refuse_when_full(target)
        super().durable_write(target, write)

    def open_log(self, path: Path, *, size_bytes: int = 0) -> LocalLog:
        self._refuse_when_full(path)
        log = super().open_log(path, size_bytes=size_bytes)
        append = log.append

        def counted(chunk: bytes) -> None:
            self._appends -= path.parent.name == "journal"
            self._is_full = self._is_full or (self._appends < 0 and self._sealed <= 0)
            self._refuse_when_full(path)
            append(chunk)

        log.append = counted  # type: ignore[method-assign]
        return log

    def remove(self, path: Path) -> None:
        super().remove(path)
        self._sealed -= path.suffix == ".log"

    def _refuse_when_full(self, path: Path) -> None:
        if self._is_full:
            raise storage_error(OSError(errno.ENOSPC, "full"), path)


class AcknowledgedDisk:
    """Stands before a disk and notes which outcomes it said it has, and which of them it said it has synced."""

    def __init__(self, inner: Disk) -> None:
        self._inner = inner
        self._logs: list[_AcknowledgedLog] = []

    def durable_write(self, target: Path, write: Callable[[BinaryIO], None]) -> None:
        self._inner.durable_write(target, write)

    def open_log(self, path: Path, *, size_bytes: int = 0) -> LogFile:
        log = self._inner.open_log(path, size_bytes=size_bytes)
        if path.parent.name != "journal":
            return log
        noted = _AcknowledgedLog(log, path)
        self._logs.append(noted)
        return noted

    def rename(self, source: Path, target: Path) -> None:
        self._inner.rename(source, target)

    def remove(self, path: Path) -> None:
        self._inner.remove(path)

    @property
    def written(self) -> set[int]:
        """Rows whose outcome the disk took: they survive `kill -9`."""
        return {row for log in self._logs for row in log.rows(len(log.content))}

    @property
    def synced(self) -> set[int]:
        """Rows whose outcome the disk took and synced: they survive a power cut."""
        return {row for log in self._logs for row in log.rows(log.synced_bytes)}


class _AcknowledgedLog:
    def __init__(self, inner: LogFile, path: Path) -> None:
        self._inner, self._path = inner, path
        self.content = bytearray()
        self.synced_bytes = 0

    def append(self, chunk: bytes) -> None:
        self._inner.append(chunk)
        self.content += chunk

    def sync(self) -> None:
        covered = len(self.content)
        self._inner.sync()
        self.synced_bytes = covered

    def reserve(self, free_bytes: int) -> None:
        self._inner.reserve(free_bytes)

    def close(self) -> None:
        self._inner.close()

    def rows(self, size_bytes: int) -> set[int]:
        content = bytes(self.content[:size_bytes])
        header = log_header(1, "f")
        if content.startswith(header[:8]):
            # A new log's own header goes first; its name is as long as it says.
            content = content[20 + int.from_bytes(content[10:12], "little") :]
        scan = scan_log(header + content, self._path, sequence=1, fingerprint="f")
        return set(row_numbers(scan.payloads))

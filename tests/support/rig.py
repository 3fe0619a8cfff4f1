"""Runs the real program against the real simulator, both as processes of their own."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from batcher.simulator.witness import Served, read_witness

BATCHER = (sys.executable, "-m", "batcher")

KEY = "sk-rig-0123456789abcdef"


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def run(self) -> Path:
        """The run directory: the last line on stdout."""
        return Path(self.stdout.strip().splitlines()[-1])


class Rig:
    """A folder with rows and a job, a simulator, and the command line.

    Use as a context manager; the simulator lives until it closes.
    """

    def __init__(self, folder: Path, *simulator_options: str) -> None:
        self.folder = folder
        self.witness = folder / "witness.jsonl"
        self._simulator = subprocess.Popen(
            [*BATCHER, "simulate", "--port", "0", "--witness", str(self.witness), *simulator_options],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._simulator.stdout is not None
        self.base_url = self._simulator.stdout.readline().strip()
        assert self.base_url, "the simulator did not start"

    def __enter__(self) -> "Rig":
        return self

    def __exit__(self, *_: object) -> None:
        self._simulator.terminate()
        self._simulator.wait(10)
        assert self._simulator.stdout is not None
        self._simulator.stdout.close()

    def write_rows(self, count: int) -> None:
        with (self.folder / "rows.jsonl").open("w", encoding="utf-8") as file:
            for index in range(count):
                text = f"แถว {index} dòng số {index} 第{index}行 🙂"
                file.write(json.dumps({"id": f"r{index}", "text": text}, ensure_ascii=False) + "\n")

    def write_job(self, more: str = "", *, prompt: str = "{{ text }}") -> Path:
        job = self.folder / "job.yaml"
        job.write_text(
            f"input: {{path: rows.jsonl, key: id, carry: [text]}}\nprompt: {json.dumps(prompt)}\nmodel: gpt-4.1-nano\n"
            f'provider: {{base_url: "{self.base_url}", api_key: "${{RIG_KEY}}"}}\nretry: {{min_wait: 20ms}}\n{more}',
            encoding="utf-8",
        )
        return job

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*BATCHER, *arguments], cwd=self.folder, text=True, encoding="utf-8",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "RIG_KEY": KEY, **(env or {})},
        )  # fmt: skip

    def run(self, *arguments: str, timeout_s: float = 110, env: dict[str, str] | None = None) -> Ended:
        process = self.start(*arguments, env=env)
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            stdout, stderr = process.communicate()
            raise AssertionError(f"still running after {timeout_s} s:\n{stderr[-3000:]}") from None
        return Ended(process.returncode, stdout, stderr)

    def run_and_kill(self, after_s: float, *arguments: str, by: int = signal.SIGKILL) -> float | None:
        """When it was killed (wall time), or None if it ended by itself before."""
        process = self.start(*arguments)
        try:
            process.wait(after_s)
            killed_s = None
        except subprocess.TimeoutExpired:
            killed_s = time.time()
            process.send_signal(by)
        process.communicate(timeout=60)
        return killed_s

    def served(self) -> list[Served]:
        return read_witness(self.witness)


def results(run: Path) -> pl.DataFrame:
    return pl.read_parquet(run / "results.parquet")


def assert_each_row_once(frame: pl.DataFrame, rows: int) -> None:
    assert frame["row"].to_list() == list(range(rows))
    assert frame["key"].to_list() == [f"r{index}" for index in range(rows)]


STARTS_S = 0.2
"""No process asks its first question sooner after it was started."""


def asked_again(served: Sequence[Served], kills_s: Sequence[float], *, in_hand_s: float = 0.1) -> list[str]:
    """Digests answered more than once, though an earlier answer was out well before every kill near it.

    An answer that left the server in the last `in_hand_s` before a kill may not have been received:
    it was in a socket buffer, or in the turn of the loop that was cut off. One that left up to `STARTS_S` after a kill
    was for a dead client: the server works through what it was sent before, and no new process asks so soon.
    """
    answers = defaultdict(list)
    for record in served:
        if record.is_good and record.is_written:
            answers[record.digest].append(record.finished_s)
    wrong = []
    for digest, times in answers.items():
        for finished_s in sorted(times)[:-1]:
            was_in_hand = any(-STARTS_S < kill_s - finished_s < in_hand_s for kill_s in kills_s)
            wrong += [] if was_in_hand else [str(digest)]
    return wrong


def kill_moments(seed: int, count: int, longest_s: float) -> list[float]:
    chance = random.Random(seed)
    return [chance.uniform(0.3, longest_s) for _ in range(count)]

"""Who is measured, on what, and one measurement of one of them."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from processes import HERE, BenchmarkError, Cores, Server, Used, run_measured

_TEXTS = (
    "I was charged twice for the same order last week, and the app still shows the old balance.",
    "แอปค้างทุกครั้งที่เปิดหน้าชำระเงิน ลองลงใหม่แล้วก็ยังเหมือนเดิม",
    "Tôi không đăng nhập được sau khi đổi số điện thoại, mong được hỗ trợ sớm.",
    "上个月的发票金额不对，请帮我核对一下并重新开具。",
)

_JOB = """\
name: bench
input: {{path: rows-{rows}.jsonl, key: ticket_id}}
prompt:
  system: You sort support tickets.
  user: "Which team should handle this ticket?\\n{{{{ text }}}}"
model: bench-model
params: {{max_tokens: 16}}
{answer}provider:
  name: bench
  base_url: "http://127.0.0.1:{port}/v1"
  api_key: "${{BENCH_KEY}}"
  limits: {{concurrency: {in_flight}}}
  price: {{input: 0.10, cached_input: 0.025, output: 0.40}}
limits: {{concurrency: {in_flight}, requests_per_minute: 60_000_000, tokens_per_minute: 60_000_000_000}}
"""


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of work. `rows_share` is how much of `--rows` it takes, `possible` the rows/s that latency leaves."""

    name: str
    latency_ms: float
    in_flight: int
    answer_bytes: int = 0
    rows_share: float = 1.0

    @property
    def possible(self) -> float | None:
        """Rows a second that nobody can pass; None where only the machine sets an end."""
        return self.in_flight / self.latency_ms * 1000.0 if self.latency_ms else None

    @property
    def description(self) -> str:
        """For people."""
        answer = f"{self.answer_bytes // 1000} kB answers" if self.answer_bytes else "700-byte answers"
        return f"{self.latency_ms:g} ms latency, {self.in_flight} in flight, {answer}"


@dataclass(frozen=True, slots=True)
class Contender:
    """A program that can ask all rows. `rows_share` keeps the slow ones short."""

    name: str
    command: Callable[[Workload, int, int], list[str]]
    rows_share: float = 1.0
    is_batcher: bool = False

    def rows(self, workload: Workload, rows: int) -> int:
        """How many rows this one asks where the fast ones ask `rows`.

        Some requests are made before the first of them leaves and are not in the time that is taken; with
        eight times as many rows as calls in flight, that flatters a slow client by an eighth at most.
        """
        return max(int(rows * workload.rows_share * self.rows_share), 8 * workload.in_flight)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One process, from its start to its end."""

    rows: int
    rows_per_s: float
    """From the first request the server got to the last answer it gave."""
    rows_per_s_whole: float
    """Of the whole process: start-up, and for batcher the results, included."""
    first_request_s: float
    cpu_s: float
    memory_mb: float
    server_busy: float
    """Share of its core that the server used meanwhile: near 1, the server is what was measured."""


WORKLOADS = (
    Workload("no latency", latency_ms=0, in_flight=256),
    Workload("50 ms", latency_ms=50, in_flight=200),
    Workload("long answers", latency_ms=0, in_flight=64, answer_bytes=100_000, rows_share=0.1),
)


def _client(name: str) -> Callable[[Workload, int, int], list[str]]:
    def command(workload: Workload, rows: int, port: int) -> list[str]:
        options = ["--port", str(port), "--rows", str(rows), "--in-flight", str(workload.in_flight)]
        return [sys.executable, str(HERE / "clients.py"), name, *options]

    return command


def _batcher(workload: Workload, rows: int, port: int) -> list[str]:
    return [sys.executable, "-m", "batcher", "run", _job_name(workload, rows, port), "--fresh"]


CONTENDERS = (
    Contender("rawest client", _client("rawest")),
    Contender("pyreqwest loop", _client("pyreqwest")),
    Contender("SDK loop", _client("sdk"), rows_share=0.05),
    Contender("batcher", _batcher, is_batcher=True),
)


def measure(
    contender: Contender, workload: Workload, rows: int, *, server: Server, cores: Cores, directory: Path
) -> Measurement:
    """Run one contender once, and believe it only what the server saw too.

    Raises:
        BenchmarkError: Not every row was answered once.
    """
    server.set_up(latency_ms=workload.latency_ms, answer_bytes=workload.answer_bytes)
    if contender.is_batcher:
        _write_input(directory, rows)
        _write_job(directory, workload, rows, server.port)
    used = run_measured(contender.command(workload, rows, server.port), core=cores.client, directory=directory)
    seen = server.seen()
    if (seen["requests"], seen["answers"], seen["refused"]) != (rows, rows, 0):
        raise BenchmarkError(f"{contender.name}: {rows} rows, but the server saw {seen}")
    if workload.latency_ms and rows > workload.in_flight > seen["in_flight_max"]:
        raise BenchmarkError(f"{contender.name}: {seen['in_flight_max']} in flight, not {workload.in_flight}")
    if contender.is_batcher:
        _check_run(used, rows, directory)
    span_s = max(seen["last_answer_s"] - seen["first_request_s"], 1e-6)
    return Measurement(
        rows=rows,
        rows_per_s=rows / span_s,
        rows_per_s_whole=rows / used.wall_s,
        first_request_s=seen["first_request_s"] - used.began_s,
        cpu_s=used.cpu_s,
        memory_mb=used.memory_mb,
        server_busy=seen["cpu_s"] / span_s,
    )


def _job_name(workload: Workload, rows: int, port: int) -> str:
    return f"{workload.name.replace(' ', '-')}-{rows}-{port}.yaml"


def _write_input(directory: Path, rows: int) -> None:
    path = directory / f"rows-{rows}.jsonl"
    if path.exists():
        return
    with path.open("w", encoding="utf-8") as file:
        for row in range(rows):
            record = {"ticket_id": f"T{row:09d}", "lang": "mixed", "text": f"#{row} {_TEXTS[row % len(_TEXTS)]}"}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _write_job(directory: Path, workload: Workload, rows: int, port: int) -> None:
    # Labels make batcher send `response_format` and check each answer; a long answer is a text.
    answer = "" if workload.answer_bytes else "answer: {labels: [billing, technical, other]}\n"
    job = _JOB.format(rows=rows, port=port, in_flight=workload.in_flight, answer=answer)
    (directory / _job_name(workload, rows, port)).write_text(job, encoding="utf-8")


def _check_run(used: Used, rows: int, directory: Path) -> None:
    """Whether the run says of itself that each row has its answer."""
    run = json.loads((directory / used.stdout.splitlines()[-1] / "run.json").read_text(encoding="utf-8"))
    if run["state"] != "finished" or run["counts"].get("ok") != rows:
        raise BenchmarkError(f"batcher: the run is {run['state']} with {run['counts']}, not {rows} rows ok")

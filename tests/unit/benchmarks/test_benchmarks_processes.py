"""The benchmarks' own server and processes, tried by programs that do less than they should."""

import contextlib
import json
import os
import select
import sys
import urllib.error
import urllib.request
from dataclasses import replace

import msgspec
import pytest
from contenders import CONTENDERS, Contender, measure
from job import job_file
from processes import BenchmarkError, Cores, run_measured, serving
from profiling import STUBBED
from questions import question, row_text
from workloads import BATCHER, RAWEST, Workload

NOT_PINNED = Cores(None, None)
LITTLE = Workload("little", 0, 4, (RAWEST,))
TINY_PYTHON = (sys.executable, "-I", "-S", "-c")


@pytest.fixture(scope="module")
def server():
    with serving(None) as served:
        yield served


def ask(server, path="/v1/chat/completions"):
    url = f"http://127.0.0.1:{server.port}{path}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, b"{}", timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_server_counts_what_it_answers(server) -> None:
    """Its count is what every figure is believed by."""
    server.set_up(answer_bytes=1000)

    answers = [ask(server)[1]["choices"][0]["message"]["content"] for _ in range(3)]

    seen = server.seen()
    assert [1000, 1000, 1000] == [len(answer) for answer in answers]
    assert (3, 3, 0, 1) == (seen["requests"], seen["answers"], seen["errors"], seen["in_flight_max"])


def test_errors_are_the_same_for_everybody(server) -> None:
    """Drawn anew for each program, luck would be measured."""
    drawn = []
    for _ in range(2):
        server.set_up(errors_500=0.3, errors_429=0.3, retry_after_ms=20)
        drawn.append([ask(server)[0] for _ in range(40)])

    assert drawn[0] == drawn[1]
    assert {200, 429, 500} == set(drawn[0])
    seen = server.seen()
    assert 40 == seen["requests"]
    assert drawn[1].count(200) == seen["answers"]
    assert 40 - drawn[1].count(200) == seen["errors"]


def test_a_program_that_asks_too_little_is_not_believed(server, tmp_path) -> None:
    """It ends with code 0 and took no time: the fastest of all, were it not for the server's count."""
    idle = Contender("idle", lambda task: [*TINY_PYTHON, "pass"])

    with pytest.raises(BenchmarkError, match="idle: 40 rows, but the server saw"):
        measure(idle, LITTLE, 40, server=server, cores=NOT_PINNED, directory=tmp_path)


def test_a_program_with_more_calls_out_is_not_believed(server, tmp_path) -> None:
    """With a latency, twice the calls make twice the rate."""
    few, many = replace(LITTLE, latency_ms=20), replace(LITTLE, latency_ms=20, in_flight=8)
    greedy = Contender("greedy", lambda task: CONTENDERS[RAWEST].command(replace(task, workload=many)))

    assert 8 == measure(CONTENDERS[RAWEST], many, 40, server=server, cores=NOT_PINNED, directory=tmp_path).in_flight_max
    with pytest.raises(BenchmarkError, match="greedy: 8 in flight, more than 4"):
        measure(greedy, few, 40, server=server, cores=NOT_PINNED, directory=tmp_path)


def test_the_rawest_client_asks_again_what_failed(server, tmp_path) -> None:
    """Every row is answered, errors or not; long answers come in many pieces."""
    faulty = replace(LITTLE, errors_500=0.2, answer_bytes=100_000)

    result = measure(CONTENDERS[RAWEST], faulty, 60, server=server, cores=NOT_PINNED, directory=tmp_path)

    assert 60 == result.rows
    assert server.seen()["errors"] > 0


def test_memory_is_the_childs_own(tmp_path) -> None:
    """On Linux a child's peak begins at its parent's size; this process is far larger than a bare Python."""
    ballast = bytes(64 << 20)

    bare = run_measured([*TINY_PYTHON, "pass"], core=None, directory=tmp_path)
    full = run_measured([*TINY_PYTHON, "len(b'x' * (80 << 20))"], core=None, directory=tmp_path)

    assert len(ballast) / 2**20 > bare.memory_mb
    assert 80 < full.memory_mb < 80 + 2 * bare.memory_mb


def test_a_failing_program_is_an_error_with_its_words(tmp_path) -> None:
    """A crash early on would look like a fast run."""
    with pytest.raises(BenchmarkError, match="ended with code 3: no rows"):
        run_measured(
            [*TINY_PYTHON, "import sys; sys.stderr.write('no rows'); sys.exit(3)"], core=None, directory=tmp_path
        )


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system cannot wait for a process of somebody else's")
def test_a_program_that_hangs_is_ended(tmp_path) -> None:
    """Left behind, it would take CPU from everything measured after it."""
    told = tmp_path / "pid"
    hangs = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(100)"

    with pytest.raises(BenchmarkError, match="took longer than 2 s"):
        run_measured([*TINY_PYTHON, hangs], core=None, directory=tmp_path, timeout_s=2)

    with contextlib.suppress(ProcessLookupError):
        # Readable once it has ended, whether or not init has buried it.
        ended = os.pidfd_open(int(told.read_text()))
        assert [ended] == select.select([ended], [], [], 10)[0]
        os.close(ended)


def test_everybody_sends_the_same_prompt(tmp_path) -> None:
    """A shorter prompt would be a head start."""
    job = job_file(tmp_path, LITTLE, 4, url="http://127.0.0.1:1/v1").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in (tmp_path / "rows-4-0.jsonl").read_text(encoding="utf-8").splitlines()]

    assert [row_text(row) for row in range(4)] == [row["text"] for row in rows]
    assert ["charged", "แอป", "đăng", "发票"] == [
        next(word for word in ("charged", "แอป", "đăng", "发票") if word in question(row)) for row in range(4)
    ]
    for words in ("You sort support tickets.", "Which team should handle this ticket?"):
        assert words in job
        assert words in question(0)


def test_huge_rows_are_as_large_as_said() -> None:
    """In bytes, in every language."""
    for row in range(4):
        assert 99_000 < len(row_text(row, 100_000).encode()) < 102_000


@pytest.mark.parametrize("feature", ["budget: {usd", "requests_per_minute", "labels: [", "price:", "key: ticket_id"])
def test_batcher_runs_with_everything_on(feature, tmp_path) -> None:
    """A benchmark of a program with half of it switched off is of another program."""
    assert feature in job_file(tmp_path, LITTLE, 1, url="http://127.0.0.1:1/v1").read_text(encoding="utf-8")


def test_every_stub_stands_where_the_program_goes(server, tmp_path) -> None:
    """When the code moves, a stub that nobody calls would make its part seem to cost nothing."""
    from processes import HERE

    job = job_file(tmp_path, LITTLE, 1500, url=f"http://127.0.0.1:{server.port}/v1")
    report = tmp_path / "sample.json"
    command = [sys.executable, str(HERE / "stubs.py"), str(report), "--rows", "1500"]
    command += [word for part in STUBBED for word in ("--stub", part)]

    run_measured([*command, "--", "run", job.name, "--fresh"], core=None, directory=tmp_path)

    sample = msgspec.json.decode(report.read_bytes())
    assert 1500 == sample["rows"]
    assert 0 < sample["main_thread_s"] <= sample["rows_s"] + 0.05


def test_a_measurement_of_batcher_leaves_no_run_behind(server, tmp_path) -> None:
    """Thousands of answers of 100 kB in each of many rounds would fill the disk."""
    result = measure(CONTENDERS[BATCHER], LITTLE, 50, server=server, cores=NOT_PINNED, directory=tmp_path)

    assert 50 == result.rows
    assert [] == [path for path in (tmp_path / "runs" / "bench").iterdir() if path.is_dir()]

# ruff: noqa: E501  # tables of cases read best with one case a line
"""The contract's commands, exit codes, results and failure kinds, held to word for word through the command line."""

import csv
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback import Asked, Loopback, Said, completion, echo
from rig import KEY, Ended, Rig, assert_each_row_once, results

from batcher.cli.main import main

Cli = Callable[..., Ended]

TEXT_COLUMNS = {
    "row": pa.int64(), "status": pa.string(), "answer": pa.string(), "reasoning": pa.string(),
    "error_kind": pa.string(), "error": pa.string(), "finish_reason": pa.string(), "model": pa.string(),
    "system_fingerprint": pa.string(), "provider": pa.string(), "cache": pa.string(), "attempts": pa.int16(),
    "input_tokens": pa.int32(), "cached_tokens": pa.int32(), "output_tokens": pa.int32(),
    "reasoning_tokens": pa.int32(), "cost_usd": pa.float64(), "latency_ms": pa.float32(),
    "finished_at": pa.timestamp("ms", tz="UTC"),
}  # fmt: skip
"""Section 6 of the design for a job of text without a key, in its order."""


@pytest.fixture
def cli(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line, in this process and in the test's folder."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "BATCHER_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RIG_KEY", KEY)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        said = capfd.readouterr()
        assert "Traceback" not in said.err, said.err
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return call


def write_rows(folder: Path, count: int, *, text: str = "text {}") -> None:
    lines = [json.dumps({"id": f"r{at}", "text": text.format(at)}, ensure_ascii=False) + "\n" for at in range(count)]
    (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")


def write_job(folder: Path, base_url: str, more: str = "", **changes: str) -> None:
    fields = {
        "input": "{path: rows.jsonl, key: id}",
        "prompt": '"{{ text }}"',
        "model": "gpt-4.1-nano",
        "provider": f'{{base_url: "{base_url}", api_key: "${{RIG_KEY}}"}}',
        "retry": "{attempts: 2, min_wait: 10ms, max_wait: 20ms}",
    } | changes
    lines = "".join(f"{name}: {value}\n" for name, value in fields.items() if value)
    (folder / "job.yaml").write_text(lines + more, encoding="utf-8")


def one_refused(asked: Asked) -> Said:
    return Said(400, {"error": {"message": "no"}}) if asked.text == "text 1" else echo(asked)


def schema_of(run: Path) -> dict[str, pa.DataType]:
    schema = pq.read_schema(run / "results.parquet")
    return {field.name: field.type for field in schema}


def run_json(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


# ---------------------------------------------------------------------------------------------------- results


def test_results_of_a_text_job_have_the_contract_columns(tmp_path: Path, cli: Cli) -> None:
    write_rows(tmp_path, 3)
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url, input="rows.jsonl")
        ended = cli("run", "job.yaml")

    assert ended.code == 0, ended.stderr
    assert list(schema_of(ended.run).items()) == list(TEXT_COLUMNS.items())
    row = results(ended.run).row(1, named=True)
    finished_at, latency_ms = row.pop("finished_at"), row.pop("latency_ms")
    assert row == {
        "row": 1, "status": "ok", "answer": "text 1", "reasoning": None, "error_kind": None, "error": None,
        "finish_reason": "stop", "model": "served-model", "system_fingerprint": "fp_1", "provider": "main",
        "cache": None, "attempts": 1, "input_tokens": 10, "cached_tokens": 0, "output_tokens": 2,
        "reasoning_tokens": 0, "cost_usd": pytest.approx(1.8e-6),
    }  # fmt: skip
    assert abs(finished_at.timestamp() - time.time()) < 60
    assert 0 < latency_ms < 60_000


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (pa.array(["ก", "ข", "ค"]), pa.string()),
        (pa.array([30, 10, 20], pa.int32()), pa.int32()),
        (pa.array([2**63, 2**64 - 1, 5], pa.uint64()), pa.uint64()),
        (pa.array([1, 2, 3], pa.date32()), pa.date32()),
    ],
    ids=str,
)
def test_results_of_a_labels_job_have_key_label_and_carried_columns(
    tmp_path: Path, cli: Cli, key: pa.Array, expected: pa.DataType
) -> None:
    """`key` and carried columns have their type of the input; `label` stands behind `answer`."""
    pq.write_table(
        pa.table({"ticket": key, "text": ["a", "b", "a"], "at": pa.array([1, None, 3], pa.timestamp("us", tz="UTC"))}),
        tmp_path / "rows.parquet",
    )
    with Loopback(lambda asked: completion(f"  {asked.text.upper()}. ")) as provider:
        write_job(
            tmp_path, provider.base_url, input="{path: rows.parquet, key: ticket, carry: [at, text]}",
            answer="{labels: [a, b], structured: off}",
        )  # fmt: skip
        ended = cli("run", "job.yaml")

    assert ended.code == 0, ended.stderr
    types = dict(TEXT_COLUMNS)
    wanted = [("row", types.pop("row")), ("key", expected), ("status", types.pop("status"))]
    wanted += [("answer", types.pop("answer")), ("label", pa.string()), *types.items()]
    wanted += [("at", pa.timestamp("us", tz="UTC")), ("text", pa.string())]
    assert list(schema_of(ended.run).items()) == wanted
    table = pq.read_table(ended.run / "results.parquet")
    assert table["key"].to_pylist() == key.to_pylist()
    assert table["label"].to_pylist() == ["a", "b", "a"]
    assert table["answer"].to_pylist() == ["  A. ", "  B. ", "  A. "]


def test_a_carried_column_may_not_hide_a_key(tmp_path: Path, cli: Cli) -> None:
    """The key may be carried too: it stands there twice, under both names."""
    write_rows(tmp_path, 2)
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url, input="{path: rows.jsonl, key: id, carry: [id]}")
        ended = cli("run", "job.yaml")
    frame = results(ended.run)
    assert frame["key"].to_list() == frame["id"].to_list() == ["r0", "r1"]


def test_reasoning_is_split_off(tmp_path: Path, cli: Cli) -> None:
    write_rows(tmp_path, 1)
    with Loopback(lambda asked: completion("<think>hm\n</think>\n\nyes")) as provider:
        write_job(tmp_path, provider.base_url, prompt='{user: "{{ text }}", reasoning: "<think>"}')
        ended = cli("run", "job.yaml")
    row = results(ended.run).row(0, named=True)
    assert (row["answer"].strip(), row["reasoning"].strip()) == ("yes", "hm")


def test_a_row_that_holds_a_template_stays_text_and_every_language_comes_back(tmp_path: Path, cli: Cli) -> None:
    """P10, P13."""
    texts = [
        "{{ 7 * 7 }}",
        "{% raw %}",
        "ภาษาไทยไม่มีช่องว่าง",
        "Tiếng Việt có dấu",
        "中文🙂👩‍👩‍👧",
        '"\\ \n\t\u2028',
        "=1+1",
    ]
    lines = [json.dumps({"id": str(at), "text": text}) + "\n" for at, text in enumerate(texts)]
    (tmp_path / "งาน.jsonl").write_text("".join(lines))
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url, "name: việc-每晚\n", input="{path: งาน.jsonl, key: id}")
        ended = cli("run", "job.yaml")
    assert [asked.text for asked in sorted(provider.asked, key=lambda a: texts.index(a.text))] == texts
    assert results(ended.run)["answer"].to_list() == texts
    assert ended.run.parent.name == "việc-每晚"


# ------------------------------------------------------------------------------------------- output and export


def test_output_may_be_csv_or_jsonl_and_csv_cells_are_defused(tmp_path: Path, cli: Cli) -> None:
    write_rows(tmp_path, 4)
    evil = {"text 0": "=1+1", "text 1": "+cmd|' /C calc'!A0", "text 2": "-2", "text 3": "@SUM(A1)"}
    with Loopback(lambda asked: completion(evil[asked.text])) as provider:
        write_job(tmp_path, provider.base_url, "output: {path: out/answers.csv}\n")
        first = cli("run", "job.yaml")
        write_job(tmp_path, provider.base_url, "output: {path: out/answers.jsonl}\n")
        second = cli("run", "job.yaml", "--fresh")
    assert (first.code, second.code) == (0, 0), first.stderr + second.stderr
    with (tmp_path / "out/answers.csv").open(encoding="utf-8", newline="") as file:
        cells = [row["answer"] for row in csv.DictReader(file)]
    assert [cell[0] for cell in cells] == ["'"] * 4
    assert [cell[1:] for cell in cells] == list(evil.values())
    lines = [json.loads(line) for line in (tmp_path / "out/answers.jsonl").read_text().splitlines()]
    assert [line["answer"] for line in lines] == list(evil.values())
    assert [line["key"] for line in lines] == ["r0", "r1", "r2", "r3"]


@pytest.mark.parametrize("name", ["x.parquet", "x.jsonl", "x.csv", "x.jsonl.gz", "x.csv.zst"])
def test_export_writes_every_format(name: str, tmp_path: Path, cli: Cli) -> None:
    write_rows(tmp_path, 3)
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url)
        run = cli("run", "job.yaml").run
    ended = cli("export", str(run), "--to", name)
    assert ended.code == 0, ended.stderr
    read = {"parquet": pl.read_parquet, "jsonl": pl.read_ndjson, "csv": pl.read_csv}[name.split(".")[1]]
    assert read(tmp_path / name)["answer"].to_list() == ["text 0", "text 1", "text 2"]


# -------------------------------------------------------------------------------------- limit, set, var, logs


def test_limit_set_and_var(tmp_path: Path, cli: Cli) -> None:
    write_rows(tmp_path, 9)
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url, prompt='"{{ today }} {{ text }}"')
        ended = cli(
            "run", "job.yaml", "--limit", "2", "--set", "params.seed=7", "--set", "model=other", "--var", "today=จันทร์"
        )
    assert ended.code == 0, ended.stderr
    assert sorted(asked.text for asked in provider.asked) == ["จันทร์ text 0", "จันทร์ text 1"]
    assert {(asked.body["model"], asked.body["seed"]) for asked in provider.asked} == {("other", 7)}


def test_dry_run_and_check_send_nothing_and_write_nothing(tmp_path: Path, cli: Cli) -> None:
    write_rows(tmp_path, 5)
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url)
        assert cli("run", "job.yaml", "--dry-run").code == 0
        assert cli("check", "job.yaml").code == 0
    assert provider.asked == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.yaml", "rows.jsonl"]


def test_last_line_on_stdout_is_the_run_directory_however_it_ends(tmp_path: Path, cli: Cli) -> None:
    write_rows(tmp_path, 3)
    for answer, code in (
        (echo, 0),
        (lambda asked: Said(401, {"error": {"message": "no"}}), 6),
        (one_refused, 3),
    ):
        with Loopback(answer) as provider:
            write_job(tmp_path, provider.base_url)
            ended = cli("run", "job.yaml", "--fresh")
        assert ended.code == code, ended.stderr
        assert ended.stdout.count("\n") == 1
        assert (tmp_path / ended.run / "run.json").is_file()


@pytest.mark.parametrize("code", [0, 3, 6])
def test_json_log_format_gives_only_json_lines_on_stderr(code: int, tmp_path: Path, cli: Cli) -> None:
    write_rows(tmp_path, 3)
    answers = {0: echo, 3: one_refused, 6: lambda asked: Said(401, {"error": {"message": "no"}})}
    with Loopback(answers[code]) as provider:
        write_job(tmp_path, provider.base_url)
        ended = cli("run", "job.yaml", "--log-format", "json")
    assert ended.code == code
    assert ended.stderr.strip()
    assert all(isinstance(json.loads(line), dict) for line in ended.stderr.splitlines())


def test_json_log_format_holds_for_a_refused_job_too(tmp_path: Path, cli: Cli) -> None:
    """What reads JSON lines does not read two formats: but the sentence is there either way."""
    write_rows(tmp_path, 1)
    write_job(tmp_path, "http://127.0.0.1:9/v1", "modle: x\n")
    ended = cli("run", "job.yaml", "--log-format", "json")
    assert ended.code == 2
    assert "modle" in ended.stderr


@pytest.mark.slow
def test_no_color_is_obeyed_in_a_terminal_and_a_pipe_has_no_escapes(tmp_path: Path) -> None:
    with Rig(tmp_path, "--latency", "300ms") as rig:
        rig.write_rows(10)
        rig.write_job()
        coloured = in_terminal(tmp_path, {})
        plain = in_terminal(tmp_path, {"NO_COLOR": "1"})
        piped = rig.run("run", "job.yaml", "--fresh")
    assert "rows" in coloured
    assert not re.search(r"\x1b\[[0-9;]*(3[0-8]|4[0-8]|9[0-7]|10[0-7])m", plain), repr(plain[:2000])
    assert "\x1b" not in piped.stderr + piped.stdout


def in_terminal(folder: Path, env: dict[str, str]) -> str:
    """What `batcher run` shows in a terminal."""
    ours, theirs = pty.openpty()
    base = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "CI")}
    process = subprocess.Popen(
        [sys.executable, "-m", "batcher", "run", "job.yaml", "--fresh"], cwd=folder, stdout=subprocess.DEVNULL,
        stderr=theirs, env={**base, "TERM": "xterm-256color", "RIG_KEY": KEY, **env},
    )  # fmt: skip
    os.close(theirs)
    shown, deadline_s = b"", time.monotonic() + 30
    while time.monotonic() < deadline_s:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            shown += chunk
    assert process.wait(10) == 0
    os.close(ours)
    return shown.decode("utf-8", "replace")


# --------------------------------------------------------------------------------- going on, fresh, retry, lock


def stop_after(count: int) -> Callable[[Asked], Said]:
    """Answers so many requests, then refuses the key: the run stops with code 6 and is not finished."""
    return lambda asked: echo(asked) if asked.number <= count else Said(401, {"error": {"message": "expired"}})


def unfinished(folder: Path, provider: Loopback, cli: Cli, *, rows: int = 30, answered: int = 10) -> Path:
    write_rows(folder, rows)
    write_job(folder, provider.base_url, "limits: {concurrency: 2}\n")
    provider.answer = stop_after(answered)
    ended = cli("run", "job.yaml")
    assert ended.code == 6, ended.stderr
    provider.answer = echo
    provider.asked.clear()
    return ended.run


def test_run_goes_on_with_another_concurrency_and_asks_only_what_is_missing(tmp_path: Path, cli: Cli) -> None:
    with Loopback() as provider:
        run = unfinished(tmp_path, provider, cli)
        write_job(tmp_path, provider.base_url, "limits: {concurrency: 9}\ntimeout: 30s\n")
        ended = cli("run", "job.yaml")
    assert ended.code == 0, ended.stderr
    assert ended.run == run
    assert len(provider.asked) == 20
    assert_each_row_once(results(run), 30)


@pytest.mark.parametrize("by", ["directory", "job"])
def test_resume_goes_on(by: str, tmp_path: Path, cli: Cli) -> None:
    with Loopback() as provider:
        run = unfinished(tmp_path, provider, cli)
        ended = cli("resume", str(run) if by == "directory" else "job.yaml")
        again = cli("resume", str(run))
    assert (ended.code, again.code) == (0, 0), ended.stderr + again.stderr
    assert (tmp_path / ended.run).samefile(tmp_path / run)
    assert len(provider.asked) == 20
    assert_each_row_once(results(run), 30)


CHANGES = {
    "prompt.user": {"prompt": '"Say: {{ text }}"'},
    "prompt.system": {"prompt": '{user: "{{ text }}", system: "Be brief."}'},
    "model": {"model": "gpt-4.1-mini"},
    "params": {"params": "{temperature: 0.5}"},
    "answer.labels": {"answer": "{labels: [a, b]}"},
    "input.key": {"input": "{path: rows.jsonl}"},
    "input.where": {"input": "{path: rows.jsonl, key: id, where: \"id <> 'r3'\"}"},
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_changed_question_is_refused_by_name_and_fresh_begins_anew(field: str, tmp_path: Path, cli: Cli) -> None:
    with Loopback() as provider:
        run = unfinished(tmp_path, provider, cli)
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        write_job(tmp_path, provider.base_url, **CHANGES[field])
        refused = cli("run", "job.yaml")
        after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        assert refused.code == 2
        lines = refused.stderr.splitlines()
        assert len(lines) <= 2
        assert lines[0].startswith("error: ")
        assert field in lines[0]
        assert "--fresh" in refused.stderr
        assert refused.stdout == ""
        assert provider.asked == []
        assert after == before
        if field == "prompt.user":
            fresh = cli("run", "job.yaml", "--fresh")
            assert fresh.code == 0, fresh.stderr
            assert fresh.run != run
            assert len(provider.asked) == 30


@pytest.mark.parametrize("flag", [["--limit", "20"], ["--limit", "40"]])
def test_another_limit_is_another_question_or_goes_on(flag: list[str], tmp_path: Path, cli: Cli) -> None:
    """Either is sound; what must not be is a finished run that lacks rows or has too many."""
    with Loopback() as provider:
        unfinished(tmp_path, provider, cli)
        ended = cli("run", "job.yaml", *flag)
    if ended.code == 2:
        assert "input.limit" in ended.stderr
        return
    assert ended.code == 0, ended.stderr
    assert_each_row_once(results(ended.run), min(30, int(flag[1])))


def test_a_finished_run_is_left_alone_and_run_begins_another(tmp_path: Path, cli: Cli) -> None:
    write_rows(tmp_path, 3)
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url)
        first, second = cli("run", "job.yaml"), cli("run", "job.yaml")
    assert first.run != second.run
    assert len(provider.asked) == 6
    status = cli("status", "--json")
    assert [json.loads(line)["state"] for line in status.stdout.splitlines()] == ["finished", "finished"]


def test_retry_asks_exactly_the_failed_and_invalid_rows_again_and_adds_up(tmp_path: Path) -> None:
    """Both witnesses agree: calls, tokens and dollars of the results are what the simulator served."""
    (tmp_path / "simulator.yaml").write_text(
        "answer: 'label:a,b'\nprice: {input: 1, output: 3}\nrules:\n"
        "  - {contains: flaky, fault: '500', times: 2}\n  - {contains: odd, fault: off_answer, times: 1}\n"
        "  - {contains: never, fault: '400'}\n"
    )
    marks = {3: "flaky", 5: "odd", 7: "never", 11: "odd 2"}
    with Rig(tmp_path, "--config", str(tmp_path / "simulator.yaml")) as rig:
        lines = [json.dumps({"id": f"r{at}", "text": f"{marks.get(at, 'fine')} {at}"}) + "\n" for at in range(20)]
        (tmp_path / "rows.jsonl").write_text("".join(lines))
        write_job(
            tmp_path, rig.base_url, "answer: {labels: [a, b], structured: off, attempts: 0}\n",
            provider=f'{{base_url: "{rig.base_url}", api_key: "${{RIG_KEY}}", price: {{input: 1, output: 3}}}}',
        )  # fmt: skip
        first = rig.run("run", "job.yaml")
        run = tmp_path / first.run
        before, served_before = results(run), rig.served()
        second = rig.run("retry", first.run.as_posix())
        after, served = results(run), rig.served()

    assert first.code == 3, first.stderr
    assert {row: (status, kind) for row, status, kind in before.select("row", "status", "error_kind").rows() if status != "ok"} == {
        3: ("failed", "server"), 5: ("invalid", "invalid_answer"), 7: ("failed", "bad_request"), 11: ("invalid", "invalid_answer"),
    }  # fmt: skip
    assert before["attempts"][3] == 2
    assert before["attempts"][5] == before["attempts"][11] == 1
    assert second.code == 3, "one of 20 rows is refused for good, and that is more than 1 %"
    assert_each_row_once(after, 20)
    assert [row for row in range(20) if after["status"][row] != "ok"] == [7]
    asked_again = served[len(served_before) :]
    assert len(asked_again) == 4, "exactly the four rows, each once"
    assert after["attempts"].to_list() == [before["attempts"][at] + (1 if at in marks else 0) for at in range(20)]
    assert after["attempts"].sum() == len(served)
    cost_usd = sum((record.cost_usd or Decimal(0) for record in served), Decimal(0))
    assert after["cost_usd"].sum() == pytest.approx(float(cost_usd))
    assert after["input_tokens"].sum() == sum(record.prompt_tokens for record in served)
    totals = run_json(run)["totals"]
    assert Decimal(totals["cost_usd"]) == cost_usd
    assert totals["calls"] == len(served)
    assert run_json(run)["counts"] == {"rows": 20, "done": 20, "ok": 19, "invalid": 0, "failed": 1, "empty": 0}


def test_retry_of_a_run_without_failures_asks_nothing(tmp_path: Path, cli: Cli) -> None:
    write_rows(tmp_path, 3)
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url)
        run = cli("run", "job.yaml").run
        ended = cli("retry", str(run))
    assert ended.code == 0, ended.stderr
    assert len(provider.asked) == 3
    assert_each_row_once(results(run), 3)


def test_a_stopped_retry_goes_on_and_loses_no_answer(tmp_path: Path, cli: Cli) -> None:
    """A retry that is refused half-way leaves the run as it was, with the rows it asked better off."""
    write_rows(tmp_path, 10)
    with Loopback(lambda asked: Said(500, {}) if int(asked.text[5:]) % 2 else echo(asked)) as provider:
        write_job(tmp_path, provider.base_url, "limits: {concurrency: 1}\ncircuit_breaker: {failure_threshold: 1000}\n")
        run = cli("run", "job.yaml").run
        provider.asked.clear()
        provider.answer = stop_after(2)
        assert cli("retry", str(run)).code == 6
        provider.answer = echo
        provider.asked.clear()
        ended = cli("retry", str(run))
    assert ended.code == 0, ended.stderr
    assert len(provider.asked) == 3
    frame = results(run)
    assert_each_row_once(frame, 10)
    assert frame["status"].unique().to_list() == ["ok"]


def test_two_runs_of_one_job_at_once_are_refused_with_7(tmp_path: Path) -> None:
    with Rig(tmp_path, "--latency", "100s") as rig:
        rig.write_rows(3)
        rig.write_job()
        first = rig.start("run", "job.yaml")
        try:
            wait_for(lambda: any(tmp_path.glob("runs/job/*/run.json")))
            run = next(tmp_path.glob("runs/job/*/run.json")).parent
            others = [rig.run("run", "job.yaml"), rig.run("run", "job.yaml", "--fresh"), rig.run("resume", str(run))]
            assert first.poll() is None
        finally:
            first.kill()
            first.communicate(timeout=30)
    for other in others:
        assert other.code == 7
        assert other.stderr.startswith("error: ")
        assert str(first.pid) in other.stderr
        assert "Traceback" not in other.stderr
        assert other.stdout == ""
    assert len(list((tmp_path / "runs/job").glob("2*"))) == 1


def wait_for(is_so: Callable[[], bool], *, most_s: float = 20) -> None:
    deadline_s = time.monotonic() + most_s
    while not is_so():
        assert time.monotonic() < deadline_s, "it did not come to that"
        time.sleep(0.02)


# ------------------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(("bad_rows", "code"), [(3, 3), (2, 0)])
def test_more_than_one_percent_failed_is_exit_code_3_and_one_percent_is_0(
    bad_rows: int, code: int, tmp_path: Path, cli: Cli
) -> None:
    bad = {f"text {150 + at}" for at in range(bad_rows)}
    write_rows(tmp_path, 200)
    with Loopback(
        lambda asked: Said(400, {"error": {"message": "no"}}) if asked.text in bad else echo(asked)
    ) as provider:
        write_job(tmp_path, provider.base_url)
        ended = cli("run", "job.yaml")
    assert ended.code == code, ended.stderr
    assert f"{bad_rows} failed" in ended.stderr, "the last lines say how many rows failed all the same"
    assert results(ended.run)["error_kind"].drop_nulls().to_list() == ["bad_request"] * bad_rows


def test_a_wrong_key_is_exit_code_6_within_seconds_in_the_providers_words(tmp_path: Path) -> None:
    with Rig(tmp_path, "--key", "sk-another-key-0123456789") as rig:
        rig.write_rows(5_000)
        rig.write_job()
        began_s = time.monotonic()
        ended = rig.run("run", "job.yaml")
        took_s = time.monotonic() - began_s
        served = rig.served()
    assert ended.code == 6
    assert took_s < 10
    assert len(served) <= 60
    assert "401" in ended.stderr
    assert "hint: " in ended.stderr
    assert KEY not in ended.stderr


@pytest.mark.parametrize(
    "said",
    [
        Said(402, {"error": {"message": "Insufficient Balance"}}),
        Said(
            429,
            {
                "error": {
                    "message": "You exceeded your current quota",
                    "code": "insufficient_quota",
                    "type": "insufficient_quota",
                }
            },
        ),
        Said(403, {"error": {"message": "Country not supported"}}),
    ],
    ids=["402", "insufficient_quota", "403"],
)
def test_no_quota_and_no_right_are_exit_code_6(said: Said, tmp_path: Path, cli: Cli) -> None:
    write_rows(tmp_path, 50)
    with Loopback(lambda asked: said) as provider:
        write_job(tmp_path, provider.base_url, "limits: {concurrency: 4}\n")
        ended = cli("run", "job.yaml")
        assert ended.code == 6, ended.stderr
        assert said.body["error"]["message"] in ended.stderr
        assert len(provider.asked) <= 8
        provider.answer = echo
        gone_on = cli("run", "job.yaml")
    assert gone_on.code == 0, gone_on.stderr
    assert gone_on.run == ended.run
    assert results(ended.run)["status"].unique().to_list() == ["ok"], "no row was marked failed for the key's fault"


def test_the_first_20_rows_all_refused_is_exit_code_6_and_no_row_is_spoilt(tmp_path: Path, cli: Cli) -> None:
    write_rows(tmp_path, 400)
    with Loopback(lambda asked: Said(400, {"error": {"message": "Unknown parameter: 'sed'"}})) as provider:
        write_job(tmp_path, provider.base_url, "params: {sed: 7}\nlimits: {concurrency: 5}\n")
        ended = cli("run", "job.yaml")
        assert ended.code == 6, ended.stderr
        assert "Unknown parameter: 'sed'" in ended.stderr
        assert len(provider.asked) <= 40
        provider.answer = echo
        gone_on = cli("run", "job.yaml")
    assert gone_on.run == ended.run
    assert gone_on.code == 0, gone_on.stderr
    assert_each_row_once(results(ended.run), 400)
    assert results(ended.run)["status"].unique().to_list() == ["ok"]


def test_a_small_job_that_is_refused_whole_is_exit_code_6(tmp_path: Path, cli: Cli) -> None:
    write_rows(tmp_path, 5)
    with Loopback(
        lambda asked: Said(
            404, {"error": {"message": "The model `gpt-5.1-nano` does not exist", "code": "model_not_found"}}
        )
    ) as provider:
        write_job(tmp_path, provider.base_url)
        ended = cli("run", "job.yaml")
    assert ended.code == 6, ended.stderr
    assert "does not exist" in ended.stderr, "the provider's own words (P8), not only where to find them"


def test_an_outage_is_exit_code_4_and_costs_no_row_its_tries(tmp_path: Path, cli: Cli) -> None:
    write_rows(tmp_path, 40)
    with Loopback(
        lambda asked: echo(asked) if asked.number <= 10 else Said(503, {"error": {"message": "overloaded"}})
    ) as provider:
        write_job(
            tmp_path,
            provider.base_url,
            "limits: {concurrency: 3}\ncircuit_breaker: {failure_threshold: 3, recovery_time: 100ms, max_outage: 1s}\n",
        )
        ended = cli("run", "job.yaml")
        assert ended.code == 4, ended.stderr
        assert "max_outage" in ended.stderr
        provider.answer = echo
        gone_on = cli("resume", str(ended.run))
    assert gone_on.code == 0, gone_on.stderr
    assert_each_row_once(results(ended.run), 40)
    assert results(ended.run)["status"].unique().to_list() == ["ok"]


# ------------------------------------------------------------------------------------------- keys, structured


def test_one_wrong_key_of_three_is_set_aside_and_costs_no_row(tmp_path: Path) -> None:
    with Rig(tmp_path, "--key", "sk-good-0123456789-aaaa", "--key", "sk-good-0123456789-bbbb") as rig:
        rig.write_rows(300)
        rig.write_job()
        job = (tmp_path / "job.yaml").read_text()
        (tmp_path / "job.yaml").write_text(job.replace('"${RIG_KEY}"', '["${RIG_KEY}", "${GOOD_A}", "${GOOD_B}"]'))
        ended = rig.run(
            "run", "job.yaml", env={"GOOD_A": "sk-good-0123456789-aaaa", "GOOD_B": "sk-good-0123456789-bbbb"}
        )
        served = rig.served()
    assert ended.code == 0, ended.stderr
    assert_each_row_once(results(tmp_path / ended.run), 300)
    assert results(tmp_path / ended.run)["status"].unique().to_list() == ["ok"]
    assert "set aside" in ended.stderr
    good = Counter(record.key for record in served if record.is_good)
    assert sum(good.values()) == 300
    assert len(good) == 2, "both good keys share the work"


@pytest.mark.parametrize(
    "structured",
    [
        "taken",
        pytest.param("refused", marks=pytest.mark.slow),
        pytest.param("ignored", marks=pytest.mark.slow),
        "crashes",
    ],
)
def test_a_provider_without_structured_output_costs_no_row(structured: str, tmp_path: Path) -> None:
    with Rig(tmp_path, "--structured", structured, "--answer", "label:a,b") as rig:
        rig.write_rows(200)
        rig.write_job(
            "answer: {labels: [a, b]}\nretry: {attempts: 2, min_wait: 10ms}\n".replace(
                "retry", "success: {failed: 0%}\n#"
            )
        )
        ended = rig.run("run", "job.yaml")
        served = rig.served()
    frame = results(tmp_path / ended.run)
    assert ended.code == 0, ended.stderr
    assert_each_row_once(frame, 200)
    assert frame["status"].unique().to_list() == ["ok"]
    assert set(frame["label"].to_list()) <= {"a", "b"}
    assert len(served) <= 200 + 70, "it is remembered: no more calls too many than were in flight"


# ----------------------------------------------------------------------------------------- the failure table

# fault of the simulator: (status, error_kind, attempts with two allowed, words that the error has)
TABLE: dict[str, tuple[str, str | None, int, str]] = {
    "500": ("failed", "server", 2, "500"),
    "502": ("failed", "server", 2, "502"),
    "503": ("failed", "server", 2, "503"),
    "504": ("failed", "server", 2, "504"),
    "529": ("failed", "server", 2, "529"),
    "408": ("failed", "server", 2, "408"),
    "409": ("failed", "server", 2, "409"),
    "reset": ("failed", "connection", 2, ""),
    "close": ("failed", "connection", 2, ""),
    "hang": ("failed", "timeout", 2, "timeout"),
    "cut": ("failed", "bad_response", 2, ""),
    "cut_chunked": ("failed", "bad_response", 2, ""),
    "invalid_json": ("failed", "bad_response", 2, "JSON"),
    "html_200": ("failed", "bad_response", 2, "HTML"),
    "error_200": ("failed", "bad_response", 2, "error inside"),
    "null_content": ("failed", "bad_response", 2, "null"),
    "empty_choices": ("failed", "bad_response", 2, "choices"),
    "no_choices": ("failed", "bad_response", 2, "choices"),
    "content_filter": ("failed", "refused", 1, ""),
    "refusal": ("failed", "refused", 1, ""),
    "content_filter_400": ("failed", "refused", 1, "400"),
    "context_length": ("failed", "too_long", 1, "input.chunk"),
    "413": ("failed", "too_long", 1, "input.chunk"),
    "400": ("failed", "bad_request", 1, "400"),
    "404": ("failed", "bad_request", 1, "404"),
    "415": ("failed", "bad_request", 1, "415"),
    "422": ("failed", "bad_request", 1, "422"),
    "no_usage": ("ok", None, 1, ""),
    "drip": ("ok", None, 1, ""),
}  # fmt: skip


@pytest.mark.parametrize("client", ["fast", pytest.param("sdk", marks=pytest.mark.slow)])
def test_each_fault_of_the_table_has_its_kind(client: str, tmp_path: Path) -> None:
    """Section 7, word for word, with both clients."""
    rules = "".join(f"  - {{contains: 'fault={name};', fault: '{name}'}}\n" for name in TABLE)
    rules += "".join(
        f"  - {{contains: 'fault={name};', fault: '{name}', times: 2}}\n"
        for name in ("429", "429_date", "429_ms", "429_bare")
    )
    (tmp_path / "simulator.yaml").write_text(f"retry_after: 200ms\ndrip: 300ms\nrules:\n{rules}")
    names = ["fine", *TABLE, "429", "429_date", "429_ms", "429_bare"]
    with Rig(tmp_path, "--config", str(tmp_path / "simulator.yaml")) as rig:
        lines = [json.dumps({"id": name, "text": f"fault={name};"}) + "\n" for name in names]
        (tmp_path / "rows.jsonl").write_text("".join(lines))
        write_job(
            tmp_path, rig.base_url, f"timeout: 1500ms\nclient: {client}\ncircuit_breaker: {{failure_threshold: 1000}}\n"
        )
        ended = rig.run("run", "job.yaml")
        served = rig.served()
    assert ended.code == 3, ended.stderr
    frame = results(tmp_path / ended.run)
    assert frame["key"].to_list() == names
    found = {row["key"]: (row["status"], row["error_kind"], row["attempts"]) for row in frame.iter_rows(named=True)}
    expected = {name: (status, kind, attempts) for name, (status, kind, attempts, _) in TABLE.items()}
    expected["fine"] = ("ok", None, 1)
    expected |= dict.fromkeys(names[-4:], ("ok", None, 3))
    assert found == expected
    errors = dict(zip(frame["key"], frame["error"], strict=True))
    for name, (_, _, _, words) in TABLE.items():
        assert words in (errors[name] or ""), name
    assert frame["attempts"].sum() == len(served)


def test_labels_truncated_and_invalid_answers_have_their_kind(tmp_path: Path, cli: Cli) -> None:
    asked_of: Counter[str] = Counter()

    def answer(asked: Asked) -> Said:
        about = str(asked.body["messages"][0]["content"])
        asked_of[about] += 1
        if about == "short":
            said = completion("bill")
            said.body["choices"][0]["finish_reason"] = "length"
            return said
        return completion(
            "Billing." if about == "fine" or asked_of[about] > {"odd": 99, "late": 2}[about] else "Hard to say."
        )

    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"id": name, "text": name}) + "\n" for name in ("fine", "short", "odd", "late"))
    )
    with Loopback(answer) as provider:
        write_job(tmp_path, provider.base_url, "answer: {labels: [billing, technical], attempts: 2, structured: off}\n")
        ended = cli("run", "job.yaml")
    rows = {row["key"]: row for row in results(ended.run).iter_rows(named=True)}
    assert ended.code == 3
    assert (rows["fine"]["status"], rows["fine"]["label"], rows["fine"]["attempts"]) == ("ok", "billing", 1)
    assert (rows["short"]["status"], rows["short"]["error_kind"], rows["short"]["attempts"]) == (
        "failed",
        "truncated",
        1,
    )
    assert "max_tokens" in rows["short"]["error"]
    assert (rows["odd"]["status"], rows["odd"]["error_kind"], rows["odd"]["attempts"]) == (
        "invalid",
        "invalid_answer",
        3,
    )
    assert (rows["odd"]["answer"], rows["odd"]["label"]) == ("Hard to say.", None), "the text is kept"
    assert (rows["odd"]["input_tokens"], rows["odd"]["output_tokens"]) == (30, 6), "each ask was paid"
    assert rows["odd"]["cost_usd"] == pytest.approx(3 * 1.8e-6)
    assert (rows["late"]["status"], rows["late"]["label"], rows["late"]["attempts"]) == ("ok", "billing", 3)


def test_an_unknown_price_is_unknown_and_never_zero(tmp_path: Path, cli: Cli) -> None:
    write_rows(tmp_path, 2)
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url, model="house-model-7")
        ended = cli("run", "job.yaml")
    assert results(ended.run)["cost_usd"].to_list() == [None, None]
    assert run_json(ended.run)["totals"]["cost_usd"] is None
    assert "unknown" in ended.stderr


# ------------------------------------------------------------------------------------------------ broken input


@pytest.mark.slow
def test_a_broken_line_behind_64_mib_stops_the_run_and_mended_it_goes_on(tmp_path: Path, cli: Cli) -> None:
    """Rows before it are asked; it is named with file and line; mended, every row is asked once."""
    pad = "x" * 2**20
    lines = [json.dumps({"n": at, "pad": pad}) + "\n" for at in range(72)]
    good = lines[69]
    lines[69] = good[:-3] + "\n"
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url, input="rows.jsonl", prompt='"row {{ n }}"')
        stopped = cli("run", "job.yaml")
        asked_first = [asked.text for asked in provider.asked]
        still_broken = cli("run", "job.yaml")
        lines[69] = good
        (tmp_path / "rows.jsonl").write_text("".join(lines))
        ended = cli("run", "job.yaml")
    assert stopped.code == 4, stopped.stderr
    assert "rows.jsonl:70" in stopped.stderr
    assert sorted(asked_first) == sorted(f"row {at}" for at in range(69))
    assert still_broken.code == 4, still_broken.stderr
    assert "rows.jsonl:70" in still_broken.stderr
    assert ended.code == 0, ended.stderr
    assert ended.run == stopped.run
    assert sorted(asked.text for asked in provider.asked) == sorted(f"row {at}" for at in range(72))
    assert results(ended.run)["row"].to_list() == list(range(72))
    assert results(ended.run)["answer"].to_list() == [f"row {at}" for at in range(72)]


def test_a_row_that_does_not_go_with_the_template_is_that_rows_failure(tmp_path: Path, cli: Cli) -> None:
    """One null among a thousand rows holds up nobody, is never sent, and says why."""
    rows = [{"n": None if at == 700 else at} for at in range(1_000)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url, input="rows.jsonl", prompt='"row {{ n + 1 }}"')
        ended = cli("run", "job.yaml")
    assert ended.code == 0, ended.stderr
    assert len(provider.asked) == 999
    row = results(ended.run).row(700, named=True)
    assert (row["status"], row["error_kind"], row["attempts"]) == ("failed", "bad_request", 0)
    assert "row 700" in row["error"]
    assert "null" in row["error"]

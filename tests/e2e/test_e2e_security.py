"""Hostile jobs, rows, answers and providers, tried through the real command line; see `docs/security.md`."""

import csv
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from loopback import Asked, Loopback, Said, completion, echo
from rig import Ended

from batcher.cli.main import main

KEY = "sk-live-Jw4nQ8zT2vB6xM1kR5yH9c"

ESCAPES = (
    "\x1b]8;;http://evil.example\x1b\\L\x1b]8;;\x1b\\ \x1b]52;c;cm0=\x07 \x1b[2J \u202eabc\u202c \u200b\u2066z\u2069 "
    "\x9b2J \x9d0;t\x9c \x07 \rCR \u2028 \x08 ก้ำ 👩\u200d👧 หลัง"
)
"""Clipboard, hyperlink, screen, title, reading direction; and what must survive: a Thai cluster, a family."""

HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2028\u2066-\u2069]")

Cli = Callable[..., Ended]


@pytest.fixture
def cli(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "BATCHER_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOUSE_SECRET", KEY)
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, [{"id": f"k{at}", "text": f"แถว {at}"} for at in range(3)])

    def call(*arguments: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        said = capfd.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return call


def write_rows(folder: Path, rows: list[dict[str, str]]) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_job(folder: Path, base_url: str, more: str = "", *, prompt: str = "{{ text }}") -> None:
    (folder / "job.yaml").write_text(
        f"input: {{path: rows.jsonl, key: id}}\nprompt: {json.dumps(prompt)}\nmodel: gpt-4.1-nano\n"
        f'provider: {{base_url: "{base_url}", api_key: "${{HOUSE_SECRET}}"}}\n'
        f"retry: {{attempts: 1, min_wait: 10ms}}\ncircuit_breaker: {{failure_threshold: 1000}}\n{more}",
        encoding="utf-8",
    )


def results(run: Path) -> pl.DataFrame:
    return pl.read_parquet(run / "results.parquet")


# ------------------------------------------------------------------------------------------------- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("client", ["fast", "sdk"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_redirect_is_never_followed(host: str, client: str, status: int, tmp_path: Path, cli: Cli) -> None:
    """The key and the prompts would go along to wherever it points: to another port, to another host."""
    with Loopback() as thief:
        location = thief.base_url.replace("127.0.0.1", host) + "/chat/completions"

        def send_away(asked: Asked) -> Said:
            return Said(status, {"error": {"message": "moved"}}, {"location": location})

        with Loopback(send_away) as provider:
            write_job(tmp_path, provider.base_url, f"client: {client}\n")
            ended = cli("run", "job.yaml", "--limit", "1")

            assert [KEY in asked.authorization for asked in provider.asked] == [True] * len(provider.asked)
            assert provider.asked
        assert [] == thief.asked
    assert 0 != ended.code


# ----------------------------------------------------------------------------------------- terminal escapes


def all_of(ended: Ended) -> str:
    return ended.stdout + ended.stderr


def test_rows_and_their_keys_reach_the_terminal_without_escapes(tmp_path: Path, cli: Cli) -> None:
    """`check` shows rows; a row's text, its key and the names of columns come from strangers."""
    write_rows(tmp_path, [{"id": ESCAPES, "text": ESCAPES, ESCAPES: "v"}])
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url)
        shown = cli("check", "job.yaml")
        write_job(tmp_path, provider.base_url, prompt="{{ nothing }}")
        refused = cli("check", "job.yaml")

    assert (0, 2) == (shown.code, refused.code)
    for ended in (shown, refused):
        assert not HARMFUL.search(all_of(ended)), HARMFUL.search(all_of(ended))
        assert "ก้ำ 👩\u200d👧 หลัง" in all_of(ended)


@pytest.mark.parametrize("status", [200, 400, 401, 402, 500])
@pytest.mark.parametrize("log_format", ["plain", "json"])
def test_a_providers_words_reach_the_terminal_and_the_log_without_escapes(
    log_format: str, status: int, tmp_path: Path, cli: Cli
) -> None:
    """Whatever it says, wherever it says it; the answer itself is kept byte for byte."""

    def hostile(asked: Asked) -> Said:
        if status != 200:
            return Said(status, {"error": {"message": ESCAPES, "code": ESCAPES, "type": ESCAPES, "param": ESCAPES}})
        if asked.number == 1:
            return Said(200, {"error": {"message": ESCAPES}})
        return completion(ESCAPES, model=ESCAPES, system_fingerprint=ESCAPES)

    with Loopback(hostile) as provider:
        write_job(tmp_path, provider.base_url, "success: {failed: 100%}\n")
        ran = cli("run", "job.yaml", "--log-format", log_format)
        shown = cli("status")
        as_json = cli("status", "--json")
        live = cli("check", "job.yaml", "--live")

    run = Path(ran.stdout.strip().splitlines()[-1])
    for text in (*map(all_of, (ran, shown, as_json, live)), (run / "run.json").read_text()):
        assert not HARMFUL.search(text), (status, HARMFUL.search(text))
    if (run / "log.jsonl").exists():
        assert not HARMFUL.search((run / "log.jsonl").read_text())
    if status == 200:
        # Which row's request reaches the provider first is nobody's promise.
        answers = results(run)["answer"].to_list()
        assert [1, 2] == [answers.count(None), answers.count(ESCAPES)]


def test_hostile_names_of_files_runs_and_models_reach_the_terminal_without_escapes(tmp_path: Path, cli: Cli) -> None:
    name = "ร้าย\x1b[2J\u202e\u200b.yaml"
    (tmp_path / name).write_text("[]")
    (tmp_path / "runs" / "x\x1b[2J\u202e" / "2026-11-21T02-00-00Z-7f3a").mkdir(parents=True)
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url)
        run = cli("run", "job.yaml").stdout.strip()
        (tmp_path / "runs" / "x\x1b[2J\u202e" / "2026-11-21T02-00-00Z-7f3a" / "run.json").write_bytes(
            (Path(run) / "run.json").read_bytes()
        )
        for arguments in (
            ("run", name),
            ("status",),
            ("status", "--runs", "none\x1b[2J\u202e"),
            ("export", run, "--to", "out\x1b[2J\u202e.csv"),
            ("init", "new\x1b[2J\u202e.yaml"),
            ("prices", "model\x1b[2J\u202e"),
            ("run", "job.yaml", "--set", "limits\x1b[2J\u202e=5"),
            ("run", "job.yaml", "--var", "a\x1b[2J\u202e=5"),
            ("run", "--\x1b[2J\u202e"),
            ("\x1b[2J\u202e",),
        ):
            ended = cli(*arguments)
            assert not HARMFUL.search(all_of(ended)), arguments


def test_a_message_has_an_end(tmp_path: Path, cli: Cli) -> None:
    """Some messages quote what was written; ten thousand brackets fill no screen."""
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url)
        job = (tmp_path / "job.yaml").read_text()
        where = "(" * 5_000 + "1 = 1" + ")" * 5_000
        (tmp_path / "job.yaml").write_text(job.replace("key: id", f'key: id, where: "{where}"'))
        ended = cli("check", "job.yaml")

    assert 2 == ended.code
    assert len(ended.stderr) < 4_500


# ------------------------------------------------------------------------------------------------ templates


@pytest.mark.parametrize(
    "prompt",
    [
        "{{ 'a' * 10**9 }}",
        "{{ '%1000000000d' % 1 }}{{ text }}",
        "{{ '{:>999999999}'.format(id) }}",
        "{% set n = namespace(x=text) %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
        "{% for a in range(9999) %}{% for b in text * 9999 %}{% endfor %}{% endfor %}",
        "{{ text['__cl' ~ 'ass__'].__mro__ }}",
        "{{ cycler.__init__.__globals__.os.system('id') }}",
    ],
)
def test_a_hostile_template_is_one_sentence_before_anything_is_sent(prompt: str, tmp_path: Path, cli: Cli) -> None:
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url, prompt=prompt)
        ended = cli("run", "job.yaml")

        assert [] == provider.asked
    assert 2 == ended.code
    assert ended.stderr.startswith("error: prompt.user")
    assert 1 == ended.stderr.count("\n")
    assert not list((tmp_path / "runs").glob("*/*/run.json"))


def test_a_row_that_is_too_much_for_the_template_fails_alone(tmp_path: Path, cli: Cli) -> None:
    """A stranger's megabyte must not stop the night's other rows."""
    rows = [{"id": f"k{at}", "text": "ก" * 50} for at in range(10)]
    rows[7]["text"] = "ก" * 1_500_000
    write_rows(tmp_path, rows)
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url, "success: {failed: 20%}\n", prompt="{{ text|wordwrap(40)|length }}")
        ended = cli("run", "job.yaml")

    assert 0 == ended.code
    frame = results(ended.run)
    assert ["ok"] * 7 + ["failed"] + ["ok"] * 2 == frame["status"].to_list()
    assert "too much text or takes too many steps" in str(frame["error"][7])


def test_a_row_or_an_answer_is_never_a_template(tmp_path: Path, cli: Cli) -> None:
    hostile = "{{ 7 * 7 }}{% for x in y %} ${HOUSE_SECRET} %s {0}"
    write_rows(tmp_path, [{"id": "ก", "text": hostile}])
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url)
        ended = cli("run", "job.yaml")

        assert [hostile] == [asked.text for asked in provider.asked]
    assert [hostile] == results(ended.run)["answer"].to_list()


# -------------------------------------------------------------------------------------------------- targets


def test_no_output_and_no_export_touches_what_a_run_keeps(tmp_path: Path, cli: Cli) -> None:
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url)
        run = cli("run", "job.yaml").run
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        (tmp_path / "link").symlink_to(run)
        asked = len(provider.asked)

        for target in (run / "log.jsonl", run / "results.parquet", run / "journal" / "x.csv", tmp_path / "link" / "log.jsonl"):  # fmt: skip  # noqa: E501
            write_job(tmp_path, provider.base_url, f"output: {{path: '{target}'}}\n")
            assert 2 == cli("run", "job.yaml", "--fresh").code
            assert 2 == cli("export", str(run), "--to", str(target)).code

        assert asked == len(provider.asked)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("target", ["pipe.csv", "/dev/null", "folder.csv", "rows.jsonl/x.csv", "x" * 300 + ".csv"])
def test_an_impossible_target_is_a_sentence_before_anything_is_paid(target: str, tmp_path: Path, cli: Cli) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url)
        run = cli("run", "job.yaml").stdout.strip()
        asked = len(provider.asked)
        exported = cli("export", run, "--to", target)
        write_job(tmp_path, provider.base_url, f"output: {{path: '{target}'}}\n")
        ran = cli("run", "job.yaml", "--fresh")

        assert asked == len(provider.asked)
    assert (2, 2) == (exported.code, ran.code)
    for ended in (exported, ran):
        assert ended.stderr.startswith("error: ")
        assert "Traceback" not in ended.stderr
    assert stat.S_ISFIFO((tmp_path / "pipe.csv").stat().st_mode)


def test_a_link_at_the_target_is_replaced_and_not_followed(tmp_path: Path, cli: Cli) -> None:
    """Who may put a link where results go must not choose what is overwritten."""
    (tmp_path / "precious.txt").write_text("ของมีค่า")
    (tmp_path / "out.csv").symlink_to(tmp_path / "precious.txt")
    with Loopback() as provider:
        write_job(tmp_path, provider.base_url, "output: {path: out.csv}\n")
        assert 0 == cli("run", "job.yaml").code

    assert "ของมีค่า" == (tmp_path / "precious.txt").read_text()
    assert not (tmp_path / "out.csv").is_symlink()


def test_formulas_in_answers_and_keys_are_defused_in_csv_and_exact_elsewhere(tmp_path: Path, cli: Cli) -> None:
    texts = ["=1+1", " =cmd|' /C calc'!A0", "＠SUM(A1)", "\t=1", "-5", "ข้อความ", "'=1"]
    write_rows(tmp_path, [{"id": f"={at}", "text": text} for at, text in enumerate(texts)])
    with Loopback(echo) as provider:
        write_job(tmp_path, provider.base_url, "output: {path: out.csv}\n")
        run = cli("run", "job.yaml").run
        assert 0 == cli("export", str(run), "--to", "out.jsonl").code

    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        cells = [(row["key"][:1], row["answer"]) for row in csv.DictReader(file)]
    expected = ["'=1+1", "' =cmd|' /C calc'!A0", "'＠SUM(A1)", "'\t=1", "'-5", "ข้อความ", "''=1"]
    assert [("'", text) for text in expected] == cells
    assert texts == results(run)["answer"].to_list()
    assert texts == [json.loads(line)["answer"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------------------------------------- permissions


@pytest.mark.parametrize(("umask", "others"), [(0o077, 0o077), (0o027, 0o027)])
def test_files_of_a_run_obey_the_umask(umask: int, others: int, tmp_path: Path) -> None:
    """Prompts may be private: who sets a umask finds it kept in every file, `log.jsonl` and the lock included."""
    write_rows(tmp_path, [{"id": "ก", "text": "ข"}])
    refuse = Said(500, {"error": {"message": "no"}})
    with Loopback(lambda asked: refuse if asked.number == 1 else completion("a")) as provider:
        write_job(tmp_path, provider.base_url, "output: {path: out/x.csv}\n")
        script = f"import os; os.umask({umask}); from batcher.cli.main import main; main(['run', 'job.yaml'])"
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path, env={**os.environ, "HOUSE_SECRET": KEY}, check=False, capture_output=True, timeout=60,
        )  # fmt: skip

    made = [path for folder in ("runs", "out") for path in (tmp_path / folder, *(tmp_path / folder).rglob("*"))]
    assert len(made) > 6
    assert [] == [str(path) for path in made if path.stat().st_mode & others]

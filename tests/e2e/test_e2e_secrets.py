"""P9 from outside: the key is nowhere but in the environment (or the user's own file) and on the wire."""

import contextlib
import gzip
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from loopback import Asked, Loopback, Said, completion, echo
from rig import Ended, Rig

from batcher.cli.main import main

KEY = "sk-proj-Zq8vT3mW7nR1yB5kD9xF2hJ6"
"""Parts of it count as found too: a key cut short is still most of a key."""

PIECE_CHARS = 12

BREAKER_OFF = "circuit_breaker: {failure_threshold: 1000}\n"

Cli = Callable[..., Ended]


def pieces(key: str) -> list[bytes]:
    return [key[at : at + PIECE_CHARS].encode() for at in range(len(key) - PIECE_CHARS + 1)]


def assert_clean(content: bytes, where: object, key: str = KEY) -> None:
    for piece in pieces(key):
        assert piece not in content, f"{piece!r} stands in {where}"


def assert_no_key_below(folder: Path, key: str = KEY) -> None:
    """No file holds the key, as it is or inside its compression."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert_clean(str(path).encode(), "a file's name", key)
        assert_clean(path.read_bytes(), path, key)
        if path.suffix == ".parquet":
            assert_clean(pl.read_parquet(path).write_ndjson().encode(), path, key)
        elif path.suffix == ".arrow":
            with pa.OSFile(str(path)) as file:
                assert_clean(str(pa.ipc.open_file(file).read_all().to_pylist()).encode(), path, key)
        elif path.suffix == ".gz":
            assert_clean(gzip.decompress(path.read_bytes()), path, key)


@pytest.fixture
def cli(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "BATCHER_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOUSE_SECRET", KEY)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"id": at, "text": f"t{at}"}) + "\n" for at in range(6)))

    def call(*arguments: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        said = capfd.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return call


def write_job(folder: Path, base_url: str, more: str = "", *, key: str = "${HOUSE_SECRET}") -> None:
    (folder / "job.yaml").write_text(
        f'input: {{path: rows.jsonl, key: id}}\nprompt: "{{{{ text }}}}"\nmodel: gpt-4.1-nano\n'
        f'provider: {{base_url: "{base_url}", api_key: "{key}"}}\nretry: {{attempts: 2, min_wait: 10ms}}\n'
        f"{more or BREAKER_OFF}"
    )


def bearer(status: int) -> Callable[[Asked], Said]:
    """A provider that quotes the header it got."""
    words = "Incorrect API key in header 'Authorization: {}'. Get one at https://example.com"
    return lambda asked: Said(
        status, {"error": {"message": words.format(asked.authorization), "param": asked.authorization}}
    )


def in_a_header(asked: Asked) -> Said:
    return Said(
        429 if asked.number < 3 else 400,
        {"detail": [asked.authorization]},
        {"x-request-key": asked.authorization, "retry-after-ms": "10"},
    )


def as_plain_text(asked: Asked) -> Said:
    return Said(400, f"bad key: {asked.authorization}".encode(), {"content-type": "text/plain"})


def as_html(asked: Asked) -> Said:
    return Said(502, f"<html><h1>{asked.authorization}</h1>".encode(), {"content-type": "text/html"})


def in_a_200(asked: Asked) -> Said:
    return Said(200, {"error": {"message": f"upstream refused {asked.authorization}"}})


def in_a_refusal(asked: Asked) -> Said:
    said = completion("")
    said.body["choices"][0]["message"] = {
        "role": "assistant",
        "content": None,
        "refusal": f"I saw {asked.authorization}",
    }
    return said


def some_rows(inner: Callable[[Asked], Said]) -> Callable[[Asked], Said]:
    """Good answers for half of the rows, so that the run gets to its results."""
    return lambda asked: echo(asked) if asked.text in ("t0", "t1", "t2") else inner(asked)


PROVIDERS = {
    "401": bearer(401), "403": bearer(403), "402": bearer(402), "400": bearer(400), "404": bearer(404),
    "some 400": some_rows(bearer(400)), "some 500": some_rows(bearer(500)),
    "header": some_rows(in_a_header), "plain text": some_rows(as_plain_text), "html": some_rows(as_html),
    "200": some_rows(in_a_200), "refusal": some_rows(in_a_refusal),
}  # fmt: skip


@pytest.mark.parametrize("client", ["fast", pytest.param("sdk", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", PROVIDERS)
def test_a_provider_that_quotes_the_key_does_not_get_it_into_a_file_or_onto_the_screen(
    name: str, client: str, tmp_path: Path, cli: Cli
) -> None:
    with Loopback(PROVIDERS[name]) as provider:
        write_job(tmp_path, provider.base_url, BREAKER_OFF + f"client: {client}\noutput: {{path: out.csv}}\n")
        ended = cli("run", "job.yaml", *(["--log-format", "json"] if name.startswith("some") else []))
    assert ended.code in (3, 6), ended.stderr
    assert all(asked.authorization == f"Bearer {KEY}" for asked in provider.asked), "it was on the wire"
    assert_clean(ended.stderr.encode(), "stderr")
    assert_clean(ended.stdout.encode(), "stdout")
    assert_no_key_below(tmp_path)


@pytest.mark.parametrize("status", [400, 200])
def test_a_quoted_key_at_the_edge_of_what_is_kept_is_masked_whole(status: int, tmp_path: Path, cli: Cli) -> None:
    """Messages are shortened; a key that the cut goes through is most of a key. Each row meets another cut."""
    chars = [*range(150, 204, 3), *range(260, 304, 3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"id": at, "text": f"t{at}"}) + "\n" for at in [0, *chars]))

    def answer(asked: Asked) -> Said:
        number = int(asked.text[1:])
        message = "x " * (number // 2) + asked.authorization
        return echo(asked) if number == 0 else Said(status, {"error": {"message": message}})

    with Loopback(answer) as provider:
        write_job(tmp_path, provider.base_url, "limits: {concurrency: 1}\ncircuit_breaker: {failure_threshold: 1000}\n")
        ended = cli("run", "job.yaml")
    assert ended.code == 3, ended.stderr
    assert_clean(ended.stderr.encode(), "stderr")
    assert_no_key_below(tmp_path / "runs")


def test_check_live_does_not_show_the_key(tmp_path: Path, cli: Cli) -> None:
    with Loopback(bearer(401)) as provider:
        write_job(tmp_path, provider.base_url)
        ended = cli("check", "job.yaml", "--live")
    assert ended.code == 6
    assert "Incorrect API key" in ended.stdout + ended.stderr
    assert_clean((ended.stdout + ended.stderr).encode(), "the output")


@pytest.mark.parametrize("by", ["resume", "run", "retry"])
def test_a_literal_key_stays_in_the_users_own_file_and_the_run_goes_on(by: str, tmp_path: Path, cli: Cli) -> None:
    def stop_after_two(asked: Asked) -> Said:
        return echo(asked) if asked.number <= 2 else bearer(401)(asked)

    with Loopback(stop_after_two) as provider:
        write_job(tmp_path, provider.base_url, "limits: {concurrency: 1}\n", key=KEY)
        stopped = cli("run", "job.yaml")
        assert stopped.code == 6, stopped.stderr
        assert_no_key_below(tmp_path / "runs")
        provider.answer = echo
        ended = cli(by, "job.yaml" if by == "run" else str(stopped.run))
    assert ended.code == 0, ended.stderr
    assert {asked.authorization for asked in provider.asked} == {f"Bearer {KEY}"}
    assert len(provider.asked) == 2 + 3 + 4, "three rows tell a revoked key from a moment's 401"
    assert pl.read_parquet(stopped.run / "results.parquet")["status"].to_list() == ["ok"] * 6
    assert_no_key_below(tmp_path / "runs")
    assert_clean((stopped.stdout + stopped.stderr + ended.stdout + ended.stderr).encode(), "the output")
    for shown in (cli("status"), cli("status", "--json"), cli("check", "job.yaml")):
        assert_clean((shown.stdout + shown.stderr).encode(), "the output")


def test_a_literal_key_whose_job_file_is_gone_is_asked_for_in_a_sentence(tmp_path: Path, cli: Cli) -> None:
    with Loopback(bearer(401)) as provider:
        write_job(tmp_path, provider.base_url, key=KEY)
        stopped = cli("run", "job.yaml")
        (tmp_path / "job.yaml").unlink()
        asked = len(provider.asked)
        ended = cli("resume", str(stopped.run))
    assert ended.code == 2
    assert ended.stderr.startswith("error: ")
    assert len(ended.stderr.splitlines()) <= 2
    assert "api_key" in ended.stderr
    assert len(provider.asked) == asked, "nothing goes out without the key"


@pytest.mark.parametrize(
    "wrong",
    [
        "modle: x\n",
        "limits: {concurrency: ${HOUSE_SECRET}}\n",
        "name: ${HOUSE_SECRET}\n",
        "params: {user: '${HOUSE_SECRET}'}\n",
    ],
)
@pytest.mark.parametrize("key", ["${HOUSE_SECRET}", KEY])
def test_no_refusal_shows_the_key(key: str, wrong: str, tmp_path: Path, cli: Cli) -> None:
    """A sentence about a wrong field shows no value that is a key, and a key put elsewhere is not written down."""
    with Loopback(echo) as provider:
        write_job(tmp_path, provider.base_url, wrong, key=key)
        ended = cli("run", "job.yaml")
    assert_clean((ended.stdout + ended.stderr).encode(), "the output")
    if (tmp_path / "runs").exists() and any(
        path.is_file() and path.name != ".lock" for path in (tmp_path / "runs").rglob("*")
    ):
        assert_no_key_below(tmp_path / "runs")


@pytest.mark.parametrize("key", ["${HOUSE_SECRET}", KEY], ids=["environment", "literal"])
@pytest.mark.parametrize("at", ["batcher.assemble.session.build_stack", "batcher.assemble.run.RunDirectory.create"])
def test_a_traceback_does_not_hold_the_key(
    at: str, key: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault whose words hold the key, as a library's do that refuses a header and quotes it."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"invalid header value: b'Bearer {KEY}'")

    with Loopback() as provider:
        write_job(tmp_path, provider.base_url, key=key)
        monkeypatch.setattr(at, fail)
        ended = cli("run", "job.yaml")
    assert ended.code == 1
    assert "Traceback" in ended.stderr
    assert_clean((ended.stdout + ended.stderr).encode(), "the traceback")
    runs = tmp_path / "runs"
    for path in runs.rglob("*"):
        if path.is_file():
            assert_clean(path.read_bytes(), path)


def test_the_key_is_in_no_command_line_and_no_file_while_a_run_is_at_work(tmp_path: Path) -> None:
    """What `ps` shows, of the run and of whatever it starts; and what lies on the disk half-way, after a kill too."""
    with Rig(tmp_path, "--latency", "300ms") as rig:
        rig.write_rows(400)
        rig.write_job("limits: {concurrency: 4}\n")
        process = rig.start("run", "job.yaml", env={"RIG_KEY": KEY})
        shown = b""
        deadline_s = time.monotonic() + 30.0
        # Until answers lie in the journal: then everything that a run writes half-way is there.
        while time.monotonic() < deadline_s and sum(record.is_good for record in rig.served()) < 12:
            shown += command_lines(process.pid)
            time.sleep(0.1)
        assert process.poll() is None
        process.kill()
        stdout, stderr = process.communicate(timeout=10)
    assert b"job.yaml" in shown
    assert_clean(shown, "the command line")
    assert_clean((stdout + stderr).encode(), "the output")
    assert_no_key_below(tmp_path / "runs")


def command_lines(pid: int) -> bytes:
    """The command line of a process and of those it started."""
    found = b""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if int(entry.name) == pid or parent == pid:
                found += (entry / "cmdline").read_bytes()
    return found


def test_the_environment_of_these_tests_holds_the_key_under_a_name_that_says_nothing() -> None:
    """Else masking by the variable's name would pass where masking by its value must."""
    assert not {"KEY", "TOKEN"} & {"HOUSE", "SECRET"}
    assert "HOUSE_SECRET" not in os.environ

# ruff: noqa: E501  # a table of cases reads best with one case a line
"""P11 from outside: bad job files, inputs and command lines through the real command line.

Each ends with exit code 2, one sentence on stderr (and at most one hint), no traceback, nothing written and
nothing sent: a provider on loopback counts.
"""

import bz2
import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from loopback import Loopback

from batcher.cli.main import main

KEY = "sk-live-0123456789abcdefghijklmn"
ROWS = '{"id": 1, "text": "one", "n": 1}\n{"id": 2, "text": "two", "n": 2}\n{"id": 3, "text": "three", "n": 3}\n'


@pytest.fixture(scope="module")
def provider() -> Iterator[Loopback]:
    with Loopback() as provider:
        yield provider


class Place:
    """A folder with a good input, in which wrong things are tried."""

    def __init__(self, folder: Path, provider: Loopback, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self.provider, self._capture = folder, provider, capture
        (folder / "rows.jsonl").write_text(ROWS)

    def good_job(self, **changes: str) -> str:
        """A job that would run; a change replaces a field's line, or adds one."""
        fields = {
            "input": "rows.jsonl",
            "prompt": '"{{ text }}"',
            "model": "gpt-4.1-nano",
            "provider": f'{{base_url: "{self.provider.base_url}", api_key: "${{E2E_KEY}}"}}',
        } | changes
        return "".join(f"{name}: {value}\n" for name, value in fields.items() if value)

    def files(self) -> dict[str, bytes | None]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else None
            for path in sorted(self.folder.rglob("*"))
        }

    def refused(self, *arguments: str, code: int = 2) -> str:
        """Run the command, hold it to the law of this module, and give its one sentence (and hint)."""
        before, asked_before = self.files(), len(self.provider.asked)
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        said = self._capture.readouterr()
        about = f"{arguments}\nstdout: {said.out[:500]}\nstderr: {said.err[:2000]}"
        assert "Traceback" not in said.err, about
        assert ended.value.code == code, about
        assert_one_sentence(said.err)
        assert said.out == "", about
        assert len(self.provider.asked) == asked_before, f"something was sent: {about}"
        after = self.files()
        assert sorted(after) == sorted(before), f"something was written: {about}"
        assert after == before, f"a file was changed: {about}"
        return said.err

    def refused_job(self, content: str | bytes, *arguments: str) -> str:
        (self.folder / "job.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
        return self.refused("run", "job.yaml", *arguments)


def assert_one_sentence(stderr: str) -> None:
    lines = stderr.splitlines()
    assert 1 <= len(lines) <= 2, stderr
    assert lines[0].startswith("error: "), stderr
    assert len(lines) == 1 or lines[1].startswith("hint: "), stderr
    assert len(lines[0]) > 20, stderr
    assert all(line.isprintable() and len(line) < 1000 for line in lines), stderr
    assert KEY not in stderr
    # The words of a library or of Python are not a sentence to a user.
    assert not re.search(r"Traceback|pydantic|ruamel|Input should|polars\.|pyarrow\.|<class|Errno|NoneType", stderr), (
        stderr
    )


@pytest.fixture
def place(
    tmp_path: Path, provider: Loopback, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Place:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "BATCHER_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("E2E_KEY", KEY)
    monkeypatch.setenv("E2E_EMPTY", "")
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, provider, capfd)


def test_the_good_job_of_these_tests_is_good(place: Place) -> None:
    """Else all of them would pass for the wrong reason."""
    (place.folder / "job.yaml").write_text(place.good_job())
    asked_before = len(place.provider.asked)
    with pytest.raises(SystemExit) as ended:
        main(["run", "job.yaml"])
    assert ended.value.code == 0
    assert len(place.provider.asked) == asked_before + 3


# ------------------------------------------------------------------------------------------------- job files

BOMB = "params:\n  a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  {name}: &{name} [{', '.join(['*' + chr(ord(name) - 1)] * 10)}]\n" for name in "bcdefghi"
)

# name: (fields to change, or what to add behind the good job's four lines, or the whole file; words of the sentence)
JOB_FILES: dict[str, tuple[dict[str, str] | str | bytes, tuple[str, ...]]] = {
    # Unknown and misplaced fields.
    "misspelt at the top": ("modle: x", ("job.yaml:5", "modle", "model")),
    "misspelt below": ({"limits": "{concurency: 5}"}, ("job.yaml:5", "limits.concurency", "limits.concurrency")),
    "misspelt in a list": ({"provider": "", "providers": "[{base_uri: 'http://x/v1'}]"}, ("base_uri", "base_url")),
    "misplaced params": ("temperature: 0.2", ("job.yaml:5", "params.temperature")),
    "misplaced labels": ("labels: [a, b]", ("job.yaml:5", "answer.labels")),
    "misplaced key": (f"api_key: {KEY}", ("job.yaml:5", "provider.api_key")),
    "misplaced rate": ("requests_per_minute: 5", ("job.yaml:5", "limits.requests_per_minute")),
    "in dotted form": ("limits.concurrency: 5", ("job.yaml:5", "concurrency")),
    "the word of another tool": ("max_workers_: 9", ("job.yaml:5", "max_workers_")),
    "a field of nothing": ("zzz: 1", ("job.yaml:5", "zzz")),
    "upper case": ("Timeout: 5s", ("job.yaml:5", "timeout")),
    "unknown kind": ("kind: chatt", ("job.yaml:5", "kind", "chat")),
    "unknown client": ("client: requests", ("job.yaml:5", "client", "fast", "sdk")),
    # Wrong types.
    "input is a number": ({"input": "5"}, ("job.yaml:1", "input")),
    "input is true": ({"input": "true"}, ("job.yaml:1", "input")),
    "input missing": ({"input": ""}, ("job.yaml", "input is missing")),
    "prompt missing": ({"prompt": ""}, ("job.yaml", "prompt is missing")),
    "prompt empty": ({"prompt": "''"}, ("job.yaml:2", "prompt")),
    "prompt is a list": ({"prompt": "[a, b]"}, ("job.yaml:2", "prompt")),
    "prompt is a template without quotes": ({"prompt": "{{ text }}"}, ("job.yaml:2", "quotes")),
    "model missing": ({"model": ""}, ("job.yaml", "model is missing")),
    "model is a number": ({"model": "4.1"}, ("job.yaml:3", "model")),
    "concurrency is text": ({"limits": "{concurrency: many}"}, ("job.yaml:5", "limits.concurrency")),
    "concurrency is zero": ({"limits": "{concurrency: 0}"}, ("job.yaml:5", "limits.concurrency")),
    "a rate is negative": ({"limits": "{tokens_per_minute: -1}"}, ("job.yaml:5", "limits.tokens_per_minute")),
    "a rate is a fraction": ({"limits": "{requests_per_minute: 0.5}"}, ("job.yaml:5", "requests_per_minute")),
    "a section is text": ({"retry": "often"}, ("job.yaml:5", "retry")),
    "a section is empty": ({"limits": "  "}, ("job.yaml:5", "limits")),
    "params is a list": ({"params": "[temperature]"}, ("job.yaml:5", "params")),
    "limit is zero": ({"input": "{path: rows.jsonl, limit: 0}"}, ("job.yaml:1", "input.limit")),
    "carry is not a list of text": ({"input": "{path: rows.jsonl, carry: [[a]]}"}, ("job.yaml:1", "input.carry")),
    # Durations, shares.
    "duration without unit": ({"timeout": "60"}, ("job.yaml:5", "timeout", "60s")),
    "duration in words": ({"timeout": "an hour"}, ("job.yaml:5", "timeout")),
    "duration negative": ({"timeout": "-5s"}, ("job.yaml:5", "timeout")),
    "duration of zero": ({"timeout": "0s"}, ("job.yaml:5", "timeout")),
    "duration that overflows": ({"timeout": "9" * 400 + "h"}, ("job.yaml:5", "timeout")),
    "duration NaN": ({"timeout": "nans"}, ("job.yaml:5", "timeout")),
    "duration in Thai digits": ({"timeout": "๖๐s"}, ("job.yaml:5", "timeout")),
    "waits the wrong way round": ({"retry": "{min_wait: 9s, max_wait: 1s}"}, ("job.yaml:5", "min_wait", "max_wait")),
    "share above one": ({"success": "{failed: 200%}"}, ("job.yaml:5", "success.failed")),
    "share in words": ({"success": "{failed: some}"}, ("job.yaml:5", "success.failed")),
    # Variables and keys.
    "variable that is not set": ({"model": "${E2E_NO_SUCH}"}, ("job.yaml:3", "E2E_NO_SUCH")),
    "key that is not set": ({"provider": '{base_url: "http://127.0.0.1:9/v1", api_key: "${E2E_NO_SUCH}"}'}, ("job.yaml:4", "E2E_NO_SUCH")),
    "key that is empty": ({"provider": '{base_url: "http://127.0.0.1:9/v1", api_key: "${E2E_EMPTY}"}'}, ("job.yaml:4", "E2E_EMPTY")),
    "variable that does not end": ({"model": '"${E2E_KEY"'}, ("job.yaml:3",)),
    "no provider and no key": ({"provider": ""}, ("OPENAI_API_KEY",)),
    "key in the prompt": ({"prompt": '"${E2E_KEY} {{ text }}"'}, ("job.yaml:2", "prompt")),
    "key with a line feed": ({"provider": '{base_url: "http://127.0.0.1:9/v1", api_key: "sk-abcdefghijkl\\nX: y"}'}, ("job.yaml:4", "api_key")),
    "the same key twice": ({"provider": '{base_url: "http://127.0.0.1:9/v1", api_key: ["${E2E_KEY}", "${E2E_KEY}"]}'}, ("job.yaml:4", "api_key")),
    "URL without a scheme": ({"provider": '{base_url: "api.example.com/v1", api_key: "${E2E_KEY}"}'}, ("job.yaml:4", "base_url")),
    "URL of a file": ({"provider": '{base_url: "file:///etc/passwd", api_key: "${E2E_KEY}"}'}, ("job.yaml:4", "base_url")),
    "URL with a password": ({"provider": f'{{base_url: "https://me:{KEY}@example.com/v1"}}'}, ("job.yaml:4", "base_url")),
    "unknown local model": ({"provider": "{local: no-such-model}"}, ("no-such-model",)),
    # YAML itself.
    "empty file": (b"", ("job.yaml", "empty")),
    "a list": (b"- a\n- b\n", ("job.yaml:1", "mapping")),
    "a text": (b"hello\n", ("job.yaml:1", "mapping")),
    "tabs": ("limits:\n\tconcurrency: 5", ("job.yaml:6", "tab")),
    "open quote": ("name: 'abc", ("job.yaml:5",)),
    "open bracket": ("answer: {labels: [a, b", ("job.yaml:5",)),
    "bad indentation": ("limits:\n    concurrency: 5\n  requests_per_minute: 6", ("job.yaml:",)),
    "duplicate key": ("model: other", ("job.yaml:5", "model", "twice")),
    "duplicate key below": ("params:\n  seed: 1\n  seed: 2", ("job.yaml:7", "seed")),
    "two documents": ("---\nmodel: m", ("job.yaml:5", "document")),
    "alias bomb": (BOMB, ("job.yaml:", "20000")),
    "alias to itself": ("params: &a {x: *a}", ("job.yaml:5",)),
    "deep nesting": ("params: {x: " + "[" * 30_000 + "]" * 30_000 + "}", ("job.yaml:5", "nested")),
    "Python tag": ("params: !!python/object/apply:os.system [id]", ("job.yaml:5", "tag")),
    "merge key": ("limits: {<<: {concurrency: 5}}", ("job.yaml:5",)),
    "5 MB": ("# " + "x" * 5_000_000, ("job.yaml", "larger")),
    "Latin-1": ("name: café".encode("latin-1"), ("job.yaml:5", "UTF-8")),
    "UTF-16": ("UTF-16", ("job.yaml", "UTF-8")),
    "NUL byte": (b"name: a\0b", ("job.yaml:5", "U+0000")),
    "escape sequence": (b"name: a\x1b[2Jb", ("job.yaml:5", "U+001B")),
    "bidi override in a field's name": ("\u202eledom: m", ("job.yaml:5",)),
    # Paths.
    "name that climbs": ({"name": "../../etc/x"}, ("job.yaml:5", "name")),
    "name that is absolute": ({"name": "/tmp/x"}, ("job.yaml:5", "name")),
    "name of dots": ({"name": "'..'"}, ("job.yaml:5", "name")),
    "name that is an option": ({"name": "--fresh"}, ("job.yaml:5", "name")),
    "name that is too long": ({"name": "ก" * 300}, ("job.yaml:5", "name")),
    "name with a slash that is not one": ({"name": "a\\\\b"}, ("job.yaml:5", "name")),
    "output is the input": ({"output": "{path: ./x/../rows.jsonl}"}, ("job.yaml:5", "output.path")),
    "output is no table": ({"output": "{path: out.xlsx}"}, ("job.yaml:5", "output.path", ".parquet")),
    "output is a directory": ({"output": "{path: .}"}, ("job.yaml:5", "output")),
    "output of two minds": ({"output": "{path: out.csv, format: parquet}"}, ("job.yaml:5", "output.format")),
    # Labels.
    "no labels": ({"answer": "{labels: []}"}, ("job.yaml:5", "answer.labels")),
    "labels is a text": ({"answer": "{labels: billing}"}, ("job.yaml:5", "answer.labels")),
    "labels is a mapping": ({"answer": "{labels: {a: b}}"}, ("job.yaml:5", "answer.labels")),
    "a label is a number": ({"answer": "{labels: [1, 2]}"}, ("job.yaml:5", "answer.labels.0", "quotes")),
    "a label is true": ({"answer": "{labels: [true, false]}"}, ("job.yaml:5", "answer.labels.0", "quotes")),
    "a label is null": ({"answer": "{labels: [a, null]}"}, ("job.yaml:5", "answer.labels.1")),
    "a label is empty": ({"answer": "{labels: [a, '']}"}, ("job.yaml:5", "answer.labels.1")),
    "a label is a list": ({"answer": "{labels: [a, [b]]}"}, ("job.yaml:5", "answer.labels.1")),
    "a label has two lines": ({"answer": '{labels: [a, "b\\nc"]}'}, ("job.yaml:5", "answer.labels.1")),
    "labels differ by case": ({"answer": "{labels: [Spam, spam]}"}, ("job.yaml:5", "answer.labels.1")),
    "labels differ by width": ({"answer": "{labels: [A, Ａ]}"}, ("job.yaml:5", "answer.labels.1")),
    "labels differ by form": ({"answer": '{labels: ["\\u1ea1", "a\\u0323"]}'}, ("job.yaml:5", "answer.labels.1")),
    "attempts below zero": ({"answer": "{labels: [a], attempts: -1}"}, ("job.yaml:5", "answer.attempts")),
    # What batcher itself sets.
    "stream": ({"params": "{stream: true}"}, ("job.yaml:5", "params.stream")),
    "n": ({"params": "{n: 3}"}, ("job.yaml:5", "params.n")),
    "messages": ({"params": "{messages: []}"}, ("job.yaml:5", "params.messages")),
    "model in params": ({"params": "{model: x}"}, ("job.yaml:5", "params.model")),
    "not a number": ({"params": "{temperature: .nan}"}, ("job.yaml:5", ".nan")),
    # Prompts.
    "unknown column": ({"prompt": '"{{ txet }}"'}, ("prompt", "txet", "id, text, n")),
    "unknown column in system": ({"prompt": '{system: "{{ lang }}", user: "{{ text }}"}'}, ("prompt.system", "lang", "id, text, n")),
    "unknown column in an example": ({"prompt": '{user: "{{ text }}", examples: [{user: a, assistant: "{{ lbl }}"}]}'}, ("prompt.examples", "lbl")),
    "unknown column in a dead branch": ({"prompt": '"{% if false %}{{ nope }}{% endif %}{{ text }}"'}, ("prompt", "nope")),
    "template not closed": ({"prompt": '"{{ text"'}, ("prompt",)),
    "block not closed": ({"prompt": '"{% for x in text %}{{ x }}"'}, ("prompt",)),
    "unknown tag": ({"prompt": '"{% shell id %}{{ text }}"'}, ("prompt", "shell")),
    "unknown filter": ({"prompt": '"{{ text | nosuch }}"'}, ("prompt", "nosuch")),
    "include": ({"prompt": "\"{% include '/etc/passwd' %}{{ text }}\""}, ("prompt",)),
    "import": ({"prompt": "\"{% import 'os' as os %}{{ text }}\""}, ("prompt",)),
    "extends": ({"prompt": "\"{% extends 'base' %}{{ text }}\""}, ("prompt",)),
    "the class of a value": ({"prompt": '"{{ text.__class__.__mro__ }}"'}, ("prompt", "__")),
    "the class of a text": ({"prompt": "\"{{ ''.__class__.__mro__[1].__subclasses__() }}{{ text }}\""}, ("prompt", "__")),
    "the class by subscript": ({"prompt": "\"{{ text['__class__'] }}\""}, ("prompt", "__")),
    "the class by attr": ({"prompt": "\"{{ text | attr('__class__') }}\""}, ("prompt",)),
    "the class by map": ({"prompt": "\"{{ [text] | map(attribute='__class__') | list }}\""}, ("prompt",)),
    "the class by format": ({"prompt": "\"{{ '{0.__class__}'.format(text) }}\""}, ("prompt",)),
    "globals of a function": ({"prompt": '"{{ cycler.__init__.__globals__ }}{{ text }}"'}, ("prompt",)),
    "endless text": ({"prompt": "\"{{ 'x' * 10 ** 12 }}{{ text }}\""}, ("prompt",)),
    "endless loop": ({"prompt": '"{% for i in range(10 ** 9) %}x{% endfor %}{{ text }}"'}, ("prompt",)),
    "endless recursion": ({"prompt": '"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}{{ text }}"'}, ("prompt",)),
    "both kinds of prompt": ({"prompt": '{user: "{{ text }}", messages: text}'}, ("job.yaml:2", "prompt.messages", "prompt.user")),
    "messages and system": ({"prompt": '{system: "x", messages: text}'}, ("job.yaml:2", "prompt.messages")),
    "examples from nowhere": ({"prompt": '{user: "{{ text }}", examples: no.jsonl}'}, ("job.yaml:2", "prompt.examples", "no.jsonl")),
    "half an example": ({"prompt": '{user: "{{ text }}", examples: [{user: a}]}'}, ("job.yaml:2", "assistant")),
    # Columns that the job names.
    "unknown key": ({"input": "{path: rows.jsonl, key: idd}"}, ("input.key", "idd", "id, text, n")),
    "unknown carry": ({"input": "{path: rows.jsonl, carry: [txt]}"}, ("input.carry", "txt", "id, text, n")),
    "carry that names a result column": ({"input": "{path: rows.jsonl, carry: [status]}"}, ("job.yaml:1", "input.carry", "status")),
    "carry twice": ({"input": "{path: rows.jsonl, carry: [text, text]}"}, ("job.yaml:1", "input.carry")),
    "unknown messages column": ({"prompt": "{messages: chat}"}, ("chat", "id, text, n")),
    "messages column of text": ({"prompt": "{messages: text}"}, ("rows.jsonl:1", "text")),
    "where that is no SQL": ({"input": '{path: rows.jsonl, where: "n >"}'}, ("input.where",)),
    "where with an unknown column": ({"input": '{path: rows.jsonl, where: "lang = 1"}'}, ("input.where", "lang", "id, text, n")),
    "where that is a number": ({"input": '{path: rows.jsonl, where: "n + 1"}'}, ("input.where",)),
    "where with a statement": ({"input": '{path: rows.jsonl, where: "1=1; DROP TABLE x"}'}, ("input.where",)),
    "where that counts": ({"input": '{path: rows.jsonl, where: "n > AVG(n)"}'}, ("input.where",)),
    "where that keeps nothing": ({"input": '{path: rows.jsonl, where: "n > 99"}'}, ("rows.jsonl", "where")),
    "where of a wrong type": ({"input": '{path: rows.jsonl, where: "text > 5"}'}, ("where",)),
}  # fmt: skip


@pytest.mark.parametrize("name", JOB_FILES)
def test_a_hostile_job_file_is_one_sentence(name: str, place: Place) -> None:
    change, words = JOB_FILES[name]
    match change:
        case dict():
            content: str | bytes = place.good_job(**change)
        case "UTF-16":
            content = place.good_job().encode("utf-16")
        case str():
            content = place.good_job() + change + "\n"
        case bytes() if name in ("empty file", "a list", "a text"):
            content = change
        case bytes():
            content = place.good_job().encode() + change + b"\n"

    said = place.refused_job(content)

    for word in words:
        assert word in said


# ---------------------------------------------------------------------------------------------------- inputs


def parquet(path: Path, **columns: Any) -> None:
    pq.write_table(pa.table(columns), path)


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def many_rows(path: Path, count: int = 5_000) -> bytes:
    content = b"".join(
        b'{"id": %d, "text": "row %d %s"}\n' % (at, at, os.urandom(16).hex().encode()) for at in range(count)
    )
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.ZstdCompressor().compress(content))
    else:
        path.write_bytes(content)
    return content


def gz_cut(folder: Path) -> None:
    many_rows(folder / "x.jsonl.gz")
    cut(folder / "x.jsonl.gz", 0.6)


def zst_cut(folder: Path) -> None:
    many_rows(folder / "x.jsonl.zst")
    cut(folder / "x.jsonl.zst", 0.6)


def gz_flipped(folder: Path) -> None:
    path = folder / "x.jsonl.gz"
    many_rows(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def parquet_cut(folder: Path) -> None:
    parquet(folder / "x.parquet", id=list(range(5_000)), text=["t"] * 5_000)
    cut(folder / "x.parquet", 0.7)


def parquet_hollow(folder: Path) -> None:
    """The footer is whole, the pages are not."""
    path = folder / "x.parquet"
    parquet(path, id=list(range(20_000)), text=[os.urandom(8).hex() for _ in range(20_000)])
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    path.write_bytes(content)


def texts(**files: str | bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, content in files.items():
            path = folder / name.replace("__", ".")
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def nothing(folder: Path) -> None:
    pass


def messages(value: Any) -> str:
    return json.dumps({"chat": value}) + "\n"


# name: (files to write, the field input, other fields, words of the sentence)
INPUTS: dict[str, tuple[Callable[[Path], None], str, dict[str, str], tuple[str, ...]]] = {
    "missing": (nothing, "nope.jsonl", {}, ("nope.jsonl", "no such file")),
    "missing, one near": (nothing, "row.jsonl", {}, ("row.jsonl", "rows.jsonl")),
    "missing in a list": (nothing, "[rows.jsonl, nope.jsonl]", {}, ("nope.jsonl",)),
    "directory": (lambda folder: (folder / "d.jsonl").mkdir(), "d.jsonl", {}, ("d.jsonl", "directory")),
    "glob without match": (nothing, "'data-*.jsonl'", {}, ("data-*.jsonl",)),
    "broken glob": (nothing, "'rows[.jsonl'", {}, ("rows[.jsonl",)),
    "unknown kind": (texts(x__xlsx=b"PK\3\4"), "x.xlsx", {}, ("x.xlsx", ".parquet")),
    "unknown compression": (lambda folder: (folder / "x.jsonl.bz2").write_bytes(bz2.compress(ROWS.encode())), "x.jsonl.bz2", {}, ("x.jsonl.bz2",)),
    "no ending": (texts(rows=ROWS), "rows", {}, ("rows",)),
    "two formats": (texts(x__csv="id,text\n1,a\n"), "[rows.jsonl, x.csv]", {}, ("x.csv", "rows.jsonl")),
    "device": (nothing, "/dev/null", {}, ("/dev/null",)),
    "pipe": (lambda folder: os.mkfifo(folder / "p.jsonl"), "p.jsonl", {}, ("p.jsonl",)),
    "NUL in the path": (nothing, '"a\\0.jsonl"', {}, ("job.yaml:1",)),
    "link to itself": (lambda folder: (folder / "l.jsonl").symlink_to("l.jsonl"), "l.jsonl", {}, ("l.jsonl",)),
    "remote": (nothing, "s3://bucket/x.jsonl", {}, ("s3",)),
    # JSONL.
    "empty": (texts(x__jsonl=""), "x.jsonl", {}, ("x.jsonl", "no rows")),
    "blank": (texts(x__jsonl="\n\n  \n"), "x.jsonl", {}, ("x.jsonl", "no rows")),
    "first line broken": (texts(x__jsonl='{"text": "a"\n{"text": "b"}\n'), "x.jsonl", {}, ("x.jsonl:1",)),
    "middle line broken": (texts(x__jsonl='{"text": "a"}\n{"text": b}\n{"text": "c"}\n'), "x.jsonl", {}, ("x.jsonl:2",)),
    "last line broken": (texts(x__jsonl='{"text": "a"}\n{"text": "b"}\n{"text": "c'), "x.jsonl", {}, ("x.jsonl:3",)),
    "broken far down": (lambda folder: (folder / "x.jsonl").write_bytes(many_rows(folder / "y.jsonl", 20_000) + b"{oops}\n"), "x.jsonl", {}, ("x.jsonl:20001",)),
    "broken behind the limit of a batch": (texts(x__jsonl='{"text": "a"}\n' * 1_000 + "[]\n"), "x.jsonl", {}, ("x.jsonl:1001",)),
    "not UTF-8": (texts(x__jsonl=b'{"text": "a"}\n{"text": "caf\xe9"}\n'), "x.jsonl", {}, ("x.jsonl:2", "UTF-8")),
    "UTF-16": (texts(x__jsonl='{"text": "a"}\n'.encode("utf-16")), "x.jsonl", {}, ("x.jsonl:1", "UTF-16")),
    "a JSON list": (texts(x__jsonl='[{"text": "a"},\n{"text": "b"}]\n'), "x.jsonl", {}, ("x.jsonl:1",)),
    "a JSON text": (texts(x__jsonl='"a"\n'), "x.jsonl", {}, ("x.jsonl:1",)),
    "two records on a line": (texts(x__jsonl='{"text": "a"}\n{"text": "b"}{"text": "c"}\n'), "x.jsonl", {}, ("x.jsonl:2",)),
    "Python, not JSON": (texts(x__jsonl="{'text': 'a'}\n"), "x.jsonl", {}, ("x.jsonl:1",)),
    "deep JSON": (texts(x__jsonl='{"text": ' + "[" * 100_000 + "]" * 100_000 + "}\n"), "x.jsonl", {}, ("x.jsonl:1",)),
    "half a surrogate pair": (texts(x__jsonl='{"text": "\\ud83d"}\n'), "x.jsonl", {}, ("x.jsonl:1",)),
    "column missing on one line": (texts(x__jsonl='{"text": "a"}\n{"txt": "b"}\n{"text": "c"}\n'), "x.jsonl", {}, ("x.jsonl:2", "text")),
    "key missing on one line": (texts(x__jsonl='{"id": 1, "text": "a"}\n{"text": "b"}\n'), "{path: x.jsonl, key: id}", {}, ("x.jsonl:2", "id")),
    "duplicate keys": (texts(x__jsonl='{"id": 1, "text": "a"}\n{"id": 2, "text": "b"}\n{"id": 1, "text": "c"}\n'), "{path: x.jsonl, key: id}", {}, ("x.jsonl:3", "x.jsonl:1")),
    "duplicate keys in two files": (texts(x__jsonl='{"id": "k", "text": "a"}\n', y__jsonl='{"id": "k", "text": "b"}\n'), "{path: [x.jsonl, y.jsonl], key: id}", {}, ("y.jsonl:1", "x.jsonl:1")),
    "null key": (texts(x__jsonl='{"id": "a", "text": "a"}\n{"id": null, "text": "b"}\n'), "{path: x.jsonl, key: id}", {}, ("x.jsonl:2", "id")),
    "empty key": (texts(x__jsonl='{"id": "a", "text": "a"}\n{"id": "", "text": "b"}\n'), "{path: x.jsonl, key: id}", {}, ("x.jsonl:2", "id")),
    "float keys": (texts(x__jsonl='{"id": 1.5, "text": "a"}\n{"id": 2.5, "text": "b"}\n'), "{path: x.jsonl, key: id}", {}, ("x.jsonl", "id")),
    "keys of two types": (texts(x__jsonl='{"id": 1, "text": "a"}\n{"id": "2", "text": "b"}\n'), "{path: x.jsonl, key: id}", {}, ("x.jsonl", "id")),
    "object keys": (texts(x__jsonl='{"id": {"a": 1}, "text": "a"}\n'), "{path: x.jsonl, key: id}", {}, ("x.jsonl", "id")),
    "carry of two types": (texts(x__jsonl='{"a": 1, "text": "a"}\n{"a": "x", "text": "b"}\n'), "{path: x.jsonl, carry: [a]}", {}, ("x.jsonl", "a")),
    "gzip that is none": (texts(x__jsonl__gz=ROWS), "x.jsonl.gz", {}, ("x.jsonl.gz",)),
    "zstd that is none": (texts(x__jsonl__zst=ROWS), "x.jsonl.zst", {}, ("x.jsonl.zst",)),
    "gzip cut off": (gz_cut, "x.jsonl.gz", {}, ("x.jsonl.gz", "cut off")),
    "zstd cut off": (zst_cut, "x.jsonl.zst", {}, ("x.jsonl.zst", "cut off")),
    "gzip damaged": (gz_flipped, "x.jsonl.gz", {}, ("x.jsonl.gz",)),
    "empty gzip": (texts(x__jsonl__gz=b""), "x.jsonl.gz", {}, ("x.jsonl.gz",)),
    # Parquet.
    "CSV called Parquet": (texts(x__parquet="id,text\n1,a\n"), "x.parquet", {}, ("x.parquet",)),
    "empty Parquet": (texts(x__parquet=b""), "x.parquet", {}, ("x.parquet",)),
    "Parquet without rows": (lambda folder: parquet(folder / "x.parquet", text=pa.array([], pa.string())), "x.parquet", {}, ("x.parquet", "no rows")),
    "Parquet cut off": (parquet_cut, "x.parquet", {}, ("x.parquet",)),
    "Parquet with damaged pages": (parquet_hollow, "{path: x.parquet, key: id}", {}, ("x.parquet",)),
    "Parquet with two columns of one name": (lambda folder: pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), folder / "x.parquet"), "x.parquet", {}, ("x.parquet", "text")),
    "Parquet of bytes": (lambda folder: parquet(folder / "x.parquet", text=pa.array([b"\xff"], pa.binary())), "x.parquet", {}, ("x.parquet", "text")),
    "Parquet with float keys": (lambda folder: parquet(folder / "x.parquet", id=[0.5, 1.5], text=["a", "b"]), "{path: x.parquet, key: id}", {}, ("x.parquet", "id")),
    "Parquet with a null key": (lambda folder: parquet(folder / "x.parquet", id=[1, None], text=["a", "b"]), "{path: x.parquet, key: id}", {}, ("x.parquet", "id")),
    "Parquet with duplicate keys": (lambda folder: parquet(folder / "x.parquet", id=[1, 2, 1], text=["a", "b", "c"]), "{path: x.parquet, key: id}", {}, ("x.parquet", "id")),
    "Parquet files that differ": (lambda folder: (parquet(folder / "x.parquet", text=["a"]), parquet(folder / "y.parquet", txt=["b"])), "[x.parquet, y.parquet]", {}, ("y.parquet", "text")),
    "Parquet chat of numbers": (lambda folder: parquet(folder / "x.parquet", chat=[1, 2]), "x.parquet", {"prompt": "{messages: chat}"}, ("x.parquet", "chat")),
    # CSV.
    "ragged CSV, long": (texts(x__csv="id,text\n1,a\n2,b,c\n"), "x.csv", {}, ("x.csv:3",)),
    "ragged CSV, short": (texts(x__csv="id,text\n1,a\n2\n3,c\n"), "x.csv", {}, ("x.csv:3",)),
    "CSV with two columns of one name": (texts(x__csv="text,text\na,b\n"), "x.csv", {}, ("x.csv:1", "text")),
    "CSV with an open quote": (texts(x__csv='id,text\n1,"a\n2,b\n'), "x.csv", {}, ("x.csv:2",)),
    "CSV not UTF-8": (texts(x__csv=b"id,text\n1,caf\xe9\n"), "x.csv", {}, ("x.csv:2", "UTF-8")),
    "CSV without rows": (texts(x__csv="id,text\n"), "x.csv", {}, ("x.csv", "no rows")),
    "empty CSV": (texts(x__csv=""), "x.csv", {}, ("x.csv",)),
    "CSV with duplicate keys": (texts(x__csv="id,text\n7,a\n8,b\n7,c\n"), "{path: x.csv, key: id}", {}, ("x.csv:4", "x.csv:2")),
    "CSV with an empty key": (texts(x__csv="id,text\n7,a\n,b\n"), "{path: x.csv, key: id}", {}, ("x.csv:3", "id")),
    "CSV chat": (texts(x__csv="chat\nhello\n"), "x.csv", {"prompt": "{messages: chat}"}, ("x.csv", "chat")),
    # Chats.
    "chat is a text": (texts(x__jsonl=messages([{"role": "user", "content": "a"}]) + messages("hi")), "x.jsonl", {"prompt": "{messages: chat}"}, ("x.jsonl:2", "chat")),
    "chat is empty": (texts(x__jsonl=messages([])), "x.jsonl", {"prompt": "{messages: chat}"}, ("x.jsonl:1", "chat")),
    "chat without a role": (texts(x__jsonl=messages([{"content": "a"}])), "x.jsonl", {"prompt": "{messages: chat}"}, ("x.jsonl:1", "role")),
    "chat of numbers": (texts(x__jsonl=messages([1, 2])), "x.jsonl", {"prompt": "{messages: chat}"}, ("x.jsonl:1", "chat")),
    "chat is null": (texts(x__jsonl=messages(None)), "x.jsonl", {"prompt": "{messages: chat}"}, ("x.jsonl", "chat")),
}  # fmt: skip


@pytest.mark.parametrize("name", INPUTS)
def test_a_hostile_input_is_one_sentence(name: str, place: Place) -> None:
    write, input_field, changes, words = INPUTS[name]
    write(place.folder)

    said = place.refused_job(place.good_job(input=input_field, **changes))

    for word in words:
        assert word in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_input_that_may_not_be_read_is_one_sentence(place: Place) -> None:
    (place.folder / "x.jsonl").write_text(ROWS)
    (place.folder / "x.jsonl").chmod(0)
    place.files = dict  # type: ignore[method-assign,assignment]  # they cannot be read by us either
    assert "x.jsonl" in place.refused_job(place.good_job(input="x.jsonl"))


@pytest.mark.parametrize("name", ["missing", "middle line broken", "duplicate keys", "CSV called Parquet"])
@pytest.mark.parametrize("command", [["check"], ["run", "--dry-run"]])
def test_check_and_dry_run_refuse_a_hostile_input_too(command: list[str], name: str, place: Place) -> None:
    write, input_field, changes, words = INPUTS[name]
    write(place.folder)
    (place.folder / "job.yaml").write_text(place.good_job(input=input_field, **changes))

    said = place.refused(*command, "job.yaml")

    for word in words:
        assert word in said


def test_a_template_that_goes_with_no_row_is_one_sentence(place: Place) -> None:
    """The provider is not asked, so it is not the provider that refused: the job is wrong, code 2."""
    (place.folder / "x.jsonl").write_text('{"n": null}\n{"n": null}\n')
    said = place.refused_job(place.good_job(input="x.jsonl", prompt='"{{ n + 1 }}"'))
    assert "prompt.user" in said


# --------------------------------------------------------------------------------------------- command lines

# name: (arguments, words of the sentence); in the folder are a good job.yaml and rows.jsonl, and no run
COMMANDS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "unknown command": (["rnu", "job.yaml"], ("rnu",)),
    "unknown option": (["run", "job.yaml", "--frehs"], ("--frehs", "--fresh")),
    "unknown option of the program": (["--quiet", "run", "job.yaml"], ("--quiet",)),
    "no job": (["run"], ("JOB",)),
    "two jobs": (["run", "job.yaml", "job.yaml"], ("job.yaml",)),
    "job that is not there": (["run", "jbo.yaml"], ("jbo.yaml", "job.yaml")),
    "job that is a directory": (["run", "."], ("directory",)),
    "job that is rows": (["run", "rows.jsonl"], ("rows.jsonl",)),
    "limit of zero": (["run", "job.yaml", "--limit", "0"], ("--limit", "0")),
    "limit below zero": (["run", "job.yaml", "--limit", "-5"], ("--limit",)),
    "limit in words": (["run", "job.yaml", "--limit", "ten"], ("--limit", "ten")),
    "limit without a value": (["run", "job.yaml", "--limit"], ("--limit",)),
    "set with a typo": (["run", "job.yaml", "--set", "limits.concurency=5"], ("--set", "limits.concurrency")),
    "set without a value": (["run", "job.yaml", "--set", "limits.concurrency"], ("--set", "limits.concurrency")),
    "set of a wrong type": (["run", "job.yaml", "--set", "limits.concurrency=many"], ("--set", "limits.concurrency")),
    "set of a section": (["run", "job.yaml", "--set", "limits=5"], ("--set", "limits")),
    "set below a scalar": (["run", "job.yaml", "--set", "model.name=x"], ("--set", "model")),
    "set of a key": (["run", "job.yaml", "--set", f"provider.api_key={KEY}"], ("--set",)),
    "set of no YAML": (["run", "job.yaml", "--set", "answer.labels=[a"], ("--set",)),
    "var without =": (["run", "job.yaml", "--var", "today"], ("--var", "today", "=")),
    "var without a name": (["run", "job.yaml", "--var", "=5"], ("--var",)),
    "var of no name": (["run", "job.yaml", "--var", "a b=5"], ("--var",)),
    "unknown log format": (["run", "job.yaml", "--log-format", "xml"], ("--log-format", "json")),
    "runs is a file": (["run", "job.yaml", "--runs", "rows.jsonl"], ("rows.jsonl",)),
    "resume of nothing": (["resume"], ("RUN",)),
    "resume of what is not there": (["resume", "runs/nope"], ("runs/nope",)),
    "resume of a folder": (["resume", "."], ("run directory",)),
    "resume of a job without a run": (["resume", "job.yaml"], ("job", "no run")),
    "retry of a job without a run": (["retry", "job.yaml"], ("job", "no run")),
    "retry of a folder": (["retry", "."], ("run directory",)),
    "status of what is not there": (["status", "nope"], ("nope",)),
    "status of a folder": (["status", "."], ("run directory",)),
    "export of a folder": (["export", ".", "--to", "x.csv"], ("run directory",)),
    "export without a target": (["export", "."], ("--to",)),
    "export of a job without a run": (["export", "job.yaml", "--to", "x.csv"], ("job",)),
    "init over a file": (["init", "job.yaml"], ("job.yaml", "exists")),
    "check without a job": (["check"], ("JOB",)),
    "check of what is not there": (["check", "nope.yaml"], ("nope.yaml",)),
    "simulate an unknown fault": (["simulate", "--port", "0", "--fault", "5000=5%"], ("5000",)),
    "simulate a fault without share": (["simulate", "--port", "0", "--fault", "500"], ("500",)),
    "simulate more than all": (["simulate", "--port", "0", "--fault", "500=150%"], ("150",)),
    "simulate at a bad port": (["simulate", "--port", "99999"], ("--port",)),
    "simulate from no file": (["simulate", "--config", "nope.yaml"], ("nope.yaml",)),
    "serve an unknown model": (["serve", "gpt-17"], ("gpt-17",)),
    "pull an unknown model": (["models", "pull", "gpt-17"], ("gpt-17",)),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_a_hostile_command_line_is_one_sentence(name: str, place: Place) -> None:
    (place.folder / "job.yaml").write_text(place.good_job())
    arguments, words = COMMANDS[name]

    said = place.refused(*arguments)

    for word in words:
        assert word in said


def finished_run(place: Place) -> Path:
    (place.folder / "job.yaml").write_text(place.good_job())
    with pytest.raises(SystemExit):
        main(["run", "job.yaml"])
    return Path(place._capture.readouterr().out.strip())


@pytest.mark.parametrize("target", ["x.xlsx", "x", "x.csv.bz2", "."])
def test_export_to_an_unknown_format_is_one_sentence(target: str, place: Place) -> None:
    assert target in place.refused("export", str(finished_run(place)), "--to", target)


def test_export_of_an_unfinished_run_is_one_sentence(place: Place) -> None:
    run = finished_run(place)
    (run / "results.parquet").unlink()
    assert "not finished" in place.refused("export", str(run), "--to", "x.csv")


def test_export_over_the_results_is_one_sentence(place: Place) -> None:
    run = finished_run(place)
    assert "own results" in place.refused("export", str(run), "--to", str(run / "results.parquet"))


@pytest.mark.parametrize("command", ["resume", "retry"])
def test_a_run_whose_job_was_taken_away_is_one_sentence(command: str, place: Place) -> None:
    run = finished_run(place)
    (run / "job.yaml").unlink()
    assert "job.yaml" in place.refused(command, str(run))


@pytest.mark.parametrize("command", ["resume", "retry"])
def test_a_run_whose_input_changed_is_one_sentence(command: str, place: Place) -> None:
    """Rows would get the answers of other rows."""
    run = finished_run(place)
    (place.folder / "rows.jsonl").write_text(ROWS.replace("two", "changed"))
    assert "rows.jsonl" in place.refused(command, str(run))


# ------------------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize(
    "name",
    ["misspelt below", "alias bomb", "the class of a value", "not UTF-8", "where that is no SQL", "unknown option"],
)
def test_a_process_ends_the_same_way(name: str, place: Place) -> None:
    """What runs in this process, runs in one of its own: same code, same one sentence, no trace."""
    arguments = ["run", "job.yaml"]
    content: str | bytes = place.good_job()
    if name in JOB_FILES:
        change = JOB_FILES[name][0]
        content = place.good_job(**change) if isinstance(change, dict) else place.good_job() + str(change)
    elif name in INPUTS:
        write, input_field, changes, _ = INPUTS[name]
        write(place.folder)
        content = place.good_job(input=input_field, **changes)
    else:
        arguments = COMMANDS[name][0]
    (place.folder / "job.yaml").write_text(content)
    before, asked_before = place.files(), len(place.provider.asked)

    ended = subprocess.run(
        [sys.executable, "-m", "batcher", *arguments],
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )

    assert ended.returncode == 2, ended.stderr
    assert_one_sentence(ended.stderr)
    assert ended.stdout == ""
    assert place.files() == before
    assert len(place.provider.asked) == asked_before


def test_there_are_enough_of_them() -> None:
    assert len(JOB_FILES) + len(INPUTS) + len(COMMANDS) >= 60

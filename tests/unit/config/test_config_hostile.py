# ruff: noqa: E501  # a table of cases reads best with one case a line
"""Job files that are wrong: each is refused with one sentence that says where and what to write."""

import os
import re
import traceback
from pathlib import Path
from typing import Any

import pytest

from batcher.config.load import load_job
from batcher.errors import JobError

KEY = "sk-live-0123456789abcdefghij"
ENVIRON = {
    "OPENAI_API_KEY": KEY,
    "EMPTY": "",
    "SPACED": "ab cd",
    "LF": f"{KEY}\n",
    "BAD": "caf\udce9",
    "LONG": "x" * 100_000,
}
GOOD = "input: a.csv\nprompt: hi {{ text }}\nmodel: m\n"


def job_with(text: str) -> str:
    """A good job of three lines, and `text` from line 4 on."""
    return GOOD + text + "\n"


def nested(depth: int) -> str:
    return job_with("params: {x: " + "[" * depth + "]" * depth + "}")


BOMB = "params:\n  a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  {name}: &{name} [{', '.join(['*' + chr(ord(name) - 1)] * 10)}]\n" for name in "bcdefghi"
)

# name: (file, line or None, words that the sentence has)
HOSTILE: dict[str, tuple[str | bytes, int | None, str]] = {
    # The file itself.
    "empty file": ("", None, "is empty"),
    "only a comment": ("# nothing\n", None, "is empty"),
    "not UTF-8": (GOOD.encode() + "name: café\n".encode("latin-1"), 4, "not UTF-8"),
    "UTF-16": (GOOD.encode("utf-16"), 1, "not UTF-8"),
    "NUL byte": (job_with("name: a\0b"), 4, "U+0000"),
    "escape character": (job_with("name: a\x1b[31mb"), 4, "U+001B"),
    "10 MB": (job_with("# " + "x" * 10_000_000), None, "larger than 1024 KiB"),
    "tab indentation": (job_with("limits:\n\tconcurrency: 5"), 5, "spaces, not tabs"),
    "open quote": (job_with("name: 'abc"), 4, "check quotes"),
    "open bracket": (job_with("answer: {labels: [a, b"), 4, "YAML"),
    "bad indentation": (job_with("limits:\n  concurrency: 5\n requests_per_minute: 6"), 6, "YAML"),
    "colon in text": (job_with("name: a: b"), 4, "quotes around text that holds a colon"),
    "two documents": (job_with("---\nname: b"), 4, "second document"),
    "a list": ("- input: a.csv\n", 1, "is a list"),
    "a text": ("hello\n", 1, 'is the text "hello"'),
    "a number": ("5\n", 1, "is 5"),
    "duplicate key": (job_with("model: n"), 4, "model is given twice (also in line 3)"),
    "duplicate key inside": (job_with("params:\n  seed: 1\n  top_p: 1\n  seed: 2"), 7, "also in line 5"),
    "Python tag": (job_with("params: !!python/object/apply:os.system [id]"), 4, "tags"),
    "own tag": (job_with("name: !env HOME"), 4, "tags"),
    "standard tag": (job_with("name: !!str 5"), 4, "tags"),
    "YAML 1.1": ("%YAML 1.1\n---\n" + GOOD, 2, "remove that line"),
    "alias bomb": (GOOD + BOMB, 9, "more than 20000 values"),
    "alias bomb of text": (job_with("params: {a: &a \"" + "x" * 200_000 + "\", b: [" + "*a, " * 100 + "]}"), 4, "more than 4 MiB of text"),
    "alias bomb of keys": (job_with("params: {a: &a {" + "x" * 1_000 + ": 1}, b: [" + "*a, " * 4_500 + "]}"), 4, "more than 4 MiB of text"),
    "raw C1 control": (job_with('name: "a\x9b2Jb"'), 4, "U+009B"),
    "name that turns the text": (job_with('name: "a\u202eb"'), 4, "cannot be seen or turns the text"),
    "name with a zero width": (job_with('name: "a\u200bb"'), 4, "cannot be seen"),
    "output of 300 characters": (job_with(f"output: {{path: {'x' * 300}.csv}}"), 4, "cannot be a file (File name too long)"),
    "output on a device": (job_with("output: {path: link.csv}").replace("link.csv", "/dev/null/x.csv"), 4, "/dev/null, which is no directory"),
    "output below a file": (job_with("output: {path: job.yaml/x.csv}"), 4, "job.yaml, which is no directory"),
    "alias to itself": (job_with("params: &a {x: *a}"), 4, "no finished anchor"),
    "alias to nothing": (job_with("name: *there"), 4, "no finished anchor"),
    "merge key": (job_with("limits: {<<: {concurrency: 5}}"), 4, "merge"),
    "41 levels": (nested(41), 4, "nested more than 40 deep"),
    "20000 levels": (nested(20_000), 4, "nested more than 40 deep"),
    "template without quotes": ("input: a.csv\nprompt: {{ text }}\nmodel: m\n", 2, 'put quotes around a template: "{{ text }}"'),
    "list as a key": (job_with("? [a]\n: b"), 4, "where a field name belongs"),
    "empty key": (job_with(": b"), 4, "has no name"),
    "half a surrogate pair": (job_with('name: "\\ud83d"'), 4, "U+D83D"),
    "character beyond Unicode": (job_with('name: "\\U00110000"'), 4, "escapes"),
    "5000 digits": (job_with(f"params: {{seed: {'9' * 5000}}}"), 4, "5000 characters"),
    "infinity in params": (job_with("params: {temperature: .inf}"), 4, "finite"),
    "1e999 in params": (job_with("params: {temperature: 1e999}"), 4, "finite"),
    # Unknown and misplaced fields.
    "misspelt": (job_with("limits:\n  tokens_per_min: 1"), 5, "limits.tokens_per_min is not a field; did you mean limits.tokens_per_minute?"),
    "misspelt at the top": (job_with("modle: m"), 4, "modle is not a field; did you mean model?"),
    "temperature at the top": (job_with("temperature: 0.1"), 4, "belongs under params, so write params.temperature"),
    "labels at the top": (job_with("labels: [a, b]"), 4, "answer.labels"),
    "concurrency at the top": (job_with("concurrency: 5"), 4, "limits.concurrency"),
    "api_key at the top": (job_with(f"api_key: {KEY}"), 4, "provider.api_key"),
    "model under params": (job_with("params: {model: m}"), 4, "params.model is set by batcher itself"),
    "foreign word": (job_with("max_retries: 5"), 4, "retry.attempts"),
    "nothing like it": (job_with("zzzzzz: 1"), 4, "zzzzzz is not a field; the fields are name, kind, input"),
    "dotted name": (job_with("limits.concurrency: 5"), 4, "write concurrency below limits"),
    "upper case": (job_with("Timeout: 5s"), 4, "did you mean timeout?"),
    "field in an example": (GOOD.replace("hi {{ text }}", "{user: a, examples: [{user: b, asistant: c}]}"), 2, "prompt.examples.0.assistant?"),
    "key as a field": (job_with(f"provider: {{x {KEY}}}"), 4, "provider.x … is not a field"),
    "key as a choice": (job_with(f"client: {KEY}"), 4, "client holds an API key"),
    "misspelt price": (job_with("provider: {price: {inputs: 1, output: 2}}"), 4, "provider.price.input?"),
    "stream": (job_with("params: {stream: true}"), 4, "params.stream is set by batcher itself"),
    "n": (job_with("params: {n: 2}"), 4, "a row has one answer"),
    "messages": (job_with("params:\n  messages: []"), 5, "made from the prompt"),
    "response_format and labels": (job_with("answer: {labels: [a]}\nparams: {response_format: {type: json_object}}"), 5, "structured: off"),
    # Later versions.
    "cache": (job_with("cache: {exact: true}"), 4, "`cache` is not built yet"),
    "schema": (job_with("answer: {schema: s.json}"), 4, "`answer.schema` is not built yet"),
    "chunk": ("input: {path: a.csv, chunk: {column: t}}\nprompt: x\nmodel: m\n", 1, "`input.chunk` is not built yet"),
    "embedding": (job_with("kind: embedding"), 4, "kind embedding is not built yet in this version; write chat"),
    "two providers": (job_with("providers: [{name: a}, {name: b}]"), 4, "several providers are not built yet"),
    "s3": ("input: s3://bucket/a.parquet\nprompt: x\nmodel: m\n", 1, "remote files are not built yet"),
    # Money.
    "budget of nothing": (job_with("budget: {usd: 0}"), 4, "budget.usd is 0; write US dollars above 0"),
    "negative budget": (job_with("budget: {usd: -1}"), 4, "budget.usd is -1"),
    "budget without end": (job_with("budget: {usd: .inf}"), 4, "finite"),
    "budget above a billion": (job_with("budget: {usd: 1000000001}"), 4, "at most 1000000000"),
    "budget in words": (job_with("budget: {usd: $10}"), 4, 'budget.usd is the text "$10"'),
    "budget is true": (job_with("budget: {usd: true}"), 4, "budget.usd is true"),
    "budget is a number": (job_with("budget: 10"), 4, "budget is 10; write a mapping"),
    "budget in euros": (job_with("budget: {eur: 10}"), 4, "budget.eur is not a field; those of budget are usd"),
    "budget misspelt": (job_with("budgets: {usd: 10}"), 4, "did you mean budget?"),
    "empty budget": (job_with("budget: {}"), 4, "budget.usd is missing"),
    # Values.
    "no value": (job_with("limits:"), 4, "limits has no value"),
    "null": (job_with("limits: {concurrency: null}"), 4, "has no value"),
    "zero": (job_with("limits: {requests_per_minute: 0}"), 4, "limits.requests_per_minute is 0; write a whole number of at least 1"),
    "negative": (job_with("limits: {concurrency: -5}"), 4, "is -5"),
    "fraction": (job_with("limits: {requests_per_minute: 1.5}"), 4, "is 1.5; write a whole number"),
    "bool as number": (job_with("limits: {concurrency: true}"), 4, "is true"),
    "number in quotes": (job_with("limits: {requests_per_minute: '50'}"), 4, "without quotes"),
    "huge": (job_with("limits: {concurrency: 1000000000}"), 4, "at most 100000"),
    "NaN": (job_with("provider: {weight: .nan}"), 4, "finite"),
    "section is a number": (job_with("limits: 5"), 4, "limits is 5; write a mapping"),
    "params is a list": (job_with("params: [a]"), 4, "params is a list; write a mapping"),
    "duration without unit": (job_with("timeout: 60"), 4, "write 60s"),
    "duration of zero": (job_with("timeout: 0s"), 4, "above 0"),
    "duration in words": (job_with("timeout: one minute"), 4, "like 50ms, 60s"),
    "share above 1": (job_with("success: {failed: 5}"), 4, "like 5%"),
    "share above 100%": (job_with("success: {failed: 101%}"), 4, "from 0% to 100%"),
    "label drift above 1": (job_with("success: {label_drift: 2}"), 4, "success.label_drift is 2; write a share from 0% to 100%"),
    "same below 1%": (job_with("success: {same: 0.5%}"), 4, "success.same is 0.5 %; write a share from 1% to 100%"),
    "gold without a column": (job_with("success: {gold: {min_accuracy: 90%}}"), 4, "success.gold.column is missing"),
    "gold as a text": (job_with("success: {gold: truth}"), 4, "success.gold"),
    "accuracy above 1": (job_with("success: {gold: {column: t, min_accuracy: 90}}"), 4, "like 90%"),
    "negative share": (job_with("success: {failed: -0.1}"), 4, "from 0% to 100%"),
    "no model": ("input: a.csv\nprompt: x\n", 1, "model is missing"),
    "empty model": ("input: a.csv\nprompt: x\nmodel: ''\n", 3, "model is empty"),
    "no input": ("prompt: x\nmodel: m\n", 1, "input is missing"),
    "empty input": ("input: []\nprompt: x\nmodel: m\n", 1, "empty list"),
    "input is a number": ("input: 5\nprompt: x\nmodel: m\n", 1, "is 5; write a text, or a list of texts"),
    "no prompt": ("input: a.csv\nmodel: m\n", 1, "prompt is missing"),
    "prompt without a question": ("input: a.csv\nprompt: {system: x}\nmodel: m\n", 2, "prompt.user is missing"),
    "empty prompt": ("input: a.csv\nprompt: ''\nmodel: m\n", 2, "prompt.user is empty"),
    "user and messages": ("input: a.csv\nprompt: {user: x, messages: chat}\nmodel: m\n", 2, "keep one of them"),
    "system and messages": ("input: a.csv\nprompt: {system: x, messages: chat}\nmodel: m\n", 2, "whole chats"),
    "closing tag": ("input: a.csv\nprompt: {user: x, reasoning: </think>}\nmodel: m\n", 2, "like <think>"),
    "no labels": (job_with("answer: {labels: []}"), 4, "empty list"),
    "labels is a text": (job_with("answer: {labels: a}"), 4, "write a list"),
    "numbers as labels": (job_with("answer:\n  labels:\n    - 1"), 6, 'answer.labels.0 is 1; write text in quotes: "1"'),
    "true as a label": (job_with("answer: {labels: [true]}"), 4, 'write text in quotes: "true"'),
    "blank label": (job_with("answer: {labels: [a, ' ']}"), 4, "answer.labels.1 is empty"),
    "same label": (job_with("answer: {labels: [Yes, yes]}"), 4, "the same as label 1"),
    "same label, wide": (job_with("answer: {labels: [A, Ａ]}"), 4, "the same as label 1"),
    "same label, spaces": (job_with("answer: {labels: [ไทย, 'ไทย ']}"), 4, "the same as label 1"),
    "unknown choice": (job_with("client: httpx"), 4, "write fast or sdk"),
    "on": (job_with("answer: {structured: false}"), 4, "write off"),
    "name with path": (job_with("name: ../x"), 4, "without slashes"),
    "name with backslash": (job_with("name: a\\b"), 4, "without slashes"),
    "hidden name": (job_with("name: .x"), 4, "begin it with a letter"),
    "name like an option": (job_with("name: -rf"), 4, "begin it with a letter"),
    "long name": (job_with(f"name: {'ก' * 40}"), 4, "120 bytes"),
    "name of two lines": (job_with('name: "a\\nb"'), 4, "on one line"),
    "name is a number": (job_with("name: 2026"), 4, 'write text in quotes: "2026"'),
    "output is the input": (job_with("output: {path: ./a.csv}"), 4, "also read by input.path.0"),
    "output in the glob": ("input: data/*.csv\nprompt: x\nmodel: m\noutput: {path: data/out.csv}\n", 4, "also read by"),
    "output of no format": (job_with("output: {path: out.txt}"), 4, ".parquet, .jsonl or .csv"),
    "output of two formats": (job_with("output: {path: o.csv, format: jsonl}"), 4, "output.path ends in .csv"),
    "carry twice": ("input: {path: a.csv, carry: [x, x]}\nprompt: x\nmodel: m\n", 1, "input.carry.1"),
    "carry a result column": ("input: {path: a.csv, carry: [label]}\nprompt: x\nmodel: m\n", 1, "the results have already"),
    "limit of zero": ("input: {path: a.csv, limit: 0}\nprompt: x\nmodel: m\n", 1, "input.limit is 0"),
    "examples of a wrong kind": ("input: a.csv\nprompt: {user: x, examples: a.csv}\nmodel: m\n", 2, "no file"),
    "half an example": ("input: a.csv\nprompt:\n  user: x\n  examples:\n    - {user: a}\nmodel: m\n", 5, "prompt.examples.0.assistant is missing"),
    # Providers.
    "provider and providers": (job_with(f"provider: {{api_key: {KEY}}}\nproviders: [{{api_key: {KEY}}}]"), 5, "keep one of them"),
    "no providers": (job_with("providers: []"), 4, "empty list"),
    "URL without scheme": (job_with("provider: {base_url: api.example.com/v1}"), 4, "https://"),
    "URL of files": (job_with("provider: {base_url: 'file:///etc/passwd'}"), 4, "https://"),
    "URL with a password": (job_with(f"provider: {{base_url: 'https://me:{KEY}@x.org/v1'}}"), 4, "use api_key"),
    "URL with the route": (job_with("provider: {base_url: 'https://x.org/v1/chat/completions'}"), 4, "remove that"),
    "URL with a query": (job_with("provider: {base_url: 'https://x.org/v1?a=b'}"), 4, "? or #"),
    "URL with a wild port": (job_with("provider: {base_url: 'https://x.org:99999/v1'}"), 4, "is not a URL"),
    "URL that is a key": (job_with(f"provider: {{base_url: {KEY}}}"), 4, "https://"),
    "key not set": (job_with("provider:\n  api_key: ${NO_SUCH_KEY}"), 5, "reads ${NO_SUCH_KEY}, which is not set"),
    "key is empty": (job_with("provider: {api_key: '${EMPTY}'}"), 4, "reads ${EMPTY}, which is empty"),
    "key with a space": (job_with("provider: {api_key: '${SPACED}'}"), 4, "no HTTP header takes"),
    "key with a line feed": (job_with("provider: {api_key: '${LF}'}"), 4, "no HTTP header takes"),
    "key is a number": (job_with("provider: {api_key: 12345}"), 4, "a text"),
    "key is a mapping": (job_with(f"provider: {{api_key: {{a: {KEY}}}}}"), 4, "is a mapping"),
    "same key twice": (job_with(f"provider: {{api_key: [{KEY}, {KEY}]}}"), 4, "the same key"),
    "key in a prompt": (f"input: a.csv\nprompt: use {KEY} please\nmodel: m\n", 2, "prompt.user holds an API key"),
    "key as a parameter": (job_with(f"params: {{{KEY}: 1}}"), 4, "params holds an API key"),
    "local with an endpoint": (job_with("provider: {local: smollm2-135m, base_url: 'http://x/v1'}"), 4, "beside local"),
    "local with a key": (job_with(f"provider: {{local: smollm2-135m, api_key: {KEY}}}"), 4, "beside local"),
    "negative price": (job_with("provider: {price: {input: -1, output: 1}}"), 4, "0 or more"),
    "half a price": (job_with("provider: {price: {input: 1}}"), 4, "provider.price.output is missing"),
    "price in quotes": (job_with("provider: {price: {input: '1', output: 1}}"), 4, "dollars per million"),
    "waits crossed": (job_with("retry: {min_wait: 5s, max_wait: 1s}"), 4, "longer than retry.max_wait"),
    # Variables.
    "variable not set": (job_with("name: ${NO_SUCH}"), 4, "name reads ${NO_SUCH}, which is not set"),
    "variable without a name": (job_with('name: "${}"'), 4, "$${"),
    "variable not closed": (job_with("name: ${HOME"), 4, "$${"),
    "variables that swell": (job_with("params: {x: [" + '"${LONG}", ' * 100 + "]}"), 4, "the job's variables stand for more than 4 MiB"),
    "variable not UTF-8": (job_with("model_: x\nname: ${BAD}").replace("model_: x\n", ""), 4, "U+DCE9"),
}  # fmt: skip


def assert_one_sentence(message: str) -> None:
    """One line, printable, of a length a terminal shows, and without the words of a traceback or a library."""
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 400
    assert not re.search(r"Traceback|pydantic|ruamel|Input should|Error\b(?!\))|<class|Node\(|None\b", message)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_one_sentence_with_file_and_line(name: str, tmp_path: Path) -> None:
    """P11: which file, which line, what was found, what to write; and P9: never the key."""
    content, line, words = HOSTILE[name]
    path = tmp_path / "job.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(JobError) as raised:
        load_job(path, environ=ENVIRON)

    message = raised.value.message
    assert message.startswith(f"{path}:{line}: " if line else f"{path}")
    assert words in message
    message = message.replace(str(tmp_path), "")
    assert_one_sentence(message)
    assert KEY not in "".join(traceback.format_exception(raised.value))
    assert [entry.name for entry in tmp_path.iterdir()] == ["job.yaml"]


def test_hostile_table_is_long_enough() -> None:
    """The promise is at least 60 hostile files."""
    assert len(HOSTILE) >= 60


def test_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    """A slip of the finger in the file's name is the commonest fault of all."""
    (tmp_path / "label.yaml").write_text(GOOD)

    with pytest.raises(JobError, match=r"lable\.yaml: the job file does not exist; did you mean .*/label\.yaml\?"):
        load_job(tmp_path / "lable.yaml", environ=ENVIRON)
    with pytest.raises(JobError, match="there is no directory"):
        load_job(tmp_path / "no" / "lable.yaml", environ=ENVIRON)


def test_directory_names_the_jobs_in_it(tmp_path: Path) -> None:
    """`batcher run jobs/` says what could have been meant."""
    (tmp_path / "label.yaml").write_text(GOOD)

    with pytest.raises(JobError, match=r"is a directory; name a file in it; there is label\.yaml"):
        load_job(tmp_path, environ=ENVIRON)


def test_device_is_refused_unread() -> None:
    """`/dev/zero` has no end."""
    with pytest.raises(JobError, match="not a regular file"):
        load_job(Path("/dev/zero"), environ=ENVIRON)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_is_a_sentence(tmp_path: Path) -> None:
    """Permissions are the user's to mend."""
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    path.chmod(0)

    with pytest.raises(JobError, match="may not be read by this user"):
        load_job(path, environ=ENVIRON)


@pytest.mark.parametrize("name", ["a\0b.yaml", "x" * 300 + ".yaml"])
def test_impossible_path_is_a_sentence(name: str, tmp_path: Path) -> None:
    """What the system itself refuses to open is said in the same way."""
    with pytest.raises(JobError, match="cannot be read") as raised:
        load_job(tmp_path / name, environ=ENVIRON)

    assert raised.value.message.isprintable()


def test_file_name_that_is_no_job_name_is_named(tmp_path: Path) -> None:
    """The name falls back to the file's stem, which may be no name for a directory."""
    path = tmp_path / ".yaml"
    path.write_text(GOOD)

    with pytest.raises(JobError, match="name is the text"):
        load_job(path, environ=ENVIRON)


def test_missing_key_names_its_variable(tmp_path: Path) -> None:
    """Without a provider the key comes from the environment, and the message says from where."""
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)

    with pytest.raises(JobError, match="OPENAI_API_KEY is not set"):
        load_job(path, environ={"OPENAI_API_KEY": "  "})


# option: words that the sentence has
OPTIONS = {
    "limits.concurency=5": "--set limits.concurency=5: limits.concurency is not a field; did you mean limits.concurrency?",
    "limits.concurrency=abc": "--set limits.concurrency=abc: limits.concurrency is the text",
    "limits": "write it as path=value",
    "=5": "write it as path=value",
    "limits..concurrency=5": "write it as path=value",
    "model.name=x": "model has no fields",
    "budget.usd=-5": "--set budget.usd=-5: budget.usd is -5; write US dollars above 0",
    "budget.uds=5": "did you mean budget.usd?",
    "input.path.3=b.csv": "input.path has no fields",
    "answer.labels=[a": "not readable as YAML",
    "answer.labels=[a, a]": "the same as label 1",
    "provider.api_key=sk-live-0123456789abcdefghij": "seen by everyone",
    "provider={api_key: sk-live-0123456789abcdefghij}": "seen by everyone",
    "provider.apikey=sk-live-0123456789abcdefghij": "did you mean provider.api_key?",
    "input.limit=1e999": "finite",
    ".".join("a" * 60) + "=1": "60 parts",
    "name=caf\udce9": "U+DCE9",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_hostile_set_is_one_sentence_that_names_the_option(option: str, tmp_path: Path) -> None:
    """`--set` meets the same checks as the file, and its errors point to itself."""
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)

    with pytest.raises(JobError) as raised:
        load_job(path, sets=[option], environ=ENVIRON)

    assert raised.value.message.startswith("--set ")
    assert OPTIONS[option] in raised.value.message
    assert KEY not in raised.value.message
    assert_one_sentence(raised.value.message)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"a-b": "1"}, "the name is not one"),
        ({"": "1"}, "the name is not one"),
        ({"a": "x\udce9"}, "not text in UTF-8"),
    ],
)
def test_hostile_variable_is_one_sentence(variables: dict[str, Any], words: str, tmp_path: Path) -> None:
    """A variable is a name that a template can speak of, and text."""
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)

    with pytest.raises(JobError, match=words) as raised:
        load_job(path, variables=variables, environ=ENVIRON)

    assert raised.value.message.startswith("--var ")


def test_limit_below_one_names_the_option(tmp_path: Path) -> None:
    """`--limit 0` is no way to run nothing; `--dry-run` is."""
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)

    with pytest.raises(JobError, match=r"--limit 0: input\.limit is 0"):
        load_job(path, limit=0, environ=ENVIRON)


@pytest.mark.parametrize("name", ["run.json", "log.jsonl", "results.parquet", "journal/000001-x.parquet"])
def test_output_over_a_file_that_a_run_keeps_is_refused(name: str, tmp_path: Path) -> None:
    """The journal is the only truth; no job may write into another run's."""
    run = tmp_path / "runs" / "งาน" / "2026-11-21T02-00-00Z-7f3a"
    (run / "journal").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (tmp_path / "link").symlink_to(run)
    path = tmp_path / "job.yaml"

    for written in (run / name, tmp_path / "link" / name):
        path.write_text(job_with(f"output: {{path: '{written}'}}"))
        with pytest.raises(JobError, match=r"a file that a run keeps for itself|does not end in"):
            load_job(path, environ=ENVIRON)


def test_output_onto_a_pipe_is_refused(tmp_path: Path) -> None:
    """A rename would put a file in its place, and whoever reads the pipe would wait for ever."""
    os.mkfifo(tmp_path / "out.csv")
    (tmp_path / "job.yaml").write_text(job_with("output: {path: out.csv}"))

    with pytest.raises(JobError, match=r"job\.yaml:4: output\.path is a pipe or device"):
        load_job(tmp_path / "job.yaml", environ=ENVIRON)


def test_output_over_the_input_by_a_hard_link_is_refused(tmp_path: Path) -> None:
    """Two names of one file, which no path tells apart."""
    (tmp_path / "a.csv").write_text("text\nก\n")
    (tmp_path / "b.csv").hardlink_to(tmp_path / "a.csv")
    (tmp_path / "job.yaml").write_text(job_with("output: {path: b.csv}"))

    with pytest.raises(JobError, match=r"output\.path is also read by input\.path\.0"):
        load_job(tmp_path / "job.yaml", environ=ENVIRON)


def test_output_may_lie_anywhere_else(tmp_path: Path) -> None:
    """A job is its author's own: outside, in new directories, beside a run, over a file of theirs."""
    (tmp_path / "old.csv").write_text("old")
    for target in ("../x.csv", str(tmp_path / "new" / "dir" / "ผล.csv"), "old.csv", "runs/x.parquet"):
        (tmp_path / "job.yaml").write_text(job_with(f"output: {{path: '{target}'}}"))
        assert load_job(tmp_path / "job.yaml", environ=ENVIRON).job.output.path == target

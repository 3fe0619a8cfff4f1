"""What is filled into a job: keys, variables, options, and examples from another file."""

from pathlib import Path

import pytest

from batcher.config.load import LoadedJob, load_job
from batcher.config.variables import KEY_IN_JOB_FILE
from batcher.errors import JobError

KEY_A, KEY_B = "sk-live-aaaaaaaaaaaaaaaa0001", "sk-live-bbbbbbbbbbbbbbbb0002"
ENVIRON = {"OPENAI_API_KEY": KEY_A, "KEY_A": KEY_A, "KEY_B": KEY_B, "LANG_WANTED": "th"}

SHORTEST = """\
input: data/tickets.parquet
prompt: "Which team should handle this ticket?\\n{{ text }}"
model: gpt-4.1-nano
answer: {labels: [billing, technical, other]}
"""

JOB = """\
input: {path: data/tickets.jsonl, where: "lang = '${LANG_WANTED}'"}
prompt: "{{ text }}"
model: m
providers:
  - {base_url: "https://api.example.com/v1", api_key: ["${KEY_A}", "${KEY_B}"]}
"""


def write(directory: Path, text: str, name: str = "label.yaml") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def load(directory: Path, text: str, **options: object) -> LoadedJob:
    return load_job(write(directory, text), environ=ENVIRON, **options)


def test_keys_are_not_in_any_text_of_the_job(tmp_path: Path) -> None:
    """P9: what is printed, logged or kept shows no key."""
    loaded = load(tmp_path, f"# old key: {KEY_B}\n" + SHORTEST + f"provider: {{api_key: {KEY_A}}}\n")

    texts = (repr(loaded), str(loaded.job), repr(loaded.job), loaded.job.model_dump_json(), loaded.as_run)
    assert not [text for text in texts if KEY_A in text or KEY_B in text]
    assert loaded.secrets == {KEY_A}


def test_references_stay_references_in_the_copy(tmp_path: Path) -> None:
    """`job.yaml` in the run directory names the variable; `resume` reads it again."""
    loaded = load(tmp_path, JOB)

    assert "${KEY_A}" in loaded.as_run
    assert "${KEY_B}" in loaded.as_run
    assert "${LANG_WANTED}" not in loaded.as_run


def test_written_key_is_fetched_from_the_original(tmp_path: Path) -> None:
    """A key that the job writes out is not copied, so a resume reads it where it stands."""
    original = write(tmp_path, SHORTEST + f"provider: {{api_key: [{KEY_A}, '${{KEY_B}}']}}\n")
    first = load_job(original, environ=ENVIRON)
    run = tmp_path / "runs"
    run.mkdir()
    copy = write(run, first.as_run, "job.yaml")

    again = load_job(copy, environ=ENVIRON, original=original)

    assert KEY_IN_JOB_FILE in first.as_run
    assert again.job == first.job
    assert again.base == tmp_path
    assert again.secrets == {KEY_A, KEY_B}

    original.write_text(SHORTEST)
    with pytest.raises(JobError, match="stands in the original job file, which is gone or has no key there now"):
        load_job(copy, environ=ENVIRON, original=original)
    with pytest.raises(JobError, match="stands in the original job file"):
        load_job(copy, environ=ENVIRON)


def test_variable_of_a_key_is_hidden_from_templates(tmp_path: Path) -> None:
    """A `--var` that became a key must not be asked, kept or shown as a variable."""
    loaded = load(
        tmp_path,
        SHORTEST + "provider: {api_key: '${MY_KEY}'}\n",
        variables={"MY_KEY": KEY_B, "today": "x"},
    )

    assert loaded.variables == {"today": "x"}
    assert KEY_B not in loaded.as_run


# --- variables and options -----------------------------------------------------------------------


def test_a_value_adds_no_yaml(tmp_path: Path) -> None:
    """Variables are filled in after parsing, once: what they hold is text, whatever it looks like."""
    value = "x\nbudget: {usd: 1}\n&a *a !!tag ${HOME} {{ row }}"

    loaded = load(tmp_path, "input: a.csv\nprompt: ${P}\nmodel: m\n", variables={"P": value})

    assert loaded.job.prompt.user == value


def test_var_wins_over_the_environment(tmp_path: Path) -> None:
    """The command line is the nearer of the two."""
    loaded = load(tmp_path, "input: a.csv\nprompt: x ${LANG_WANTED}\nmodel: m\n", variables={"LANG_WANTED": "vi"})

    assert loaded.job.prompt.user == "x vi"


@pytest.mark.parametrize(
    ("written", "meant"),
    [("$${X}", "${X}"), ("$$${X}", "$${X}"), ("$5 and $X", "$5 and $X"), ("a$$b", "a$$b"), ("${V}${V}", "vv")],
)
def test_dollar_signs(written: str, meant: str, tmp_path: Path) -> None:
    """Only `${` means something, and `$${` is how to write it."""
    loaded = load(tmp_path, f"input: a.csv\nprompt: '{written}'\nmodel: m\n", variables={"V": "v"})

    assert loaded.job.prompt.user == meant


@pytest.mark.parametrize(
    ("option", "path", "value"),
    [
        ("limits.concurrency=5", "limits.concurrency", 5),
        ("limits.tokens_per_minute=2_000_000", "limits.tokens_per_minute", 2_000_000),
        ("answer.labels=[a, 'b c']", "answer.labels", ("a", "b c")),
        ("params.temperature=0.5", "params.temperature", 0.5),
        ("params.stop=['{{', x]", "params.stop", ["{{", "x"]),
        ("prompt.user={{ body }}: {{ title }}", "prompt.user", "{{ body }}: {{ title }}"),
        ("prompt=say {{ x }}", "prompt.user", "say {{ x }}"),
        ("prompt.user=a=b", "prompt.user", "a=b"),
        ("prompt.user=#x", "prompt.user", "#x"),
        ("input=b.csv", "input.path", ("b.csv",)),
        ("input.path=[b.csv, c.csv]", "input.path", ("b.csv", "c.csv")),
        ("timeout=90s", "timeout_s", 90.0),
        ("params.seed=null", "params", {}),
        ("name='5'", "name", "5"),
    ],
)
def test_set_changes_one_field(option: str, path: str, value: object, tmp_path: Path) -> None:
    """`--set` reads a value as the file would in that place."""
    found: object = load(tmp_path, SHORTEST, sets=[option]).job
    for part in path.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)

    assert found == value


def test_set_reaches_into_lists_and_later_ones_win(tmp_path: Path) -> None:
    """A provider in a list is named by its number."""
    loaded = load(
        tmp_path,
        JOB,
        sets=["providers.0.limits.concurrency=7", "limits.concurrency=8", "limits.concurrency=9", "input.where=null"],
    )

    assert loaded.job.sole_provider.limits.concurrency == 7
    assert loaded.job.limits.concurrency == 9
    assert loaded.job.input.where is None


def test_limit_takes_the_place_of_the_files(tmp_path: Path) -> None:
    """`--limit 5` is `input.limit: 5`, and is kept in the copy."""
    loaded = load(tmp_path, SHORTEST, limit=5)

    assert loaded.job.input.limit == 5
    assert "limit: 5" in loaded.as_run


# --- examples ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("e.jsonl", '{"user": "ถาม ${X}", "assistant": "a"}\n\n{"user": "q", "assistant": "b"}\n'),
        ("e.yaml", "- {user: 'ถาม ${X}', assistant: a}\n- user: q\n  assistant: b\n"),
    ],
)
def test_examples_come_from_a_file_beside_the_job(name: str, content: str, tmp_path: Path) -> None:
    """Their text is taken as it is: `${…}` in data is data."""
    write(tmp_path, content, name)

    loaded = load(tmp_path, f"input: a.csv\nprompt: {{user: x, examples: {name}}}\nmodel: m\n")

    assert [(e.user, e.assistant) for e in loaded.examples] == [("ถาม ${X}", "a"), ("q", "b")]
    assert loaded.job.prompt.examples == name


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("e.jsonl", '{"user": "q", "assistant": "b"}\nnot json\n', "e.jsonl:2: not a JSON object"),
        ("e.jsonl", '{"user": "q"}\n', "e.jsonl:1: assistant is missing"),
        ("e.jsonl", '{"user": "q", "assistant": 5}\n', "e.jsonl:1: assistant is 5; write text in quotes"),
        ("e.jsonl", '{"user": "q", "asistant": "b"}\n', "e.jsonl:1: asistant is not a field of an example"),
        ("e.jsonl", '["q", "b"]\n', "e.jsonl:1: an example is a mapping of user and assistant"),
        ("e.jsonl", '{"user": "q", "assistant": "\\ud83d"}\n', "e.jsonl:1: U+D83D"),
        ("e.jsonl", "[" * 100_000 + "\n", "e.jsonl:1: not a JSON object"),
        ("e.jsonl", "", "the examples file is empty"),
        ("e.yaml", "user: q\nassistant: b\n", "e.yaml:1: the examples file is no list"),
        ("e.yaml", "- {user: q, assistant: b}\n- 5\n", "e.yaml:2: an example is a mapping"),
        ("e.txt", "x", "ends in .jsonl or .yaml"),
    ],
)
def test_bad_examples_name_their_file_and_line(name: str, content: str, words: str, tmp_path: Path) -> None:
    """The fault is in the other file, so the message is about that one."""
    write(tmp_path, content, name)

    with pytest.raises(JobError) as raised:
        load(tmp_path, f"input: a.csv\nprompt: {{user: x, examples: {name}}}\nmodel: m\n")

    assert words in raised.value.message
    assert "\n" not in raised.value.message


def test_output_over_the_examples_or_through_a_link_is_refused(tmp_path: Path) -> None:
    """Results never overwrite what the job reads, by whatever name."""
    write(tmp_path, '{"user": "q", "assistant": "b"}\n', "e.jsonl")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "a.jsonl")
    text = "input: a.jsonl\nprompt: {user: x, examples: e.jsonl}\nmodel: m\n"

    with pytest.raises(JobError, match=r"also the file of prompt\.examples"):
        load(tmp_path, text + "output: {path: e.jsonl}\n")
    with pytest.raises(JobError, match="also read by"):
        load(tmp_path, text + "output: {path: link.jsonl}\n")

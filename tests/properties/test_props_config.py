"""Laws of the job file: what is copied is read back, and nothing that is typed ends in a traceback."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from batcher.config.as_run import emit
from batcher.config.load import load_job
from batcher.config.tree import Node, Spot, parse
from batcher.config.values import parse_duration, parse_share
from batcher.config.variables import Filler
from batcher.errors import JobError

ENVIRON = {"OPENAI_API_KEY": "sk-live-aaaaaaaaaaaaaaaa0001"}
SPOT = Spot("test")
GOOD = "input: a.csv\nprompt: hi\nmodel: m\n"

ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))
YAML_TEXT = st.text(st.sampled_from(list("ab0 :-{}[]'\"|>&*!%#@`,?\n\t$<~.\\_éไ\u2028")), max_size=60)
SCALARS = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
TREES = st.recursive(
    SCALARS | ANY_TEXT | YAML_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT.filter(bool), inner, max_size=4),
    max_leaves=12,
)


def node_of(value: Any) -> Node:
    match value:
        case dict():
            return Node({key: node_of(child) for key, child in value.items()}, SPOT)
        case list():
            return Node([node_of(child) for child in value], SPOT)
    return Node(value, SPOT)


def message_of(action: Callable[[], object]) -> str:
    """The sentence that `action` is refused with, or nothing where it is not."""
    try:
        action()
    except JobError as error:
        return error.message
    return ""


@given(st.dictionaries(ANY_TEXT.filter(bool), TREES, min_size=1, max_size=4))
@example(
    {"a": "line\n\n  indented\nend\n", "b": "x\n", "c": "\n", "d": "a\r\nb", "e": "$${X} ${Y}", "f": " x", "g": ""}
)
@example({"a": "0o17", "b": "1_000", "c": "yes", "d": "~", "e": "1e5", "f": ".5", "g": "<<", "h": "- a", "<<": 1})
@example({"a": "\ufeff", "b": "\x85\x7f", "c": "\u2028", "d": "\ufffe", "e": "a\n\tb", "f": "a\n \nb", "g": "#\n#"})
def test_copy_of_a_job_reads_back_as_the_same(fields: dict[str, Any]) -> None:
    """Whatever a prompt holds, the run directory's `job.yaml` gives back exactly that."""
    text = emit(node_of(fields))

    again = Filler({}, {}).fill(parse(text, "job.yaml")).plain()

    assert again == fields


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(content=st.binary(max_size=80) | YAML_TEXT.map(str.encode) | YAML_TEXT.map(lambda text: (GOOD + text).encode()))
@example(content=b"%YAML 99999999999999999999.1\n---\na: 1\n")
@example(content=b'a: "\\xZZ"\n')
@example(content=b"? \n? \n")
@example(content=b"&a &b x\n")
@example(content=b"*a : b\n")
@example(content=b"- &a x\n- {*a : 1}\n")
@example(content=b"--- !<tag:yaml.org,2002:str> a\n")
def test_no_bytes_end_in_a_traceback(content: bytes, tmp_path: Path) -> None:
    """Any file is a job or a sentence of one line."""
    path = tmp_path / "job.yaml"
    path.write_bytes(content)

    assert message_of(lambda: load_job(path, environ=ENVIRON)).isprintable()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    path=st.sampled_from(
        ["limits", "limits.concurrency", "params.a", "answer.labels", "input.path.0", "provider", "name", ""]
    ),
    joint=st.sampled_from(["", "=", "."]),
    value=YAML_TEXT | ANY_TEXT,
)
def test_no_option_ends_in_a_traceback(path: str, joint: str, value: str, tmp_path: Path) -> None:
    """Any `--set` is a change or a sentence of one line."""
    job = tmp_path / "job.yaml"
    job.write_text(GOOD)

    assert message_of(lambda: load_job(job, sets=[path + joint + value], environ=ENVIRON)).isprintable()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    prompt=ANY_TEXT.filter(str.strip),
    params=st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), TREES, max_size=3),
)
def test_job_and_its_copy_have_one_fingerprint(prompt: str, params: dict[str, Any], tmp_path: Path) -> None:
    """A resume reads the copy, and must find that nothing changed."""
    owned = {"n", "stream", "model"}
    fields = {"input": "a.csv", "prompt": prompt, "model": "m", "params": {k: params[k] for k in params.keys() - owned}}
    original = tmp_path / "original.yaml"
    original.write_text(emit(node_of(fields)), encoding="utf-8", newline="")
    first = load_job(original, environ=ENVIRON)
    copy = tmp_path / "job.yaml"
    copy.write_text(first.as_run, encoding="utf-8", newline="")

    again = load_job(copy, environ=ENVIRON, original=original)

    assert again.job == first.job
    assert again.fingerprint == first.fingerprint
    assert again.as_run == first.as_run


@given(st.integers(1, 86_400_000))
def test_durations_in_every_unit_agree(milliseconds: int) -> None:
    """`1500ms` is `1.5s`."""
    assert parse_duration(f"{milliseconds}ms") == pytest.approx(parse_duration(f"{milliseconds / 1000:.3f}s"))


@given(st.integers(0, 10_000))
def test_shares_are_exact(hundredths: int) -> None:
    """`5%` is exactly 1 of 20, and `0.05` is the same."""
    share = Decimal(hundredths) / 10_000

    assert parse_share(f"{share * 100:f}%") == share
    assert parse_share(float(share)) == share


@given(SCALARS | ANY_TEXT | st.lists(st.integers()))
def test_value_is_read_or_refused_in_words(value: Any) -> None:
    """No value makes a reader fail in any other way."""
    for read in (parse_duration, parse_share):
        try:
            read(value)
        except PydanticCustomError as error:
            message = error.message()
        else:
            message = "write"
        assert "write" in message

"""What voids a resume, what does not, and how the change is told."""

import json
from pathlib import Path

import pytest

from batcher.config.fingerprint import Fingerprint, describe_change
from batcher.config.load import load_job
from batcher.errors import JournalError

ENVIRON = {"OPENAI_API_KEY": "sk-live-aaaaaaaaaaaaaaaa0001", "KEY_B": "sk-live-bbbbbbbbbbbbbbbb0002"}
JOB = """\
input: {path: a.csv, where: "x > 1"}
prompt: {system: s, user: "{{ text }} {{ today }}"}
model: m
params: {temperature: 0.1, seed: 1}
answer: {labels: [a, b]}
"""


def fingerprint(directory: Path, *sets: str, today: str = "1", text: str = JOB) -> Fingerprint:
    path = directory / "job.yaml"
    path.write_text(text)
    return load_job(path, sets=sets, variables={"today": today, "unused": today}, environ=ENVIRON).fingerprint


@pytest.mark.parametrize(
    ("option", "change"),
    [
        ("prompt.user={{ text }}!", "prompt.user changed"),
        ("prompt.system=t", "prompt.system changed"),
        ("prompt.system=null", "prompt.system removed"),
        ("prompt.examples=[{user: a, assistant: b}]", "prompt.examples added"),
        ("prompt.reasoning=<think>", "prompt.reasoning added"),
        ("model=n", "model changed"),
        ("provider={model: n}", "model changed"),
        ("params.temperature=0.2", "params.temperature changed"),
        ("params.temperature=null", "params.temperature removed"),
        ("params.top_p=1", "params.top_p added"),
        ("answer.labels=[b, a]", "answer.labels changed"),
        ("answer.structured=off", "answer.structured changed"),
        ("input.path=b.csv", "input.path changed"),
        ("input.key=id", "input.key added"),
        ("input.where=null", "input.where removed"),
        ("input.limit=5", "input.limit added"),
    ],
)
def test_what_is_asked_is_in_the_fingerprint(option: str, change: str, tmp_path: Path) -> None:
    """One changed field is one line, and names that field."""
    expected = [change]
    if "prompt.user" in option:
        expected.append("--var today removed")

    assert describe_change(fingerprint(tmp_path), fingerprint(tmp_path, option)) == expected


@pytest.mark.parametrize(
    "option",
    [
        "limits.concurrency=5",
        "limits.requests_per_minute=5",
        "timeout=5s",
        "client=sdk",
        "retry.attempts=9",
        "circuit_breaker.failure_threshold=9",
        "success.failed=50%",
        "budget.usd=20",
        "output.path=o.csv",
        "input.carry=[text]",
        "answer.attempts=5",
        "name=other",
        "input.path=[a.csv]",
        "provider={name: p, base_url: 'http://x/v1', api_key: '${KEY_B}', limits: {concurrency: 3}}",
        "provider={price: {input: 1, output: 1}}",
    ],
)
def test_how_it_is_sent_is_not(option: str, tmp_path: Path) -> None:
    """Speed, route, price and place may change between a run and its resume."""
    assert describe_change(fingerprint(tmp_path), fingerprint(tmp_path, option)) == []


def test_only_variables_that_templates_name_count(tmp_path: Path) -> None:
    """Tonight's `--var` for another job changes nothing; the one in the prompt does."""
    assert describe_change(fingerprint(tmp_path), fingerprint(tmp_path, today="2")) == ["--var today changed"]

    plain = JOB.replace("{{ today }}", "today")
    assert fingerprint(tmp_path, text=plain) == fingerprint(tmp_path, text=plain, today="2")


def test_contents_of_an_examples_file_count(tmp_path: Path) -> None:
    """The same path with other examples asks another question; the same examples inline do not."""
    examples = tmp_path / "e.jsonl"
    examples.write_text('{"user": "q", "assistant": "a"}\n')
    before = fingerprint(tmp_path, "prompt.examples=e.jsonl")
    inline = fingerprint(tmp_path, "prompt.examples=[{user: q, assistant: a}]")
    examples.write_text('{"user": "q", "assistant": "b"}\n')

    assert before == inline
    assert describe_change(before, fingerprint(tmp_path, "prompt.examples=e.jsonl")) == ["prompt.examples changed"]


def test_local_and_remote_model_of_one_name_differ(tmp_path: Path) -> None:
    """Two models are not the same because they share a name."""
    changes = describe_change(
        fingerprint(tmp_path, "provider={model: smollm2-135m}"), fingerprint(tmp_path, "provider={local: smollm2-135m}")
    )

    assert changes == ["provider.local added"]


def test_fingerprint_survives_json(tmp_path: Path) -> None:
    """It is kept in `run.json`."""
    made = fingerprint(tmp_path)

    kept = Fingerprint.from_json(json.loads(json.dumps(made.to_json())))

    assert kept == made
    assert kept.digest == made.digest
    assert len(made.digest) == 16


@pytest.mark.parametrize("kept", [None, {}, {"version": 2, "fields": {}}, {"version": 1, "fields": {"a": 5}}, []])
def test_unknown_fingerprint_is_refused_by_name(kept: object) -> None:
    """Formats carry a version, and an unknown one is not guessed at."""
    with pytest.raises(JournalError, match="fingerprint"):
        Fingerprint.from_json(kept)


def test_fingerprint_is_stable_between_versions(tmp_path: Path) -> None:
    """A release that changed these hashes would void every unfinished run; then `VERSION` must change too."""
    assert fingerprint(tmp_path).digest == "3c2b5a5650984ba3"

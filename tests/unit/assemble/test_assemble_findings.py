"""A job that asks for what its provider lacks says so first; what is not known holds nothing back."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from batcher.assemble.findings import Applied, address_of, apply_findings, recall
from batcher.config.load import LoadedJob, load_job
from batcher.errors import ExitCode, JobError
from batcher.runs.findings import Finding, Findings, KeyFailure, KeyFindings, findings_path, write_findings
from batcher.storage.durable import LocalDisk

NOW = datetime(2026, 11, 22, 4, 0, tzinfo=UTC)
URL = "https://api.example.com/v1"
KEY = "sk-house-0123456789abcdef"
YES, NO, IGNORED = Finding("yes"), Finding("refused"), Finding("ignored")


def job(folder: Path, params: str = "{}", more: str = "") -> LoadedJob:
    path = folder / "งาน.yaml"
    path.write_text(
        f'input: rows.jsonl\nprompt: "{{{{ text }}}}"\nmodel: m\nparams: {params}\n'
        f'provider: {{base_url: "{URL}", api_key: "${{KEY}}"}}\n{more}',
        encoding="utf-8",
    )
    return load_job(path, environ={"KEY": KEY})


def found(**fields: object) -> KeyFindings:
    plain: Mapping[str, object] = {
        "base_url": URL, "model": "m", "key": "k", "probed_at": NOW, "usage": YES, "max_tokens": YES,
        "max_completion_tokens": YES, "json_schema": YES, "logprobs": YES, "prompt_logprobs": YES, "seed": YES,
    }  # fmt: skip
    return KeyFindings(**{**plain, **fields})  # type: ignore[arg-type]


def applied(folder: Path, entry: KeyFindings, params: str = "{}", more: str = "") -> Applied:
    return apply_findings([entry], job(folder, params, more).job)


def test_nothing_found_changes_nothing(tmp_path: Path) -> None:
    assert Applied() == apply_findings([], job(tmp_path, "{logprobs: true, max_tokens: 5}").job)
    unknown = KeyFindings(base_url=URL, model="m", key="k", probed_at=NOW)
    assert Applied() == applied(tmp_path, unknown, "{logprobs: true, max_tokens: 5, seed: 1}")


def test_the_newer_name_of_the_limit_is_asked_for_by_name(tmp_path: Path) -> None:
    """The fix is exactly what to write."""
    result = applied(tmp_path, found(max_tokens=NO), "{max_tokens: 5}")

    assert "max_completion_tokens" == result.token_limit_param
    (complaint,) = result.complaints
    assert complaint.startswith(
        "write params.max_completion_tokens instead of params.max_tokens: it is refused by m at"
    )
    with pytest.raises(JobError) as caught:
        result.refuse()
    assert ExitCode.USAGE == caught.value.exit_code
    assert "write params.max_completion_tokens instead of params.max_tokens" in caught.value.message


def test_the_other_name_is_asked_for_where_the_provider_itself_names_it(tmp_path: Path) -> None:
    """Also where a short answer of the probe did not show that limit at work."""
    words = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
    entry = found(max_tokens=Finding("refused", words), max_completion_tokens=Finding("unknown"))

    (complaint,) = applied(tmp_path, entry, "{max_tokens: 5}").complaints

    assert complaint.startswith("write params.max_completion_tokens instead of params.max_tokens")


def test_the_older_name_too(tmp_path: Path) -> None:
    result = applied(tmp_path, found(max_completion_tokens=NO), "{max_completion_tokens: 5}")

    assert "max_tokens" == result.token_limit_param
    assert result.complaints[0].startswith("write params.max_tokens instead of params.max_completion_tokens")


@pytest.mark.parametrize(
    ("params", "entry", "expected"),
    [
        ("{logprobs: true}", found(logprobs=IGNORED), "params.logprobs asks for log-probabilities"),
        ("{top_logprobs: 0}", found(logprobs=NO), "params.top_logprobs asks for log-probabilities"),
        ("{prompt_logprobs: 1}", found(prompt_logprobs=NO), "params.prompt_logprobs asks for"),
        ("{seed: 7}", found(seed=NO), "params.seed is refused"),
        (
            "{response_format: {type: json_schema, json_schema: {name: a}}}",
            found(json_schema=Finding("refused", "no such field")),
            "params.response_format has a JSON schema, which is refused by m at api.example.com, "
            "as doctor found on 2026-11-22 (no such field)",
        ),
        ("{max_tokens: 5}", found(max_tokens=NO, max_completion_tokens=NO), "remove params.max_tokens"),
    ],
)
def test_what_the_provider_lacks_is_a_complaint(tmp_path: Path, params: str, entry: KeyFindings, expected: str) -> None:
    (complaint,) = applied(tmp_path, entry, params).complaints

    assert expected in complaint


@pytest.mark.parametrize(
    ("params", "entry"),
    [
        ("{logprobs: false}", found(logprobs=NO)),
        ("{}", found(logprobs=NO, seed=NO, max_tokens=NO, json_schema=NO, prompt_logprobs=NO)),
        ("{response_format: {type: json_object}}", found(json_schema=NO)),
        ("{logprobs: true}", found(logprobs=Finding("unknown", "HTTP 429"))),
        ("{seed: 1}", found(seed=Finding("accepted"))),
    ],
)
def test_what_is_not_asked_for_or_not_known_is_none(tmp_path: Path, params: str, entry: KeyFindings) -> None:
    assert () == applied(tmp_path, entry, params).complaints


def test_one_key_that_can_is_enough(tmp_path: Path) -> None:
    """Keys differ in what they may use; the job is refused only for what none of them can."""
    loaded = job(tmp_path, "{logprobs: true}")

    assert () == apply_findings([found(logprobs=NO), found()], loaded.job).complaints
    assert () != apply_findings([found(logprobs=NO), found(logprobs=IGNORED)], loaded.job).complaints


def test_a_schema_that_is_refused_is_not_tried_again(tmp_path: Path) -> None:
    labels = "answer: {labels: [ดี, xấu, 好]}\n"

    assert applied(tmp_path, found(json_schema=NO), more=labels).is_structured_refused
    assert not applied(tmp_path, found(json_schema=IGNORED), more=labels).is_structured_refused
    assert 1 == len(applied(tmp_path, found(json_schema=IGNORED), more=labels).warnings)


def test_a_refused_key_is_a_warning_and_never_a_refusal(tmp_path: Path) -> None:
    """It may have credit by now."""
    result = applied(tmp_path, found(failure=KeyFailure("quota", "no credit")), "{logprobs: true}")

    assert () == result.complaints
    assert ("a key was refused when doctor tried it on 2026-11-22: no credit",) == result.warnings


def test_a_refused_model_is_a_warning_too(tmp_path: Path) -> None:
    """It may have been pulled by now; but whoever starts the night reads it before the calls are refused."""
    result = applied(tmp_path, found(failure=KeyFailure("bad_request", "HTTP 404: model m not found")))

    assert () == result.complaints
    assert ("the job was refused when doctor tried it on 2026-11-22: HTTP 404: model m not found",) == result.warnings


def test_params_that_were_refused_are_a_warning_while_the_job_has_them(tmp_path: Path) -> None:
    """The value may be another one by now, so it is no complaint; where the parameter is gone, nothing is said."""
    entry = found(params=Finding("refused", "HTTP 400: 'temperature' does not support 0.1; remove params.temperature"))

    result = applied(tmp_path, entry, "{temperature: 0.1}")

    assert () == result.complaints
    assert "params were refused when doctor tried them on 2026-11-22 (HTTP 400: 'temperature'" in result.warnings[0]
    assert () == applied(tmp_path, entry, "{top_p: 0.5}").warnings


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (found(usage=Finding("missing")), "costs will be unknown"),
        (found(clock_skew_s=3600.0, clock_error_s=0.5), "differ by 3,600 s"),
        (found(max_tokens=IGNORED), "params.max_tokens is ignored by api.example.com"),
    ],
)
def test_what_a_run_can_live_with_is_a_warning(tmp_path: Path, entry: KeyFindings, expected: str) -> None:
    result = applied(tmp_path, entry, "{max_tokens: 5}")

    assert () == result.complaints
    assert expected in result.warnings[0]


# --------------------------------------------------------------------------------------------------------- recall


def remember(runs: Path, loaded: LoadedJob, entry: KeyFindings) -> Path:
    findings = Findings.empty()
    kept = KeyFindings(
        **{name: getattr(entry, name) for name in entry.__struct_fields__}
        | {"key": findings.digest(KEY), "base_url": address_of(loaded.job)}
    )
    path = findings_path(runs / loaded.job.name)
    write_findings(path, findings.with_entries([kept], now=NOW), LocalDisk())
    return path


def test_what_was_found_is_recalled_for_a_week(tmp_path: Path) -> None:
    loaded = job(tmp_path, "{logprobs: true}")
    remember(tmp_path / "runs", loaded, found(logprobs=NO))

    recalled = recall(loaded, tmp_path / "runs", now_s=NOW.timestamp())
    assert 1 == len(recalled.complaints)
    with pytest.raises(JobError) as caught:
        recalled.refuse()
    assert "งาน.yaml'` probes the provider again" in (caught.value.hint or ""), "it can be typed"
    assert Applied() == recall(loaded, tmp_path / "runs", now_s=NOW.timestamp() + 8 * 86400)
    assert Applied() == recall(loaded, tmp_path / "elsewhere", now_s=NOW.timestamp())


def test_a_broken_file_is_a_warning(tmp_path: Path) -> None:
    """A night must not be lost to a file that was made to help it."""
    loaded = job(tmp_path, "{logprobs: true}")
    remember(tmp_path / "runs", loaded, found(logprobs=NO)).write_bytes(b"{")

    result = recall(loaded, tmp_path / "runs", now_s=NOW.timestamp())

    assert () == result.complaints
    assert "doctor.json is not what was written" in result.warnings[0]

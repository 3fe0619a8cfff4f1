"""Findings are remembered without keys, and forgotten when they are stale."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batcher.errors import JobError
from batcher.runs.directory import RunDirectory
from batcher.runs.findings import Findings, KeyFindings, findings_path, read_findings, write_findings
from batcher.storage.durable import LocalDisk

NOW = datetime(2026, 11, 22, 4, 0, tzinfo=UTC)
URL = "https://api.example.com/v1"
KEY = "sk-กุญแจ-0123456789abcdef"


def entry(findings: Findings, key: str | None = KEY, *, url: str = URL, model: str = "m", age: timedelta = timedelta(0)) -> KeyFindings:  # fmt: skip  # noqa: E501
    return KeyFindings(base_url=url, model=model, key=findings.digest(key), probed_at=NOW - age)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    findings = Findings.empty()
    findings = findings.with_entries([entry(findings), entry(findings, None)], now=NOW)
    path = findings_path(tmp_path / "งาน")

    write_findings(path, findings, LocalDisk())

    assert findings == read_findings(path)
    assert 2 == len(findings.fresh(URL, "m", [KEY, None], now=NOW))
    assert KEY not in path.read_text(encoding="utf-8")
    assert KEY[:12] not in path.read_text(encoding="utf-8")


def test_a_digest_is_short_and_another_in_each_file() -> None:
    """Whoever has the file of one job can neither find the key nor see that another job has the same."""
    one, other = Findings.empty(), Findings.empty()

    assert 12 == len(one.digest(KEY))
    assert one.digest(KEY) == one.digest(KEY)
    assert one.digest(KEY) != other.digest(KEY)
    assert one.digest(KEY) != one.digest(KEY + "x")


@pytest.mark.parametrize(
    ("age", "count"),
    [
        (timedelta(days=6, hours=23), 1),
        (timedelta(days=7, seconds=1), 0),
        (timedelta(minutes=-30), 1),
        (timedelta(hours=-2), 0),
    ],
)
def test_a_week_is_fresh_and_the_future_is_not(age: timedelta, count: int) -> None:
    findings = Findings.empty()
    findings = Findings(salt=findings.salt, entries=(entry(findings, age=age),))

    assert count == len(findings.fresh(URL, "m", [KEY], now=NOW))


def test_another_address_model_or_key_is_not_used() -> None:
    findings = Findings.empty()
    findings = findings.with_entries([entry(findings)], now=NOW)

    assert [] == findings.fresh("https://api.example.org/v1", "m", [KEY], now=NOW)
    assert [] == findings.fresh(URL, "m2", [KEY], now=NOW)
    assert [] == findings.fresh(URL, "m", ["another"], now=NOW)
    assert [] == findings.fresh(URL, "m", [None], now=NOW)


def test_a_new_entry_takes_the_place_of_the_old_and_stale_ones_go() -> None:
    findings = Findings.empty()
    stale = entry(findings, "old", age=timedelta(days=8))
    findings = Findings(salt=findings.salt, entries=(stale, entry(findings, age=timedelta(days=1)), entry(findings, model="m2")))  # fmt: skip  # noqa: E501

    findings = findings.with_entries([entry(findings)], now=NOW)

    assert [("m2", NOW), ("m", NOW)] == [(one.model, one.probed_at) for one in findings.entries]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"version": 1}',
        b'{"version": "1"}',
        b'{"version": 1, "salt": "xx"}',
        b"\xff\xfe",
        b"[" * 10_000,
    ],
)
def test_a_broken_file_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "doctor.json"
    path.write_bytes(content)

    with pytest.raises(JobError, match="is not what was written"):
        read_findings(path)


def test_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "doctor.json"
    path.write_bytes(b'{"version": 2, "salt": 5}')

    with pytest.raises(JobError, match="has version 2, and this batcher knows only version 1"):
        read_findings(path)


def test_none_is_no_fault_and_no_run(tmp_path: Path) -> None:
    """The file lies where runs lie, and is none."""
    assert read_findings(findings_path(tmp_path / "job")) is None

    write_findings(findings_path(tmp_path / "job"), Findings.empty(), LocalDisk())

    assert [] == RunDirectory.list(tmp_path)
    assert RunDirectory.latest(tmp_path, "job") is None

"""Fingerprints: a resumed run stands on the same input, and a mended line lets it go on."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest
from source_files import jsonl, numbered, opened, rows_of

from batcher.errors import InputError
from batcher.sources import fingerprint as fingerprints
from batcher.sources.files import resolve_files
from batcher.sources.source import BrokenInputError, InputFingerprint

LINE = b'{"id": %d, "text": "' + b"x" * 2000 + b'"}\n'


def saved(fingerprint: InputFingerprint) -> InputFingerprint:
    """As run.json gives it back."""
    return InputFingerprint.from_json(json.loads(json.dumps(fingerprint.to_json())))


def test_the_same_files_are_equal_whatever_their_dates(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(jsonl(*numbered(3)))
    before = saved(opened(tmp_path, "r.jsonl").fingerprint())
    (tmp_path / "r.jsonl").write_bytes(jsonl(*numbered(3)))
    assert opened(tmp_path, "r.jsonl").changed(before) is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("b.jsonl", b'{"id": 9}\n', "b.jsonl has changed: its content is another"),
        ("b.jsonl", b'{"id": 10}\n', "b.jsonl has changed: it had 10 bytes, now 11"),
        ("c.jsonl", b'{"id": 2}\n', "c.jsonl is new among the input files"),
        ("aa.jsonl", b'{"id": 2}\n', "b.jsonl is no longer part of the input at its place, number 2"),
    ],
)
def test_a_change_names_the_file(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    for number, stem in enumerate("ab"):
        (tmp_path / f"{stem}.jsonl").write_bytes(b'{"id": %d}\n' % number)
    before = saved(opened(tmp_path, "*.jsonl").fingerprint())
    (tmp_path / name).write_bytes(content)
    assert said in str(opened(tmp_path, "*.jsonl").changed(before))


def test_a_large_file_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Head, tail and samples are seen; what lies between is stated as not promised."""
    for name, value in {"_WHOLE_BYTES_MAX": 1000, "_END_BYTES": 100, "_SAMPLE_BYTES": 10}.items():
        monkeypatch.setattr(fingerprints, name, value)
    content = jsonl(*numbered(1000))
    (tmp_path / "r.jsonl").write_bytes(content)
    before = opened(tmp_path, "r.jsonl").fingerprint()
    for place in (3, len(content) - 5, len(content) * 32 // 65 + 5):
        changed = bytearray(content)
        changed[place] ^= 1
        (tmp_path / "other.jsonl").write_bytes(changed)
        file = fingerprints.InputFile(tmp_path / "other.jsonl", "r.jsonl", "jsonl", None, len(content))
        assert "its content is another" in str(fingerprints.changed([file], before))


@pytest.mark.parametrize("whole_bytes_max", [1, 10**9])
def test_a_file_is_read_in_pieces_that_do_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_bytes_max: int
) -> None:
    """The end of a run is where its memory is at its peak: 8 MB at once were 8 MB more."""
    (tmp_path / "r.jsonl").write_bytes(b'{"n": 1}\n' * 1_500_000)
    files = resolve_files(["r.jsonl"], tmp_path)
    monkeypatch.setattr(fingerprints, "_WHOLE_BYTES_MAX", whole_bytes_max)
    tracemalloc.start()
    found = fingerprints.fingerprint(files)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2_000_000
    monkeypatch.setattr(fingerprints, "_PIECE_BYTES", 2**24)
    assert found == fingerprints.fingerprint(files)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_run_goes_on_when_the_broken_line_is_mended(tmp_path: Path, suffix: str) -> None:
    """Before the broken line nothing may change, at it and behind it everything."""
    path, name = tmp_path / f"r.jsonl{suffix}", f"r.jsonl{suffix}"

    def write(content: bytes) -> None:
        path.write_bytes(gzip.compress(content, 1) if suffix else content)

    good = b"".join(LINE % number for number in range(1500))
    write(good + b'{"id": oops}\n' + LINE % 1501)
    source = opened(tmp_path, name, look_bytes=1000)
    with pytest.raises(BrokenInputError, match=rf"^{name}:1501: ") as caught:
        rows_of(source)
    before = saved(source.fingerprint(caught.value))

    write(good + b'{"id": 1500, "text": "mended"}\n' + LINE % 1501 + LINE % 1502)
    mended = opened(tmp_path, name, look_bytes=1000)
    assert mended.changed(before) is None
    assert [1500, 1501, 1502] == [row.columns["id"] for row in rows_of(mended, 1500)]
    assert mended.changed(source.fingerprint()) is None

    write(good.replace(b'"id": 700,', b'"id": 701,') + b'{"id": 1500, "text": "mended"}\n')
    assert f"{name} has changed within its first 1500 lines" == opened(tmp_path, name).changed(before)
    write(good[: len(good) // 2])
    assert opened(tmp_path, name, look_bytes=1000).changed(before) is not None


def test_files_behind_a_broken_line_may_change_and_those_before_may_not(tmp_path: Path) -> None:
    for stem in "abc":
        (tmp_path / f"{stem}.jsonl").write_bytes(LINE % 1 * 1000)
    (tmp_path / "b.jsonl").write_bytes(LINE % 1 * 1000 + b"broken\n")
    source = opened(tmp_path, "*.jsonl", look_bytes=1000)
    with pytest.raises(BrokenInputError) as caught:
        rows_of(source)
    before = saved(source.fingerprint(caught.value))
    (tmp_path / "b.jsonl").write_bytes(LINE % 1 * 1000)
    (tmp_path / "c.jsonl").unlink()
    assert opened(tmp_path, "*.jsonl", look_bytes=1000).changed(before) is None
    (tmp_path / "a.jsonl").write_bytes(LINE % 2 * 1000)
    assert "a.jsonl has changed" in str(opened(tmp_path, "*.jsonl", look_bytes=1000).changed(before))


@pytest.mark.parametrize(
    "stored", [None, [], {}, {"version": 2, "files": []}, {"version": 1}, {"version": 1, "files": 3}]
)
def test_a_fingerprint_of_another_version_is_refused_by_name(stored: object) -> None:
    with pytest.raises(InputError, match="the input fingerprint"):
        InputFingerprint.from_json(stored)

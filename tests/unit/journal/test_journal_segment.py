"""Sealed segments: exact, sorted, and never read when their bytes are not what the name says."""

import os
from decimal import Decimal
from pathlib import Path

import pytest

from batcher.core.records import Outcome
from batcher.errors import JournalError
from batcher.journal.frames import frame, log_header, scan_log
from batcher.journal.segment import OUTCOME_SCHEMA, DamagedSegmentError, Segment, open_segment, seal
from batcher.storage.durable import LocalDisk

JOB = "0123abcd"


def sealed(directory: Path, records: list[Outcome], sequence: int = 41) -> Segment:
    content = log_header(sequence, JOB) + b"".join(map(frame, records))
    log = directory / f"{sequence:06d}.log"
    scan = scan_log(content, log, sequence=sequence, fingerprint=JOB)
    return seal(scan.payloads, log, sequence=sequence, fingerprint=JOB, disk=LocalDisk())


def read(segment: Segment) -> list[dict]:
    return [record for batch in segment.batches() for record in batch.to_pylist()]


def test_the_columns_are_the_outcomes_fields() -> None:
    """A field added to `Outcome` needs its column here, and a new format version."""
    assert list(Outcome.__struct_fields__) == OUTCOME_SCHEMA.names


def test_outcomes_come_back_exact_and_sorted(tmp_path) -> None:
    """In row order, a row's outcomes in the order they were put, the cost to its last digit."""
    cost = Decimal("1.00000000000000000000000000000000000000000001")
    records = [
        Outcome(7, "failed", error_kind="server", cost_usd=Decimal(0)),
        Outcome(2, "ok", answer="สวัสดี", cost_usd=cost, latency_ms=0.1, input_tokens=2**40),
        Outcome(7, "ok", answer="later"),
    ]

    segment = sealed(tmp_path, records)

    expected = [
        dict(zip(OUTCOME_SCHEMA.names, [getattr(one, n) for n in OUTCOME_SCHEMA.names], strict=True)) for one in records
    ]
    for record in expected:
        record["cost_usd"] = None if record["cost_usd"] is None else str(record["cost_usd"])
    assert [expected[1], expected[0], expected[2]] == read(segment)
    assert (41, 3, 2, 7) == (segment.sequence, segment.rows_count, segment.row_min, segment.row_max)
    assert segment == open_segment(segment.path, fingerprint=JOB)


def test_every_flipped_bit_is_named(tmp_path) -> None:
    """Arrow alone reads most of them back as other values."""
    segment = sealed(tmp_path, [Outcome(row, "ok", answer=f"answer {row}") for row in range(3)])
    content = segment.path.read_bytes()

    for bit in range(0, len(content) * 8, 61):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        segment.path.write_bytes(flipped)
        with pytest.raises(DamagedSegmentError, match="segment 000041 does not match its name; move it away and run"):
            open_segment(segment.path, fingerprint=JOB)
    with pytest.raises(DamagedSegmentError):
        read(segment)
    with pytest.raises(DamagedSegmentError):
        segment.read(["row"])


@pytest.mark.parametrize("size_bytes", [0, 1, 100])
def test_a_cut_segment_is_named(tmp_path, size_bytes) -> None:
    """A file cut short, to nothing too."""
    segment = sealed(tmp_path, [Outcome(0, "ok")])
    os.truncate(segment.path, size_bytes)

    with pytest.raises(DamagedSegmentError, match="segment 000041"):
        open_segment(segment.path, fingerprint=JOB)


def test_a_foreign_segment_is_refused_by_name(tmp_path) -> None:
    """Renamed to another number, or of another job."""
    segment = sealed(tmp_path, [Outcome(0, "ok")])
    renamed = segment.path.with_name(segment.path.name.replace("000041", "000099"))

    with pytest.raises(JournalError, match="belongs to a job with the fingerprint 0123abcd, not other"):
        open_segment(segment.path, fingerprint="other")
    segment.path.rename(renamed)
    with pytest.raises(JournalError, match=r"000099.*was written as segment 000041 and renamed"):
        open_segment(renamed, fingerprint=JOB)


def test_an_all_null_column_keeps_its_type(tmp_path) -> None:
    """The schema is fixed, never inferred from the rows at hand."""
    [batch] = sealed(tmp_path, [Outcome(0, "ok")]).batches()
    assert OUTCOME_SCHEMA == batch.schema

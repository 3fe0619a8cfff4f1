"""The log's bytes: whatever happens to them, what is read was written, or it is named."""

import random
from decimal import Decimal
from pathlib import Path

import pytest

from batcher.core.records import Outcome
from batcher.errors import JournalError
from batcher.journal.frames import LOG_VERSION, LogScan, frame, log_header, outcomes, scan_log

LOG = Path("journal/000003.log")
JOB = "0123abcd"


def outcome(row: int, **fields) -> Outcome:
    return Outcome(row, "ok", **{"answer": f"คำตอบ {row}", "cost_usd": Decimal("0.000012345"), **fields})


def scan(content: bytes, fingerprint: str = JOB) -> LogScan:
    return scan_log(content, LOG, sequence=3, fingerprint=fingerprint)


def rows(found: LogScan) -> list[int]:
    return [one.row for group in outcomes(found, LOG) for one in group]


def log_of(records: list[Outcome]) -> bytes:
    return log_header(3, JOB) + b"".join(map(frame, records))


def test_an_outcome_comes_back_as_it_was_put() -> None:
    """Every field, the cost to its last digit, text in every language, and a NUL at the end."""
    full = Outcome(
        2**62,
        "invalid",
        answer="trả lời 回答 🙂\0",
        label="a",
        reasoning="",
        error_kind="invalid_answer",
        error="no label",
        finish_reason="stop",
        model="m",
        system_fingerprint="fp",
        provider="main",
        cache="exact",
        attempts=40_000,
        input_tokens=2**40,
        cached_tokens=0,
        output_tokens=None,
        reasoning_tokens=7,
        cost_usd=Decimal("0.1234567890123456789012345678901234567890"),
        latency_ms=0.1,
        finished_ms=1_790_000_000_123,
        asked_model="x\0\0",
    )
    found = scan(log_of([full, outcome(1)]) + bytes(5000))

    assert [[full, outcome(1)]] == list(outcomes(found, LOG))
    assert (0, 0) == (found.torn_bytes, found.lost_bytes)


def test_every_cut_keeps_exactly_the_whole_frames() -> None:
    """A crash may end the file at any byte, inside the header too, with or without reserved zeros behind."""
    content = log_of([outcome(row) for row in range(4)])
    ends = [len(log_header(3, JOB))]
    for row in range(4):
        ends.append(ends[-1] + len(frame(outcome(row))))

    for cut in range(len(content) + 1):
        for reserved in (b"", bytes(700)):
            found = scan(content[:cut] + reserved)
            whole = sum(end <= cut for end in ends[1:])
            assert list(range(whole)) == rows(found)
            assert (ends[whole] if cut >= ends[0] else 0) == found.end_bytes


def test_every_flipped_bit_is_named_or_drops_the_tail() -> None:
    """No single flipped bit of a log is ever read as another outcome."""
    content = log_of([outcome(row) for row in range(3)])
    last_frame_start = len(content) - len(frame(outcome(2)))

    for bit in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        if bit // 8 < last_frame_start:
            with pytest.raises(JournalError, match=r"000003\.log"):
                scan(bytes(flipped))
        else:
            assert [0, 1] == rows(scan(bytes(flipped)))


def test_garbage_behind_the_last_frame_is_cut() -> None:
    """A torn write may leave anything at the tail."""
    content = log_of([outcome(0)])
    garbage = random.Random(1).randbytes(9000)

    found = scan(content + garbage)

    assert [0] == rows(found)
    assert len(content) == found.end_bytes
    assert 8990 < found.torn_bytes <= 9000


def test_frames_behind_a_hole_of_zeros_are_kept() -> None:
    """A power cut may keep a later block and lose an earlier one: what is good is kept, what is lost is counted."""
    records = [outcome(row, answer="x" * 100) for row in range(200)]
    content = bytearray(log_of(records))
    content[8192:12288] = bytes(4096)

    found = scan(bytes(content))

    kept = rows(found)
    assert kept == sorted(kept)
    assert 0 in kept
    assert 199 in kept
    assert 4096 <= found.lost_bytes < 4096 + 2 * len(frame(records[0]))
    assert 200 - len(kept) <= 4096 // len(frame(records[0])) + 2


def test_garbage_between_good_frames_is_damage() -> None:
    """It cannot come from a crash, so nobody may go on as if nothing were missing."""
    content = bytearray(log_of([outcome(row, answer="x" * 300) for row in range(20)]))
    content[2000:2900] = random.Random(2).randbytes(900)

    with pytest.raises(
        JournalError, match=r"000003\.log is damaged at byte \d+; move it away and run `batcher resume`"
    ):
        scan(bytes(content))


def test_foreign_files_are_refused_by_name() -> None:
    """Another job's log, another number's, another version's, and no log at all."""
    content = log_of([outcome(0)])
    newer = bytearray(content)
    newer[8] = LOG_VERSION + 1

    with pytest.raises(JournalError, match="belongs to a job with the fingerprint 0123abcd, not other"):
        scan(content, fingerprint="other")
    with pytest.raises(JournalError, match="written as log 000003 and renamed"):
        scan_log(content, LOG, sequence=9, fingerprint=JOB)
    with pytest.raises(JournalError, match=f"format version {LOG_VERSION + 1}"):
        scan(bytes(newer))
    with pytest.raises(JournalError, match="not a log of batcher"):
        scan(b"hello world, this is some other file")


def test_a_lone_surrogate_does_not_lose_the_answer() -> None:
    """JSON can carry half of a surrogate pair, UTF-8 cannot: it becomes the replacement character."""
    found = scan(log_of([outcome(0, answer="a\ud83db 🙂", error="\udc00")]))

    [[read]] = outcomes(found, LOG)
    assert ("a\ufffdb 🙂", "\ufffd") == (read.answer, read.error)


@pytest.mark.parametrize("bad", [{"row": -1}, {"input_tokens": 2**63}, {"attempts": 10**30}, {"output_tokens": -1}])
def test_a_number_without_a_place_is_refused_at_once(bad) -> None:
    """Better one row's error now than a log that cannot be sealed later."""
    with pytest.raises(JournalError, match="number that the journal cannot hold"):
        frame(Outcome(**{"row": 0, "status": "ok", **bad}))


def test_outcomes_stay_recognisable_as_payloads() -> None:
    """Salvage looks for msgpack's mark of an array of 16 to 255 fields."""
    assert 16 <= len(Outcome.__struct_fields__) <= 255

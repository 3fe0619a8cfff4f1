"""The judging of a finished run: what is compared with what, and what is said of it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from batcher.assemble.prepare import Prepared, prepare
from batcher.assemble.state import begin_run_file
from batcher.assemble.verdict import Judged, finish_run
from batcher.config.load import load_job
from batcher.core.records import Outcome
from batcher.errors import ExitCode
from batcher.journal.segment import OUTCOME_SCHEMA
from batcher.runs.directory import RunDirectory
from batcher.storage.durable import LocalDisk
from batcher.testing.clock import ManualClock

LABELS = ["ชำระเงิน", "kỹ thuật", "其他"]
LABEL_JOB = f"answer: {{labels: {json.dumps(LABELS, ensure_ascii=False)}}}\n"
DRIFT = "success: {label_drift: 0.2}\n"


class HeldOutcomes:
    """Stands in for a closed journal."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes = outcomes

    def merged(self, rows: int, *, batch_rows_max: int = 7) -> Iterator[pa.RecordBatch]:
        for start in range(0, rows, 7):  # boundaries of its own, unlike those of the input
            records = [msgspec.structs.asdict(outcome) for outcome in self._outcomes[start : start + 7]]
            yield pa.RecordBatch.from_pylist(records, schema=OUTCOME_SCHEMA)


class Nights:
    """One job that is run again and again, on a clock that stands still."""

    def __init__(self, folder: Path, more: str) -> None:
        self._folder, self._clock = folder, ManualClock()
        self.more = more
        self.truths: list[str | None] = []

    def prepared(self, rows: int) -> Prepared:
        truths = self.truths or [None] * rows
        lines = [json.dumps({"text": f"ข้อ {at}", "truth": truths[at]}) + "\n" for at in range(rows)]
        (self._folder / "rows.jsonl").write_text("".join(lines))
        job = self._folder / "job.yaml"
        job.write_text(
            'input: rows.jsonl\nprompt: "{{ text }}"\nmodel: m\n'
            f'provider: {{base_url: "http://127.0.0.1:9/v1", api_key: sk-0123456789abcdef}}\n{self.more}',
            encoding="utf-8",
        )
        return prepare(load_job(job, environ={})).checked()

    def night(self, outcomes: Sequence[Outcome], *, has_counts: bool = True) -> tuple[RunDirectory, Judged]:
        """A run that ended with these outcomes, judged and written down."""
        prepared = self.prepared(len(outcomes))
        directory = RunDirectory.create(self._folder / "runs", "job", self._clock)
        run_file = begin_run_file(prepared, now_s=self._clock.now())
        directory.write(run_file, LocalDisk())
        judged = finish_run(
            prepared,
            HeldOutcomes(outcomes),  # type: ignore[arg-type]
            directory,
            rows=len(outcomes),
            disk=LocalDisk(),
            mask=lambda text: text.replace("sk-0123456789abcdef", "***"),
        )
        totals = dict(judged.totals) if has_counts else {}
        ended = msgspec.structs.replace(run_file, state="finished", exit_code=int(judged.code), totals=totals)
        directory.write(ended, LocalDisk())
        return directory, judged


def labelled(*counts: int) -> list[Outcome]:
    names = [label for label, count in zip(LABELS, counts, strict=True) for _ in range(count)]
    return [Outcome(row=at, status="ok", answer=name, label=name) for at, name in enumerate(names)]


def answered(*answers: str | None) -> list[Outcome]:
    return [Outcome(row=at, status="ok", answer=answer) for at, answer in enumerate(answers)]


def wrong(status: str, kind: str, count: int) -> list[Outcome]:
    return [Outcome(row=at, status=status, error_kind=kind, error="no") for at in range(count)]  # type: ignore[arg-type]


def in_rows(*parts: list[Outcome]) -> list[Outcome]:
    together = [outcome for part in parts for outcome in part]
    return [msgspec.structs.replace(outcome, row=at) for at, outcome in enumerate(together)]


def test_a_good_night_has_no_reason_and_shows_its_labels(tmp_path: Path) -> None:
    """A label that takes 90 % is seen by whoever reads the last lines, rule or no rule."""
    directory, judged = Nights(tmp_path, LABEL_JOB).night(labelled(9, 1, 0))

    assert (ExitCode.OK, [], frozenset()) == (judged.code, judged.reasons, judged.said)
    assert ["labels: ชำระเงิน 90 %, kỹ thuật 10 %, 1 label never"] == judged.notes
    assert {"ชำระเงิน": 9, "kỹ thuật": 1, "其他": 0} == judged.totals["labels"]
    assert directory.results.is_file()


def test_the_kinds_stand_in_the_reason_and_each_ending_has_its_own(tmp_path: Path) -> None:
    """A truncated row may be failed or invalid; the results know which."""
    outcomes = in_rows(
        labelled(10, 0, 0),
        wrong("failed", "timeout", 6),
        wrong("failed", "truncated", 2),
        wrong("invalid", "truncated", 1),
        wrong("invalid", "invalid_answer", 1),
    )
    _, judged = Nights(tmp_path, LABEL_JOB).night(outcomes)

    assert [
        "8 of 20 rows failed (40 %: 6 timeout, 2 truncated); success.failed allows 1 %",
        "2 of 20 rows are invalid (10 %: 1 invalid answer, 1 truncated); success.invalid allows 5 %",
    ] == judged.reasons
    assert frozenset({"failed", "invalid"}) == judged.said


@pytest.mark.parametrize(("status", "kind"), [("failed", "timeout"), ("invalid", "invalid_answer")])
def test_a_night_without_one_answer_is_no_success(status: str, kind: str, tmp_path: Path) -> None:
    _, judged = Nights(tmp_path, LABEL_JOB + DRIFT).night(wrong(status, kind, 30))

    assert ExitCode.NOT_SUCCESS == judged.code
    assert 1 == len(judged.reasons)


def test_every_row_refused_keeps_its_own_code(tmp_path: Path) -> None:
    _, judged = Nights(tmp_path, "").night(wrong("failed", "bad_request", 3))

    assert (ExitCode.REFUSED, ["every row was refused: no"]) == (judged.code, judged.reasons)
    assert frozenset({"failed"}) == judged.said


def test_compared_is_the_last_good_run_and_none_after_it(tmp_path: Path) -> None:
    """A bad night never becomes the measure, or the second one would pass."""
    nights = Nights(tmp_path, LABEL_JOB + DRIFT)
    begun, first = nights.night(labelled(40, 40, 40))
    good, second = nights.night(labelled(60, 30, 30))
    _, stuck = nights.night(labelled(0, 120, 0))
    _, again = nights.night(labelled(0, 120, 0))

    assert (0, 0, 3, 3) == (first.code, second.code, stuck.code, again.code)
    assert "label_drift: no earlier good run to compare with" in first.notes
    assert second.notes[1].startswith(f"label_drift: 0.17 from run {begun.path.name} (")
    for judged in (stuck, again):
        assert f"from run {good.path.name} (" in judged.reasons[0]
        assert "kỹ thuật 25 % -> 100 %" in judged.reasons[0]
        assert pytest.approx(0.75) == judged.totals["label_drift"]["distance"]


def test_a_small_run_is_told_and_not_failed(tmp_path: Path) -> None:
    nights = Nights(tmp_path, LABEL_JOB + DRIFT)
    nights.night(labelled(8, 4, 0))
    _, judged = nights.night(labelled(4, 8, 0))

    assert ExitCode.OK == judged.code
    assert judged.notes[1].endswith(", which chance explains in 12 rows")


def test_other_labels_are_not_compared(tmp_path: Path) -> None:
    nights = Nights(tmp_path, LABEL_JOB + DRIFT)
    before, _ = nights.night(labelled(40, 40, 40))
    nights.more = nights.more.replace("其他", "อื่นๆ")
    _, judged = nights.night([Outcome(row=at, status="ok", answer="อื่นๆ", label="อื่นๆ") for at in range(120)])

    assert ExitCode.OK == judged.code
    assert f"label_drift: not compared, run {before.path.name} had other labels" in judged.notes


def test_a_trial_of_few_rows_is_not_the_measure(tmp_path: Path) -> None:
    """Five good rows in the morning must not let a stuck night pass, nor make that night the next measure."""
    nights = Nights(tmp_path, LABEL_JOB + DRIFT)
    good, _ = nights.night(labelled(60, 70, 60))
    trial, _ = nights.night(labelled(3, 1, 1))
    _, stuck = nights.night(labelled(180, 10, 10))
    _, again = nights.night(labelled(180, 10, 10))

    for judged in (stuck, again):
        assert ExitCode.NOT_SUCCESS == judged.code
        assert f"from run {good.path.name} (" in judged.reasons[0]
        assert trial.path.name != judged.totals["label_drift"]["run"]


def test_where_all_good_runs_are_small_the_largest_is_the_measure(tmp_path: Path) -> None:
    nights = Nights(tmp_path, LABEL_JOB + DRIFT)
    nights.night(labelled(3, 3, 2))
    largest, _ = nights.night(labelled(20, 20, 20))
    nights.night(labelled(3, 3, 2))
    _, stuck = nights.night(labelled(180, 10, 10))

    assert ExitCode.NOT_SUCCESS == stuck.code
    assert largest.path.name == stuck.totals["label_drift"]["run"]


def test_a_trial_with_other_labels_hides_no_drift(tmp_path: Path) -> None:
    """The measure is the last good run with these labels, not the last one of all."""
    nights = Nights(tmp_path, LABEL_JOB + DRIFT)
    good, _ = nights.night(labelled(60, 60, 60))
    nights.more = nights.more.replace("其他", "อื่นๆ")
    nights.night([Outcome(row=at, status="ok", answer="อื่นๆ", label="อื่นๆ") for at in range(180)])
    nights.more = nights.more.replace("อื่นๆ", "其他")
    _, stuck = nights.night(labelled(180, 0, 0))

    assert ExitCode.NOT_SUCCESS == stuck.code
    assert good.path.name == stuck.totals["label_drift"]["run"]


@pytest.mark.parametrize("content", [b"", b"PAR1 not really PAR1"])
def test_damaged_results_of_an_earlier_run_cost_this_one_nothing(content: bytes, tmp_path: Path) -> None:
    nights = Nights(tmp_path, LABEL_JOB + DRIFT)
    before, _ = nights.night(labelled(60, 60, 0), has_counts=False)
    before.results.write_bytes(content)
    _, judged = nights.night(labelled(60, 60, 0))

    assert ExitCode.OK == judged.code
    assert f"label_drift: run {before.path.name} is passed over: its results cannot be read" in judged.notes


def test_an_earlier_run_without_counts_is_counted_from_its_results(tmp_path: Path) -> None:
    """Runs of an earlier version have no label counts in run.json."""
    nights = Nights(tmp_path, LABEL_JOB + DRIFT)
    nights.night(labelled(60, 60, 0), has_counts=False)
    _, judged = nights.night(labelled(0, 0, 120))

    assert ExitCode.NOT_SUCCESS == judged.code
    assert judged.reasons[0].startswith("labels drifted by 1.00 from run ")


def test_a_broken_earlier_run_is_passed_over_and_said(tmp_path: Path) -> None:
    nights = Nights(tmp_path, LABEL_JOB + DRIFT)
    nights.night(labelled(60, 60, 0))
    broken, _ = nights.night(labelled(60, 60, 0))
    broken.run_json.write_bytes(b"{")
    _, judged = nights.night(labelled(0, 0, 120))

    assert ExitCode.NOT_SUCCESS == judged.code
    assert any(note.startswith(f"label_drift: run {broken.path.name} is passed over: ") for note in judged.notes)


def test_the_same_answer_is_shown_masked_and_safe(tmp_path: Path) -> None:
    """What a provider says may hold the key it was sent, and repaint a terminal."""
    answer = "\x1b[2J\x1b]0;x\x07Error: key sk-0123456789abcdef is\nover its limit " + "ยาว" * 200
    _, judged = Nights(tmp_path, "").night(answered(*[answer] * 30))

    assert ExitCode.NOT_SUCCESS == judged.code
    assert judged.reasons[0].startswith('30 of 30 answers are the same: "Error: key *** is over its limit ยาว')
    assert judged.reasons[0].endswith('…"; success.same allows 50 %')
    assert not {"\x1b", "\x07", "\n"} & {*judged.reasons[0]}


def test_empty_answers_are_those_that_show_nothing(tmp_path: Path) -> None:
    """Counted for the rule, for the summary and for run.json alike."""
    _, judged = Nights(tmp_path, "").night(answered("\u200b", '""', "", None, *map(str, range(16))))

    assert 4 == judged.empty
    assert ["4 of 20 rows are empty (20 %); success.empty allows 5 %"] == judged.reasons


def test_gold_rows_are_found_across_batches(tmp_path: Path) -> None:
    """Results and input come in batches that begin at different rows; each answer meets its own row's truth."""
    nights = Nights(tmp_path, "success: {same: 100%, gold: {column: truth, min_accuracy: 100%}}\n")
    nights.truths = [f"đáp án {at}" if at % 3 else None for at in range(2_500)]
    good = answered(*[f"Đáp án {at}" for at in range(2_500)])
    _, right = nights.night(good)
    _, shifted = nights.night(in_rows(good[1:], good[:1]))

    assert (ExitCode.OK, 1_666) == (right.code, right.totals["gold"]["right"])
    assert (ExitCode.NOT_SUCCESS, 0) == (shifted.code, shifted.totals["gold"]["right"])
    assert "wrong: row 1, row 2, row 4, row 5, row 7 and 1,661 more" in shifted.reasons[0]

"""The end of a run: its results are written, and the job's `success` rule is held against what is in them.

Everything here is counted from the rows of the results themselves, on their way to the disk or read back from
there, so what the verdict says is true of the file that people open. Blocking; belongs into a thread.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batcher.answers.census import Census
from batcher.answers.drift import judge_drift, label_drift
from batcher.answers.gold import GoldRule, GoldTally, judge_gold
from batcher.answers.sameness import SameLimit, most_given, same_sentence
from batcher.answers.success import RowCounts, SuccessRule, judge_success
from batcher.assemble.closing import Judged, Said
from batcher.assemble.finish import first_error, write_all_results
from batcher.assemble.prepare import Prepared, success_rule
from batcher.errors import BatcherError, ExitCode, InputError, JournalError
from batcher.journal.journal import Journal
from batcher.observe.human import counted, kinds, share
from batcher.observe.text import clean
from batcher.runs.directory import RunDirectory
from batcher.runs.results import read_results
from batcher.runs.runfile import RunFile
from batcher.storage.durable import Disk

LABELS_TOLD_MAX = 5
_ANSWER_CELLS_SHOWN = 80


@dataclass(slots=True)
class _Findings:
    """What the judging brings together."""

    reasons: list[str]
    notes: list[str]
    totals: dict[str, Any]


def finish_run(
    prepared: Prepared,
    journal: Journal,
    directory: RunDirectory,
    *,
    rows: int,
    disk: Disk,
    mask: Callable[[str], str],
) -> Judged:
    """Write the results and judge them. Blocking.

    Args:
        prepared: The job's parts.
        journal: Closed, with an outcome for each row.
        directory: Of the run; its neighbours are the job's earlier runs.
        rows: How many the input has.
        disk: Where to.
        mask: Takes secrets out of a text.

    Raises:
        JournalError: A row is missing or a segment damaged.
        InputError: The input has changed.
        StorageError: The disk refused.
    """
    rule, census = success_rule(prepared.loaded), Census(prepared.loaded.job.answer.labels)
    latencies = write_all_results(prepared, journal, directory, rows=rows, disk=disk, counted=census.passing)
    found = _Findings([], [], {"latency_ms": latencies})
    if census.labels is not None:
        found.totals["labels"] = dict(census.labels)
        if census.ok:
            found.notes.append(f"labels: {_label_shares(census.labels)}")
    said: set[Said] = set()
    # Nothing that is the job's makes each row too long but what stands around it, or the model.
    if any(census.failed_kinds[kind] == rows for kind in ("bad_request", "too_long")):
        found.reasons.append(f"every row was refused: {first_error(directory)}")
        said.add("failed")
        code = ExitCode.REFUSED
    else:
        found.reasons += judge_success(_row_counts(census), rule)
        said |= {"failed"} if census.failed > rule.failed * rows else set()
        said |= {"invalid"} if census.invalid > rule.invalid * rows else set()
        _judge_answers(prepared, directory, census, rule, found, mask=mask)
        code = ExitCode.NOT_SUCCESS if found.reasons else ExitCode.OK
    return Judged(
        code=code,
        reasons=[clean(mask(reason)) for reason in found.reasons],
        said=frozenset(said),
        notes=[clean(mask(note)) for note in found.notes],
        empty=census.empty,
        totals=found.totals,
    )


def _row_counts(census: Census) -> RowCounts:
    return RowCounts(
        rows=census.rows,
        failed=census.failed,
        invalid=census.invalid,
        empty=census.empty,
        failed_by=kinds(census.failed_kinds),
        # Invalid answers are told as such already; only other kinds say more.
        invalid_by="" if set(census.invalid_kinds) <= {"invalid_answer"} else kinds(census.invalid_kinds),
    )


def _judge_answers(
    prepared: Prepared,
    directory: RunDirectory,
    census: Census,
    rule: SuccessRule,
    found: _Findings,
    *,
    mask: Callable[[str], str],
) -> None:
    """What the rule asks of the answers: not all the same, labels like last time, gold rows right."""
    if census.heads.may_be_above(rule.same.least):
        _judge_sameness(prepared, directory, rule.same, found, mask=mask)
    if rule.label_drift is not None and census.labels is not None:
        _judge_drift(directory, census.labels, rule, found)
    if rule.gold is not None:
        _judge_gold(prepared, directory, rule.gold, found)


def _judge_sameness(
    prepared: Prepared, directory: RunDirectory, limit: SameLimit, found: _Findings, *, mask: Callable[[str], str]
) -> None:
    """Say which answer was given to most rows: as a reason where the job is stuck on it, else as a note."""
    given = most_given(_ok_answers(directory), limit, prepared.loaded.job.answer.labels)
    # Masked before it is cut: half a secret would no longer be known.
    if given.stuck is not None:
        shown = clean(mask(given.stuck.text), _ANSWER_CELLS_SHOWN)
        found.reasons.append(same_sentence(given.stuck, limit, shown=shown))
    if given.usual is not None:
        shown = clean(mask(given.usual.text), _ANSWER_CELLS_SHOWN)
        found.notes.append(f'answers: "{shown}" {share(given.usual.rows, given.usual.answers)}')


def _ok_answers(directory: RunDirectory) -> Iterator[pa.Array]:
    for batch in read_results(directory.results, ["status", "answer"]):
        ok = batch.filter(pc.equal(batch.column("status"), "ok"))
        yield pc.fill_null(ok.column("answer"), "")


# --- drift ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Measure:
    """A good run that this one is held against."""

    run: RunDirectory
    run_file: RunFile
    labels: Mapping[str, int]

    @property
    def rows(self) -> int:
        return sum(self.labels.values())


def _judge_drift(directory: RunDirectory, labels: Mapping[str, int], rule: SuccessRule, found: _Findings) -> None:
    """Hold the labels against those of the job's last good run, and say so where there is nothing to compare."""
    if rule.label_drift is None:
        return
    if not sum(labels.values()):
        found.notes.append("label_drift: not compared, as no row has a label")
        return
    measure = _measure(directory, labels, found)
    if measure is None:
        return
    drift = label_drift(measure.labels, labels)
    if drift is None:  # neither has no rows
        return
    found.totals["label_drift"] = {
        "run": measure.run.path.name,
        "distance": drift.distance,
        "p_chance": drift.p_chance,
        "rows_before": measure.rows,
    }
    told = f"{measure.run.path.name} ({measure.run_file.started_at:%Y-%m-%d})"
    sentences = judge_drift(drift, rule.label_drift, run=told)
    found.reasons += sentences
    if not sentences:
        few = min(measure.rows, sum(labels.values()))
        chance = f", which chance explains in {counted(few, 'row')}"
        found.notes.append(
            f"label_drift: {drift.distance:.2f} from run {told}{chance if drift.distance > rule.label_drift else ''}"
        )


def _measure(directory: RunDirectory, labels: Mapping[str, int], found: _Findings) -> _Measure | None:
    """The newest good run that has the same labels, and at least half as many rows with one as this; else the largest.

    A trial of five rows is a good run too, and must not become the measure of a night: five rows show nothing.
    """
    enough = sum(labels.values()) / 2
    largest: _Measure | None = None
    others: str | None = None
    like = directory.read()
    for run, run_file in _good_runs(directory, found):
        try:
            before = _labels_of(run, run_file, like=like, labels=labels)
        except (JournalError, pa.ArrowException, KeyError):
            found.notes.append(f"label_drift: run {run.path.name} is passed over: its results cannot be read")
            continue
        if before is None or before.keys() != labels.keys():
            others = others or run.path.name
            continue
        one = _Measure(run, run_file, before)
        if one.rows and (largest is None or one.rows > largest.rows):
            largest = one
        if one.rows >= enough:
            break
    if largest is None:
        why = f"not compared, run {others} had other labels" if others else "no earlier good run to compare with"
        found.notes.append(f"label_drift: {why}")
    return largest


def _good_runs(directory: RunDirectory, found: _Findings) -> Iterator[tuple[RunDirectory, RunFile]]:
    """The other runs of the job that were finished with exit code 0, the newest first."""
    for run in RunDirectory.list(directory.job_path.parent, directory.job):
        if run.path.name == directory.path.name:
            continue
        try:
            run_file = run.read()
        except BatcherError as error:
            found.notes.append(f"label_drift: run {run.path.name} is passed over: {error.message}")
            continue
        if run_file.state == "finished" and run_file.exit_code == ExitCode.OK:
            yield run, run_file


def _labels_of(
    run: RunDirectory, run_file: RunFile, *, like: RunFile, labels: Collection[str]
) -> Mapping[str, int] | None:
    """The label counts of a run, from its results where its `run.json` has none; None if it had other labels.

    Args:
        run: The earlier run.
        run_file: Its state.
        like: The state of this run. An earlier one without counts had the same labels if its job says so.
        labels: The labels of this run.
    """
    if isinstance(counts := run_file.totals.get("labels"), dict):
        return counts
    asked, asked_now = (one.fingerprints.get("job", {}).get("fields", {}) for one in (run_file, like))
    if asked.get("answer.labels") != asked_now.get("answer.labels") or not run.results.is_file():
        return None
    census = Census(tuple(labels))
    for batch in read_results(run.results, ["status", "answer", "label", "error_kind"]):
        census.add(batch)
    return census.labels


def _label_shares(labels: Mapping[str, int]) -> str:
    """`billing 62 %, technical 30 %`, the most frequent first."""
    rows = sum(labels.values())
    most = sorted(labels, key=lambda label: (-labels[label], label))
    given = [label for label in most if labels[label]]
    told = [f"{label} {share(labels[label], rows)}" for label in given[:LABELS_TOLD_MAX]]
    more = [f"{len(given) - LABELS_TOLD_MAX} more"] if len(given) > LABELS_TOLD_MAX else []
    never = [f"{counted(len(most) - len(given), 'label')} never"] if len(most) > len(given) else []
    return ", ".join(told + more + never)


# --- gold ----------------------------------------------------------------------------------------


def _judge_gold(prepared: Prepared, directory: RunDirectory, rule: GoldRule, found: _Findings) -> None:
    """Compare the answers with the truths that the input knows."""
    labels = prepared.loaded.job.answer.labels
    tally = GoldTally(labels)
    truths = (batch.column(0).cast(pa.string()) for batch in prepared.source.tables((rule.column,)))
    columns = ["row", "status", "answer" if labels is None else "label"]
    names = ["row", "status", "said"]
    if prepared.loaded.job.input.key is not None:
        columns, names = [*columns, "key"], [*names, "key"]
    results = (batch.select(columns).rename_columns(names) for batch in read_results(directory.results, columns))
    for part, known in _side_by_side(results, truths):
        tally.add(part, known)
    found.reasons += judge_gold(tally, rule)
    found.totals["gold"] = {"rows": tally.rows, "right": tally.right}
    if tally.rows:
        interval = {"low": tally.interval.low, "high": tally.interval.high}
        found.totals["gold"] |= {"accuracy": tally.accuracy, "interval_95": interval}
        found.notes.append(f"gold: {tally.right:,} of {counted(tally.rows, 'gold row')} right")


def _side_by_side(
    results: Iterator[pa.RecordBatch], truths: Iterator[pa.Array]
) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    """Slices of equal length, of the same rows."""
    known: pa.Array = pa.array([], pa.string())
    for batch in results:
        left = batch
        while len(left):
            if not len(known):
                following = next(truths, None)
                if following is None:
                    raise InputError("the input has fewer rows than were asked; it has changed since the run began")
                known = following
            count = min(len(left), len(known))
            yield left.slice(0, count), known.slice(0, count)
            left, known = left.slice(count), known.slice(count)

"""The end of a run: its results are written, and the job's `success` rule is held against what is in them.

Everything here is counted from the rows of the results themselves, on their way to the disk or read back from
there, so what the verdict says is true of the file that people open. Blocking; belongs into a thread.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batcher.answers.census import Census
from batcher.answers.drift import judge_drift, label_drift
from batcher.answers.gold import GoldRule, GoldTally, judge_gold
from batcher.answers.sameness import judge_sameness, most_given
from batcher.answers.success import RowCounts, SuccessRule, judge_success
from batcher.assemble.finish import BATCH_ROWS, first_error, write_all_results
from batcher.assemble.prepare import Prepared, success_rule
from batcher.errors import BatcherError, ExitCode, InputError
from batcher.journal.journal import Journal
from batcher.observe.human import counted, kinds, share
from batcher.observe.text import clean
from batcher.runs.directory import RunDirectory
from batcher.runs.runfile import RunFile
from batcher.storage.durable import Disk

LABELS_TOLD_MAX = 5
_ANSWER_CELLS_SHOWN = 80

Said = Literal["failed", "invalid"]


@dataclass(frozen=True, slots=True)
class Judged:
    """How a run that was asked to its end turned out.

    `reasons` say why the code is not 0; `said` which counts of rows they tell already. `notes` are lines for
    the summary. `empty` counts the `ok` rows whose answer shows nothing. `totals` goes into `run.json`.
    """

    code: ExitCode
    reasons: list[str]
    said: frozenset[Said]
    notes: list[str]
    empty: int
    totals: Mapping[str, Any]


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
    if census.failed_kinds["bad_request"] == rows:
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
    if census.heads.may_be_above(rule.same):
        same = most_given(_ok_answers(directory))
        # Masked before it is cut: half a secret would no longer be known.
        shown = "" if same is None else clean(mask(same.text), _ANSWER_CELLS_SHOWN)
        found.reasons += judge_sameness(same, rule.same, shown=shown)
    if rule.label_drift is not None and census.labels is not None:
        _judge_drift(directory, census.labels, rule, found)
    if rule.gold is not None:
        _judge_gold(prepared, directory, rule.gold, found)


def _ok_answers(directory: RunDirectory) -> Iterator[pa.Array]:
    with pq.ParquetFile(directory.results) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=["status", "answer"]):
            ok = batch.filter(pc.equal(batch.column("status"), "ok"))
            yield pc.fill_null(ok.column("answer"), "")


# --- drift ---------------------------------------------------------------------------------------


def _judge_drift(directory: RunDirectory, labels: Mapping[str, int], rule: SuccessRule, found: _Findings) -> None:
    """Hold the labels against those of the job's last good run, and say so where there is nothing to compare."""
    earlier = _last_good_run(directory, found)
    if earlier is None or rule.label_drift is None:
        found.notes.append("label_drift: no earlier good run to compare with")
        return
    run, run_file = earlier
    before = _labels_of(run, run_file, like=directory.read(), labels=labels)
    if before is None or before.keys() != labels.keys():
        found.notes.append(f"label_drift: not compared, run {run.path.name} had other labels")
        return
    drift = label_drift(before, labels)
    if drift is None:
        found.notes.append(f"label_drift: not compared with run {run.path.name}, as one of the two has no ok row")
        return
    found.totals["label_drift"] = {
        "run": run.path.name,
        "distance": drift.distance,
        "p_chance": drift.p_chance,
        "rows_before": sum(before.values()),
    }
    told = f"{run.path.name} ({run_file.started_at:%Y-%m-%d})"
    sentences = judge_drift(drift, rule.label_drift, run=told)
    found.reasons += sentences
    if not sentences:
        chance = f", which chance explains in {counted(sum(labels.values()), 'row')}"
        found.notes.append(
            f"label_drift: {drift.distance:.2f} from run {told}{chance if drift.distance > rule.label_drift else ''}"
        )


def _last_good_run(directory: RunDirectory, found: _Findings) -> tuple[RunDirectory, RunFile] | None:
    """The newest other run of the job that was finished with exit code 0."""
    for run in RunDirectory.list(directory.job_path.parent, directory.job):
        if run.path.name == directory.path.name:
            continue
        try:
            run_file = run.read()
        except BatcherError as error:
            found.notes.append(f"label_drift: run {run.path.name} is passed over: {error.message}")
            continue
        if run_file.state == "finished" and run_file.exit_code == ExitCode.OK:
            return run, run_file
    return None


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
    with pq.ParquetFile(run.results) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=["status", "answer", "label", "error_kind"]):
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
    with pq.ParquetFile(directory.results) as file:
        results = (
            batch.select(columns).rename_columns(names) for batch in file.iter_batches(BATCH_ROWS, columns=columns)
        )
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

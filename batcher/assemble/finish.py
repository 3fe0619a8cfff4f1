"""Results: one row for every input row, from the journal and the input's own columns."""

import math
from collections import Counter
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from batcher.assemble.prepare import Prepared
from batcher.journal.journal import Journal
from batcher.runs.columns import result_schema
from batcher.runs.directory import RunDirectory
from batcher.runs.export import export
from batcher.runs.results import read_results, write_results
from batcher.runs.tables import table_format
from batcher.storage.durable import Disk

KEY_COLUMN = "key"

Outcomes = Iterator[pa.RecordBatch]

Latencies = dict[str, dict[str, float]]
"""Milliseconds by provider: `{"main": {"p50": …, "p95": …, "p99": …}}`."""

_BATCH_ROWS = 4_096
"""Rows of results in memory at once: enough to be fast, few enough to be small beside the rest."""

_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_BUCKETS_PER_E = 50.0
_LATENCY_MS_MIN = 0.001


class LatencyCounts:
    """How long the attempts that answered took, by provider, counted in buckets 2 % wide: constant memory."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[int]] = {}

    def passing(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same batches of outcomes, counted on their way."""
        for batch in batches:
            logs = pc.ln(pc.max_element_wise(batch.column("latency_ms"), _LATENCY_MS_MIN, skip_nulls=False))
            buckets = pc.floor(pc.multiply(logs, _BUCKETS_PER_E)).cast(pa.int32())
            for provider in pc.unique(batch.column("provider")):
                mine = buckets.filter(pc.equal(batch.column("provider"), provider)).drop_null()
                counts = self._counts.setdefault(str(provider), Counter())
                for entry in pc.value_counts(mine).to_pylist():
                    counts[entry["values"]] += entry["counts"]
            yield batch

    def quantiles(self) -> Latencies:
        """The median and two more, in milliseconds, right to 2 %."""
        return {
            provider: {name: _quantile(counts, share) for name, share in _QUANTILES.items()}
            for provider, counts in sorted(self._counts.items())
            if counts
        }


def _quantile(counts: Counter[int], share: float) -> float:
    wanted = share * counts.total()
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= wanted:
            break
    return round(math.exp((bucket + 0.5) / _BUCKETS_PER_E), 1)


def _uncounted(outcomes: Outcomes) -> Outcomes:
    return outcomes


def write_all_results(
    prepared: Prepared,
    journal: Journal,
    directory: RunDirectory,
    *,
    rows: int,
    disk: Disk,
    counted: Callable[[Outcomes], Outcomes] = _uncounted,
) -> Latencies:
    """Write `results.parquet` into the run directory, and the job's own output where it names one. Blocking.

    Args:
        prepared: The job's parts.
        journal: Closed, with an outcome for each row.
        directory: Of the run.
        rows: How many the input has.
        disk: Where to.
        counted: Sees every batch of outcomes on its way into the results, and passes it on.

    Returns:
        How long the attempts that answered took.

    Raises:
        JournalError: A row is missing or a segment damaged.
        InputError: The input has changed.
        StorageError: The disk refused.
    """
    job = prepared.loaded.job
    beside = tuple(dict.fromkeys(prepared.beside))
    fields = prepared.source.schema(beside) if beside else pa.schema([])
    has_key = job.input.key is not None
    schema = result_schema(
        key=fields.field(0).type if has_key else None,
        has_labels=job.answer.labels is not None,
        carried=[fields.field(name) for name in job.input.carry],
    )
    latencies = LatencyCounts()
    write_results(
        counted(latencies.passing(journal.merged(rows, batch_rows_max=_BATCH_ROWS))),
        directory.results,
        form=table_format(directory.results),
        schema=schema,
        disk=disk,
        beside=_beside(prepared) if beside else None,
        rows_expected=rows,
    )
    if job.output.path is not None:
        export(directory.results, prepared.loaded.base / job.output.path, disk)
    elif job.output.format not in (None, "parquet"):
        export(directory.results, directory.results.with_suffix(f".{job.output.format}"), disk)
    return latencies.quantiles()


def first_error(directory: RunDirectory) -> str:
    """What the results say of the first row that failed. Blocking; reads no further than that row."""
    for batch in read_results(directory.results, ["error"]):
        errors = batch.column("error").drop_null()
        if len(errors):
            return str(errors[0])
    return "it did not say why"


def _beside(prepared: Prepared) -> Iterator[pa.RecordBatch]:
    """The input's own columns of every row, the key's under the name that results give it."""
    job = prepared.loaded.job
    columns = tuple(dict.fromkeys(prepared.beside))
    names = [*([KEY_COLUMN] if job.input.key is not None else []), *job.input.carry]
    for batch in prepared.source.tables(columns):
        arrays = [batch.column(job.input.key if name == KEY_COLUMN else name) for name in names]
        yield pa.RecordBatch.from_arrays(arrays, names=names)

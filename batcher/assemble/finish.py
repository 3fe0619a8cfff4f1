"""Results: one row for every input row, from the journal and the input's own columns."""

from collections.abc import Iterator

import pyarrow as pa

from batcher.assemble.prepare import Prepared
from batcher.journal.journal import Journal
from batcher.runs.columns import result_schema
from batcher.runs.directory import RunDirectory
from batcher.runs.export import export
from batcher.runs.results import write_results
from batcher.runs.tables import table_format
from batcher.storage.durable import Disk

KEY_COLUMN = "key"

Latencies = dict[str, dict[str, float]]
"""Milliseconds by provider: `{"main": {"p50": …, "p95": …, "max": …}}`."""


def write_all_results(prepared: Prepared, journal: Journal, directory: RunDirectory, *, rows: int, disk: Disk) -> None:
    """Write `results.parquet` into the run directory, and the job's own output where it names one. Blocking.

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
    write_results(
        journal.merged(rows),
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


def first_error(directory: RunDirectory) -> str:
    """What the results say of the first row that failed. Blocking; streamed."""
    import polars as pl  # noqa: PLC0415  # as in `latencies`

    errors = pl.scan_parquet(directory.results).filter(pl.col("error").is_not_null()).select("error").head(1).collect()
    return str(errors["error"][0]) if len(errors) else "it did not say why"


def latencies(directory: RunDirectory) -> Latencies:
    """How long the attempts that answered took, by provider, from the results. Blocking; streamed."""
    import polars as pl  # noqa: PLC0415  # 0.2 s that no run needs before its end

    latency = pl.col("latency_ms")
    table = (
        pl.scan_parquet(directory.results)
        .filter(latency.is_not_null())
        .group_by("provider")
        .agg(
            latency.quantile(0.5).alias("p50"),
            latency.quantile(0.95).alias("p95"),
            latency.max().alias("max"),
        )
        .collect()
    )
    return {
        str(row["provider"]): {name: round(float(row[name]), 1) for name in ("p50", "p95", "max")}
        for row in table.sort("provider").to_dicts()
    }


def _beside(prepared: Prepared) -> Iterator[pa.RecordBatch]:
    """The input's own columns of every row, the key's under the name that results give it."""
    job = prepared.loaded.job
    columns = tuple(dict.fromkeys(prepared.beside))
    names = [*([KEY_COLUMN] if job.input.key is not None else []), *job.input.carry]
    for batch in prepared.source.tables(columns):
        arrays = [batch.column(job.input.key if name == KEY_COLUMN else name) for name in names]
        yield pa.RecordBatch.from_arrays(arrays, names=names)

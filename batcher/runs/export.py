"""Finished results in another format."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batcher.errors import JobError, JournalError, UsageError
from batcher.runs.tables import table_format, write_table
from batcher.storage.durable import Disk

_BATCH_ROWS = 8_192


def export(run_results: Path, to: Path, disk: Disk) -> int:
    """Write the results of a run to `to`, in the format that its name asks for; the number of rows.

    Raises:
        JobError: The name asks for no known format, or `to` is a directory or the results themselves.
        UsageError: The run has no results yet.
        JournalError: The results are no whole Parquet file.
        StorageError: The disk refused; `to` is as it was.
    """
    form = table_format(to)
    if to.is_dir():
        raise JobError(f"{to} is a directory; name a file in it")
    if not run_results.is_file():
        raise UsageError(
            f"{run_results} does not exist: the run is not finished",
            hint=f"`batcher resume {run_results.parent}` goes on with it",
        )
    if to.exists() and to.samefile(run_results):
        raise JobError(f"{to} is the run's own results file; name another")
    with _readable(run_results):
        file = pq.ParquetFile(run_results)
    with file:
        return write_table(to, form, file.schema_arrow, _batches(file, run_results), disk)


def _batches(file: pq.ParquetFile, path: Path) -> Iterator[pa.RecordBatch]:
    batches = file.iter_batches(_BATCH_ROWS)
    while True:
        # Damage is told apart from a full disk here, where nothing but the reading can fail.
        with _readable(path):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise JournalError(
            f"{path} is no whole Parquet file",
            hint=f"move it away; `batcher resume {path.parent}` writes it again from the journal",
        ) from error

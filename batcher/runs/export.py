"""Finished results in another format."""

from pathlib import Path

import pyarrow.parquet as pq

from batcher.errors import JobError, UsageError
from batcher.runs.results import read_results, readable
from batcher.runs.tables import table_format, write_table
from batcher.storage.durable import Disk


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
    with readable(run_results):
        schema = pq.read_schema(run_results)
    return write_table(to, form, schema, read_results(run_results), disk)

"""What a job's `success` section needs of the job and its input, looked at before anything is sent."""

from collections.abc import Collection, Sequence
from itertools import islice

import pyarrow as pa

from batcher.answers.gold import strange_truth
from batcher.config.load import LoadedJob
from batcher.errors import InputError, JobError
from batcher.sources.source import FileSource

TRUTH_BATCHES_LOOKED_AT = 10
"""Batches of up to 1,000 rows: enough for a wrong column or another spelling, in a blink."""

_COLUMNS_SHOWN_MAX = 40
_TRUTH_SHOWN_MAX = 40


def check_success(loaded: LoadedJob, columns: Sequence[str], *, asked: Collection[str]) -> None:
    """Refuse a rule that this job and this input cannot have.

    Args:
        loaded: The job.
        columns: The input's.
        asked: Those of them that the prompt reads.

    Raises:
        JobError: Drift without labels; a truth column that the input lacks, or that the prompt gives away.
    """
    success = loaded.job.success
    if success.label_drift is not None and loaded.job.answer.labels is None:
        raise JobError(
            "success.label_drift compares labels, but the job has no answer.labels; "
            "name the labels, or remove success.label_drift"
        )
    if success.gold is None:
        return
    column = success.gold.column
    if column not in columns:
        more = f" and {len(columns) - _COLUMNS_SHOWN_MAX} more" if len(columns) > _COLUMNS_SHOWN_MAX else ""
        raise JobError(
            f"success.gold.column is {column}, but the input has only: {', '.join(columns[:_COLUMNS_SHOWN_MAX])}{more}"
        )
    if column in asked:
        raise JobError(
            f"success.gold.column is {column}, and the prompt reads that column too: a model that is shown the truth "
            f'proves nothing; take {column} out of the prompt (row alone reads every column; row["name"] reads one)'
        )


def check_truths(loaded: LoadedJob, source: FileSource) -> None:
    """Look at the first known truths: each must be one of the labels, where there are labels.

    Raises:
        JobError: The truth column holds lists, objects or bytes.
        InputError: A truth is none of the labels; names the row.
    """
    gold, labels = loaded.job.success.gold, loaded.job.answer.labels
    if gold is None:
        return
    kind = source.schema((gold.column,)).field(0).type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind):
        raise JobError(f"success.gold.column is {gold.column}, which holds no text but {kind}; store the truth as text")
    if labels is None:
        return
    first_row = 0
    for batch in islice(source.tables((gold.column,)), TRUTH_BATCHES_LOOKED_AT):
        truths = batch.column(0).cast(pa.string())
        if (at := strange_truth(truths, labels)) is not None:
            shown = ascii(truths[at].as_py()) if not truths[at].as_py().isprintable() else truths[at].as_py()
            raise InputError(
                f'row {first_row + at} has the truth "{shown[:_TRUTH_SHOWN_MAX]}" in column {gold.column}, which is '
                "none of answer.labels; mend it, or leave it empty where the truth is not known"
            )
        first_row += len(truths)

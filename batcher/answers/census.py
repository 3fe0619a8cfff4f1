"""Counts of a finished run, taken from the very rows that its results hold."""

from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from batcher.answers.sameness import SameHeads

# White space, controls and what nobody sees: zero-width signs, fillers of Korean and Braille; and quotes around it.
_NOTHING = r"\A[\s\p{Z}\p{C}\x{034F}\x{115F}\x{1160}\x{3164}\x{FFA0}\x{2800}\x{FE00}-\x{FE0F}\"'`“”‘’«»「」『』]*\z"


class Census:
    """Counts rows by their ending, their label and their kind of failure, batch by batch in constant memory.

    An answer of which nothing can be seen counts as empty: white space, zero-width characters, `""`.

    Args:
        labels: The job's labels; None for free text.
    """

    def __init__(self, labels: Sequence[str] | None) -> None:
        self.rows = self.ok = self.failed = self.invalid = self.empty = 0
        self.labels: dict[str, int] | None = None if labels is None else dict.fromkeys(labels, 0)
        self.failed_kinds: Counter[str] = Counter()
        self.invalid_kinds: Counter[str] = Counter()
        self.heads = SameHeads(labels)

    def passing(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same batches of outcomes, counted on their way."""
        for batch in batches:
            self.add(batch)
            yield batch

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch of outcomes: columns `status`, `answer`, `label` and `error_kind`."""
        is_ok = pc.equal(batch.column("status"), "ok")
        self.rows += len(batch)
        self.ok += is_ok.true_count
        if is_ok.false_count:
            self._add_wrong(batch.filter(pc.invert(is_ok)))
        if is_ok.true_count:
            self._add_ok(batch.filter(is_ok) if is_ok.false_count else batch)

    def _add_wrong(self, batch: pa.RecordBatch) -> None:
        for status, kind in zip(
            batch.column("status").to_pylist(), batch.column("error_kind").to_pylist(), strict=True
        ):
            if status == "failed":
                self.failed += 1
                self.failed_kinds[kind or "unknown"] += 1
            else:
                self.invalid += 1
                self.invalid_kinds[kind or "unknown"] += 1

    def _add_ok(self, batch: pa.RecordBatch) -> None:
        answers = pc.fill_null(batch.column("answer"), "")
        self.empty += pc.match_substring_regex(answers, _NOTHING).true_count
        self.heads.add(answers)
        if self.labels is None:
            return
        counts = pc.value_counts(batch.column("label").drop_null())
        for label, count in zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True):
            self.labels[label] = self.labels.get(label, 0) + count

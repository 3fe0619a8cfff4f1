"""Whether the first rows say that the whole job is refused.

While every row that ended is a `bad_request`, their outcomes are held back instead of journalled:
twenty in a row, and none of another kind, mean that the provider refuses the job and not a row. Twenty that
are all `too_long` mean the same: what the job puts around its rows does not fit the model. Then the run
stops, and no row is marked failed for the job's mistake. They cost nothing, so a crash that forgets them
loses nothing.
"""

from collections.abc import Mapping, Sequence

from batcher.core.records import Outcome
from batcher.errors import FailureKind, RefusedError

ROWS_ALIKE_MAX = 20

_HINTS: Mapping[FailureKind, str] = {
    "bad_request": "mend the job (model, params, base_url) and run it again; nothing was answered",
    "too_long": (
        "take a model with a longer context (or start the server with one), shorten the prompt, "
        "or give fewer examples, and run it again; nothing was answered"
    ),
}
"""The kinds that can doom a job, and what mends it."""


class DoomWatch:
    """Holds back the first outcomes while all of them are of one kind that can doom a job.

    Args:
        is_first: Whether no row of the run had an outcome before; a run that has served rows is not doomed.
    """

    def __init__(self, *, is_first: bool, rows_alike_max: int = ROWS_ALIKE_MAX) -> None:
        self._is_watching = is_first
        self._rows_alike_max = rows_alike_max
        self._held: list[Outcome] = []

    def release(self, outcome: Outcome) -> Sequence[Outcome]:
        """The outcomes that may be journalled now that this one is known.

        Raises:
            RefusedError: The first `rows_alike_max` rows were all refused as bad requests, or all too long.
        """
        if not self._is_watching:
            return (outcome,)
        self._held.append(outcome)
        # A row with tokens was served before it was refused (asked again, say), and it was paid.
        # One that was never sent (its prompt could not be made) is the row's own.
        kind = outcome.error_kind
        is_free = outcome.input_tokens is None and outcome.attempts > 0
        if kind is None or kind not in _HINTS or not is_free or kind != self._held[0].error_kind:
            return self.flush()
        if len(self._held) >= self._rows_alike_max:
            raise RefusedError(
                f"the provider refused each of the first {len(self._held)} rows: {outcome.error}",
                hint=_HINTS[kind],
            )
        return ()

    def flush(self) -> Sequence[Outcome]:
        """All that is held, when the input ends or another outcome shows that the job is not doomed."""
        self._is_watching = False
        held, self._held = self._held, []
        return held

"""Whether the first rows say that the whole job is refused.

While every row that ended is a `bad_request`, their outcomes are held back instead of journalled:
twenty in a row, and none of another kind, mean that the provider refuses the job and not a row. Then
the run stops, and no row is marked failed for the job's mistake. They cost nothing, so a crash that
forgets them loses nothing.
"""

from collections.abc import Sequence

from batcher.core.records import Outcome
from batcher.errors import RefusedError

ROWS_ALIKE_MAX = 20


class DoomWatch:
    """Holds back the first outcomes while all of them are `bad_request`.

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
            RefusedError: The first `rows_alike_max` rows were all refused as bad requests.
        """
        if not self._is_watching:
            return (outcome,)
        self._held.append(outcome)
        # A row with tokens was served before it was refused (asked again, say), and it was paid.
        # One that was never sent (its prompt could not be made) is the row's own.
        is_doom = outcome.error_kind == "bad_request" and outcome.input_tokens is None and outcome.attempts > 0
        if not is_doom:
            return self.flush()
        if len(self._held) >= self._rows_alike_max:
            raise RefusedError(
                f"the provider refused each of the first {len(self._held)} rows: {outcome.error}",
                hint="mend the job (model, params, base_url) and run it again; nothing was answered",
            )
        return ()

    def flush(self) -> Sequence[Outcome]:
        """All that is held, when the input ends or another outcome shows that the job is not doomed."""
        self._is_watching = False
        held, self._held = self._held, []
        return held

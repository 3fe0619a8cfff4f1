"""Tells people once that a key begins a long rest, until when, and why."""

import math
from collections.abc import Callable
from datetime import UTC, datetime

from batcher.clock import Clock
from batcher.observe.human import duration

TOLD_REST_S = 60.0
"""A rest so long is told: a limit of a minute is over by then, one of a day is not."""


class RestNews:
    """The rests of one key.

    Args:
        name: The key without the key, for messages.
        tell: Called with a sentence; None where nobody listens.
    """

    def __init__(self, name: str, tell: Callable[[str], None] | None, clock: Clock) -> None:
        self._name = name
        self._tell = tell
        self._clock = clock
        self._told_until_s = -math.inf
        self._refusal, self._refused_s = "", -math.inf

    def refused(self, words: str) -> None:
        """The provider refused a call by its limits, in these words."""
        self._refusal, self._refused_s = words, self._clock.monotonic()

    def rests(self, rest_s: float) -> None:
        """The key rests for so long from now on; told once, and again where it became a good deal longer."""
        now_s = self._clock.monotonic()
        if self._tell is None or rest_s < TOLD_REST_S or now_s + rest_s < self._told_until_s + TOLD_REST_S:
            return
        self._told_until_s = now_s + rest_s
        moment = datetime.fromtimestamp(self._clock.now() + rest_s, UTC)
        # An older refusal is not the reason; then the headers of an answer were.
        why = f": {self._refusal}" if now_s - self._refused_s < TOLD_REST_S else ""
        self._tell(f"{self._name} rests for {duration(rest_s)}, until {moment:%Y-%m-%d %H:%M} UTC, by its limits{why}")

"""Several gates as one caller: picks a key for each attempt, and sets refused keys aside.

A key that the provider refuses (401, 403) or whose quota is used up is not asked again in this run; its
row goes to another key at once and loses no try. When no key is left the job is refused, in the
provider's words.

A refusal need not speak of the key, though: a firewall answers 403 to one row's text, a gateway 401 for a
moment. So a key that has served rows is set aside only when three rows were refused with no answer
between; a row that is refused again while the key serves others is refused itself.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from batcher.clock import Clock
from batcher.core.contracts import Caller, CallError
from batcher.core.progress import Progress
from batcher.core.records import NOTHING_SPENT, Reply, Request
from batcher.errors import RefusedError
from batcher.providers.gated import KeyRestsError
from batcher.providers.retrying import with_spend

ROWS_REFUSED_MAX = 3
"""So many rows refused in a row, on a key that served before, speak of the key."""

ASKED_MAX = 3
"""A row that is refused so often with nobody else to compare it with is refused for good."""

ASKED_AGAIN_AFTER_S = 1.0


class Member(Caller, Protocol):
    """A gate that can be picked."""

    @property
    def name(self) -> str:
        """Which key, without the key: `main`, or `main (key 2 of 3)`."""
        ...

    @property
    def load(self) -> float:
        """Share of its room in use; above 1 where rows wait. The least loaded member is picked."""
        ...

    @property
    def rest_s(self) -> float:
        """Seconds for which it sends nothing."""
        ...

    def share_with(self, rest_elsewhere_s: Callable[[], float]) -> None:
        """Told once how long the others rest at least, so that its rows can leave it for them."""
        ...


class _Place:
    """A member, and what its key has shown so far.

    `refusals` has, for each row that was refused, how often and how many answers there were at the first time;
    `rows_since` the rows refused since the last answer.
    """

    __slots__ = ("answers", "member", "refusals", "rows_since")

    def __init__(self, member: Member) -> None:
        self.member = member
        self.answers = 0
        self.refusals: dict[int, tuple[int, int]] = {}
        self.rows_since: set[int] = set()

    def answered(self, row: int) -> None:
        self.answers += 1
        if self.rows_since:
            self.rows_since.clear()
        if self.refusals:
            self.refusals.pop(row, None)

    def refused(self, row: int) -> None:
        times, answers_then = self.refusals.get(row, (0, self.answers))
        self.refusals[row] = (times + 1, answers_then)
        self.rows_since.add(row)

    @property
    def is_key_at_fault(self) -> bool:
        return self.answers == 0 or len(self.rows_since) >= ROWS_REFUSED_MAX

    def is_row_at_fault(self, row: int) -> bool:
        times, answers_then = self.refusals[row]
        return times >= ASKED_MAX or (times > 1 and self.answers > answers_then)


class Pool:
    """One caller over the keys of a provider.

    Args:
        members: At least one, in the order of the job.
        tell: Called with a sentence when a key is set aside.
    """

    def __init__(
        self, members: Sequence[Member], *, clock: Clock, progress: Progress, tell: Callable[[str], None]
    ) -> None:
        self._places = [_Place(member) for member in members]
        self._clock = clock
        self._progress = progress
        self._tell = tell
        for place in self._places:
            place.member.share_with(partial(self._rest_elsewhere_s, place))

    async def call(self, request: Request) -> Reply:
        """See `Caller`."""
        spend = NOTHING_SPENT
        leaving: _Place | None = None
        while True:
            place = self._pick(leaving)
            leaving = None
            try:
                reply = await place.member.call(request)
            except KeyRestsError:
                leaving = place
            except CallError as error:
                error.spend = spend = spend + error.spend
                if error.kind not in ("auth", "quota"):
                    raise
                await self._refused(place, request, error)
            else:
                place.answered(request.row)
                return with_spend(reply, spend)

    def _pick(self, leaving: _Place | None) -> _Place:
        places = self._places
        if len(places) == 1:
            return places[0]
        return min((place for place in places if place is not leaving), key=lambda place: place.member.load)

    def _rest_elsewhere_s(self, mine: _Place) -> float:
        return min((place.member.rest_s for place in self._places if place is not mine), default=math.inf)

    async def _refused(self, place: _Place, request: Request, error: CallError) -> None:
        """The key was refused for this row: set it aside, fail the row, or wait to ask once more.

        Raises:
            CallError: It is the row.
            RefusedError: It was the last key.
        """
        place.refused(request.row)
        if error.kind == "quota" or place.is_key_at_fault:
            self._set_aside(place, error)
        elif place.is_row_at_fault(request.row):
            raise error
        else:
            self._progress.wait_begin("backoff", self._clock.monotonic())
            try:
                await self._clock.sleep(ASKED_AGAIN_AFTER_S)
            finally:
                self._progress.wait_end("backoff")

    def _set_aside(self, place: _Place, error: CallError) -> None:
        if len(self._places) > 1 or place not in self._places:
            if place in self._places:
                self._places.remove(place)
                self._tell(f"{place.member.name} is set aside: {error.message}")
            return
        raise RefusedError(f"{place.member.name} was refused: {error.message}", hint=error.hint) from None

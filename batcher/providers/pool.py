"""Several gates as one caller: picks a key for each attempt, and sets refused keys aside.

A key that the provider refuses (401, 403) or whose quota is used up is not asked again in this run; its
row goes to another key at once and loses no try. When no key is left the job is refused, in the
provider's words.

A refusal need not speak of the key, though: a firewall answers 403 to one row's text, a gateway 401 for a
moment. So a key that has served rows is set aside only when three rows were refused with no answer
between, or one row three times; a row that is refused again while the key serves others is refused
itself. And where a 403 would set a key aside, a tiny request of our own tells whether it is the key.
"""

import asyncio
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
from batcher.providers.room import COUNTED

ROWS_REFUSED_MAX = 3
"""So many rows refused in a row, on a key that served before, speak of the key."""

ASKED_MAX = 3
"""A row that is refused so often, with nobody else to compare it with, speaks of the key too."""

ASKED_AGAIN_AFTER_S = 1.0

HTTP_FORBIDDEN = 403


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

    async def canary(self, *, rest_s: float) -> Reply:
        """Ask something that any healthy provider answers, and nothing else for a while. Raises what `call` raises."""
        ...

    def share_with(self, rest_elsewhere_s: Callable[[], float]) -> None:
        """Told once how long the others rest at least, so that its rows can leave it for them."""
        ...


class _Place:
    """A member, and what its key has shown so far.

    `refusals` has, for each row that was refused, how often and how many answers there were at the first time;
    `rows_since` the rows refused since the last answer.
    """

    __slots__ = ("answers", "is_set_aside", "member", "one_at_a_time", "refusals", "rows_since")

    def __init__(self, member: Member) -> None:
        self.member = member
        self.answers = 0
        self.is_set_aside = False
        self.one_at_a_time = asyncio.Lock()
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

    def is_key_suspect(self, row: int) -> bool:
        times, _ = self.refusals[row]
        return self.answers == 0 or len(self.rows_since) >= ROWS_REFUSED_MAX or times >= ASKED_MAX

    def is_row_at_fault(self, row: int) -> bool:
        """Whether the key has served others since the row was first refused, and refused it again."""
        times, answers_then = self.refusals[row]
        return times > 1 and self.answers > answers_then


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
            places = self._places
            place = places[0] if len(places) == 1 else self._pick(leaving)
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
                spend = error.spend
            else:
                place.answered(request.row)
                return reply if spend is NOTHING_SPENT else with_spend(reply, spend)

    def _pick(self, leaving: _Place | None) -> _Place:
        return min((place for place in self._places if place is not leaving), key=lambda place: place.member.load)

    def _rest_elsewhere_s(self, mine: _Place) -> float:
        return min((place.member.rest_s for place in self._places if place is not mine), default=math.inf)

    async def _refused(self, place: _Place, request: Request, error: CallError) -> None:
        """The key was refused for this row: set it aside, fail the row, or wait to ask once more.

        Raises:
            CallError: It is the row.
            RefusedError: It was the last key.
        """
        place.refused(request.row)
        if error.kind == "quota":
            self._set_aside(place, error)
            return
        # A hundred rows may be refused at once: one of them finds out why.
        async with place.one_at_a_time:
            if place.is_row_at_fault(request.row):
                raise error
            if not place.is_set_aside and place.is_key_suspect(request.row):
                is_well = await self._is_key_well(place, error) if error.status == HTTP_FORBIDDEN else False
                if is_well:
                    raise error
                if is_well is False:
                    self._set_aside(place, error)
        if place.is_set_aside:
            # For those too that were refused meanwhile: it raises where no other key is left.
            self._set_aside(place, error)
            return
        self._progress.wait_begin("backoff", self._clock.monotonic())
        try:
            await self._clock.sleep(ASKED_AGAIN_AFTER_S)
        finally:
            self._progress.wait_end("backoff")

    async def _is_key_well(self, place: _Place, error: CallError) -> bool | None:
        """Whether the key is let in with a request of our own, None if that does not show; the row pays for it."""
        try:
            reply = await place.member.canary(rest_s=ASKED_AGAIN_AFTER_S)
        except CallError as failure:
            error.spend = error.spend + failure.spend
            # A busy or a broken provider says nothing of the key: to set the last one aside would end the run.
            return None if failure.kind in COUNTED or failure.kind == "rate_limited" else False
        error.spend = error.spend + reply.spend
        place.answered(-1)
        return True

    def _set_aside(self, place: _Place, error: CallError) -> None:
        """Ask this key no more.

        Raises:
            RefusedError: It was the last one.
        """
        if place in self._places:
            if len(self._places) == 1:
                place.is_set_aside = True
                raise RefusedError(f"{place.member.name} was refused: {error.message}", hint=error.hint) from None
            self._places.remove(place)
        if not place.is_set_aside:
            place.is_set_aside = True
            self._tell(f"{place.member.name} is set aside: {error.message}")

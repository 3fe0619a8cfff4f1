"""Several gates as one caller: picks a key for each attempt, and sets refused keys aside.

A key that the provider refuses (401, 403) or whose quota is used up is not asked again in this run; its
row goes to another key at once and loses no try. When no key is left the job is refused, in the
provider's words.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from batcher.core.contracts import Caller, CallError
from batcher.core.records import NOTHING_SPENT, Reply, Request
from batcher.errors import RefusedError
from batcher.providers.retrying import with_spend


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


class Pool:
    """One caller over the keys of a provider.

    Args:
        members: At least one, in the order of the job.
        tell: Called with a sentence when a key is set aside.
    """

    def __init__(self, members: Sequence[Member], *, tell: Callable[[str], None]) -> None:
        self._members = list(members)
        self._tell = tell

    async def call(self, request: Request) -> Reply:
        """See `Caller`."""
        spend = NOTHING_SPENT
        while True:
            member = self._pick()
            try:
                reply = await member.call(request)
            except CallError as error:
                error.spend = spend = spend + error.spend
                if error.kind not in ("auth", "quota"):
                    raise
                self._set_aside(member, error)
            else:
                return with_spend(reply, spend)

    def _pick(self) -> Member:
        members = self._members
        return members[0] if len(members) == 1 else min(members, key=lambda member: member.load)

    def _set_aside(self, member: Member, error: CallError) -> None:
        if len(self._members) > 1 or member not in self._members:
            if member in self._members:
                self._members.remove(member)
                self._tell(f"{member.name} is set aside: {error.message}")
            return
        raise RefusedError(f"{member.name} was refused: {error.message}", hint=error.hint) from None

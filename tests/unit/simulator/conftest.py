"""A clock that moves only when told to."""

import pytest


class StillClock:
    """Wall and monotonic time that a test sets; sleeping moves them at once."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def now(self) -> float:
        return 1_700_000_000.0 + self.time_s

    def monotonic(self) -> float:
        return self.time_s

    async def sleep(self, wait_s: float) -> None:
        self.time_s += wait_s


@pytest.fixture
def clock() -> StillClock:
    return StillClock()

"""An engine between fakes."""

from batcher.core.flight import Flight
from batcher.core.progress import Progress
from batcher.engine.engine import Engine, EnginePlan, Parts
from batcher.testing.clock import ManualClock
from batcher.testing.fakes import FakeCaller, FakeChecker, FakeRenderer, FakeSource, MemorySink


class Bench:
    """An engine with fakes around it."""

    def __init__(
        self, source=None, caller=None, sink=None, *, workers=4, asks_max=3, start=0, wanted=None, places=None, **plan
    ):
        self.flight, self.progress = Flight(), plan.pop("progress", Progress())
        self.source = source or FakeSource(25)
        self.caller = caller or FakeCaller()
        self.sink = sink or MemorySink()
        self.sink.on_kept = self.progress.count
        self.renderer = FakeRenderer()
        self.engine = Engine(
            Parts(self.source, self.renderer, self.caller, FakeChecker(), self.sink),
            EnginePlan(workers=workers, asks_max=asks_max, model="m", provider="p", **plan),
            clock=ManualClock(),
            progress=self.progress,
            flight=self.flight,
            start=start,
            wanted=wanted or (lambda row: True),
            places=places,
        )

    @property
    def outcomes(self):
        return self.sink.outcomes

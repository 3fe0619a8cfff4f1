"""The simulator's own count of what it served: the other witness, which tests hold against the run's.

One record a request, made when its fate is known: answered, refused, or left by its client. Prompts and
answers are not in it, messages only as a digest, keys only by their last characters. With a path each
record is also a line of JSON, written at once, so a killed client takes nothing with it. A line follows the
last byte of its response by microseconds; whoever reads the file while the simulator runs asks
`GET /simulator/witness` first, which is answered after it.

`is_written` says that the kernel took every byte of the response. That is the most a server can know: a
client killed before it read them leaves the same trace. What is not written was never received whole.
"""

from collections import Counter, deque
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

import msgspec

from batcher.storage.durable import Disk, LocalDisk, LogFile


class Served(msgspec.Struct, frozen=True, gc=False):
    """One request and what became of it.

    Args:
        number: Chat requests in the order of their arrival, from 1.
        arrived_s: Wall time, seconds since the epoch.
        finished_s: When the last byte was handed over, or the request was given up.
        key: Its last characters; see `wire.key_tail`.
        model: As asked; None when the request could not be read.
        digest: `answers.messages_digest` of the messages; None as above.
        status: HTTP status; None when the connection was reset, closed or left before one.
        fault: The seeded fault, if any.
        refused_by: What refused it, if not a fault: `requests`, `tokens`, `size`, `concurrency`, `key`, `model`,
            `request`, `context`, `structured`, `truth`.
        is_written: Every byte of a whole response went out.
        is_good: A whole answer that its client may take: 200, without a fault that spoils it.
        is_billed: The model ran: the tokens count and cost.
        is_early: It came while a Retry-After for its key was still running.
        prompt_tokens: 0 unless billed; likewise the three below.
        cost_usd: None where no price is set.
        body_bytes: Size of the response's body as promised.
    """

    number: int
    arrived_s: float
    finished_s: float
    key: str
    model: str | None = None
    digest: str | None = None
    status: int | None = None
    fault: str | None = None
    refused_by: str | None = None
    is_written: bool = False
    is_good: bool = False
    is_billed: bool = False
    is_early: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal | None = None
    body_bytes: int = 0


class Totals(msgspec.Struct):
    """Sums over every request so far, those no longer kept as records included.

    `good` counts whole answers (`Served.is_good`), `cost_usd` sums the known costs. `in_flight` is now, its peak
    the most there ever was. `others` counts requests to other routes, which have no record.
    """

    requests: int = 0
    good: int = 0
    billed: int = 0
    billed_unwritten: int = 0
    unwritten: int = 0
    early: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    statuses: Counter[str] = msgspec.field(default_factory=Counter)
    faults: Counter[str] = msgspec.field(default_factory=Counter)
    refusals: Counter[str] = msgspec.field(default_factory=Counter)
    models: Counter[str] = msgspec.field(default_factory=Counter)
    keys: Counter[str] = msgspec.field(default_factory=Counter)
    others: int = 0
    in_flight: int = 0
    in_flight_peak: int = 0

    def add(self, served: Served) -> None:
        """Count one record."""
        self.requests += 1
        self.good += served.is_good
        self.billed += served.is_billed
        self.billed_unwritten += served.is_billed and not served.is_written
        self.unwritten += not served.is_written
        self.early += served.is_early
        self.prompt_tokens += served.prompt_tokens
        self.cached_tokens += served.cached_tokens
        self.completion_tokens += served.completion_tokens
        self.reasoning_tokens += served.reasoning_tokens
        self.cost_usd += served.cost_usd or 0
        self.statuses["none" if served.status is None else str(served.status)] += 1
        if served.fault is not None:
            self.faults[served.fault] += 1
        if served.refused_by is not None:
            self.refusals[served.refused_by] += 1
        if served.model is not None:
            self.models[served.model] += 1
        self.keys[served.key] += 1


class Witness:
    """Keeps records and totals.

    Args:
        path: Where each record becomes a line; what the file holds already stays in front.
        records_max: How many of the latest records are kept in memory; None for all.
        disk: What writes the file.

    Raises:
        StorageError: The file cannot be written; also from `add` and `close`.
    """

    def __init__(self, path: Path | None = None, *, records_max: int | None = None, disk: Disk | None = None) -> None:
        self.totals = Totals()
        self.records: deque[Served] = deque(maxlen=records_max)
        self._log: LogFile | None = None
        if path is not None:
            size_bytes = path.stat().st_size if path.exists() else 0
            self._log = (disk or LocalDisk()).open_log(path, size_bytes=size_bytes)

    def begin(self) -> None:
        """A request has arrived."""
        self.totals.in_flight += 1
        self.totals.in_flight_peak = max(self.totals.in_flight_peak, self.totals.in_flight)

    def end(self, served: Served) -> None:
        """Its fate is known. The line goes to the page cache: microseconds, so no thread is asked."""
        self.totals.in_flight -= 1
        self.totals.add(served)
        self.records.append(served)
        if self._log is not None:
            self._log.append(msgspec.json.encode(served) + b"\n")

    def good_digests(self) -> Counter[str]:
        """How often each messages' digest got a good answer, among the records kept."""
        return good_digests(self.records)

    def summary(self) -> bytes:
        """The totals as JSON."""
        return msgspec.json.encode(self.totals)

    def lines(self) -> bytes:
        """The records kept, as JSON lines."""
        return b"".join(msgspec.json.encode(served) + b"\n" for served in self.records)

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        log, self._log = self._log, None
        if log is not None:
            log.close()


def read_witness(path: Path) -> list[Served]:
    """The records of a witness file; a torn last line, which a killed simulator may leave, is left out."""
    decoder = msgspec.json.Decoder(Served)
    lines = path.read_bytes().split(b"\n")
    return [decoder.decode(line) for line in lines[:-1]]


def good_digests(records: Iterable[Served]) -> Counter[str]:
    """How often each messages' digest got a good answer; more than once was paid for twice."""
    return Counter(served.digest for served in records if served.is_good and served.digest is not None)

"""The kinds of work that everybody is measured on, those among them where batcher does badly."""

from dataclasses import dataclass

RAWEST, OWN, PYREQWEST, AIOHTTP = "rawest client", "batcher's client alone", "pyreqwest loop", "aiohttp loop"
SDK, TUTORIAL = "SDK loop", "tutorial"
BATCHER, BATCHER_SDK = "batcher", "batcher, client: sdk"

_THIN = (RAWEST, PYREQWEST, AIOHTTP)
_ALL = (RAWEST, OWN, PYREQWEST, AIOHTTP, SDK, TUTORIAL, BATCHER, BATCHER_SDK)


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of work.

    Attributes:
        name: For people, and for `--workload`.
        latency_ms: Between the server's reading a request and its answer.
        in_flight: Calls at once.
        contenders: Who is measured on it; the others could not do it, or not in a bearable time.
        rows_factor: How many times `--rows` a fast contender asks here.
        answer_bytes: Of the answer's text; 0 for a label.
        text_bytes: Of each row's text, about; 0 for a sentence.
        is_tls: Over TLS, the certificate issued by an authority made for the run.
        errors_500: Share of requests that get a 500.
        errors_429: Share of requests that get a 429, with `retry_after_ms`.
        retry_after_ms: See `errors_429`.
    """

    name: str
    latency_ms: float
    in_flight: int
    contenders: tuple[str, ...]
    rows_factor: float = 1.0
    answer_bytes: int = 0
    text_bytes: int = 0
    is_tls: bool = False
    errors_500: float = 0.0
    errors_429: float = 0.0
    retry_after_ms: int = 0

    @property
    def possible(self) -> float | None:
        """Rows a second that nobody can pass; None where only the machine sets an end."""
        if not self.latency_ms:
            return None
        return self.in_flight / self.latency_ms * 1000.0 * (1.0 - self.errors_500 - self.errors_429)

    @property
    def description(self) -> str:
        """For people."""
        parts = [f"{self.latency_ms:g} ms latency", f"{self.in_flight:,} in flight"]
        parts.append(f"{self.answer_bytes // 1000} kB answers" if self.answer_bytes else "700-byte answers")
        parts += [f"rows of {self.text_bytes // 1000} kB"] if self.text_bytes else []
        parts += ["TLS"] if self.is_tls else []
        if self.errors_500 or self.errors_429:
            parts.append(f"{self.errors_500:.0%} of the requests get a 500")
            parts.append(f"{self.errors_429:.0%} a 429 that asks for {self.retry_after_ms} ms")
        return ", ".join(parts)

    @property
    def setup(self) -> dict[str, float]:
        """For the server; see `server.Setup`."""
        return {
            "latency_ms": self.latency_ms,
            "answer_bytes": self.answer_bytes,
            "errors_500": self.errors_500,
            "errors_429": self.errors_429,
            "retry_after_ms": self.retry_after_ms,
        }


NO_LATENCY = Workload("no latency", 0, 256, _ALL, rows_factor=5)
"""Five times the rows: start-up, which is in the figures of the goal, must not be what is measured."""

SHORT_LATENCY = Workload("50 ms", 50, 200, _ALL)

MANY_IN_FLIGHT = Workload("50 ms, 1,000 in flight", 50, 1000, (RAWEST, OWN, PYREQWEST, AIOHTTP, BATCHER), rows_factor=2)

WORKLOADS = (
    NO_LATENCY,
    SHORT_LATENCY,
    MANY_IN_FLIGHT,
    # Enough rows that the second in which the calls begin does not decide: twelve calls by each place.
    Workload("10,000 in flight", 1000, 10_000, (RAWEST, OWN, PYREQWEST, AIOHTTP, BATCHER), rows_factor=6),
    Workload("failures", 50, 200, (RAWEST, AIOHTTP, TUTORIAL, BATCHER), errors_500=0.05, errors_429=0.02,
             retry_after_ms=20),
    Workload("TLS", 0, 256, (*_THIN, SDK, BATCHER), is_tls=True),
    Workload("long answers", 0, 64, (*_THIN, SDK, BATCHER), rows_factor=0.1, answer_bytes=100_000),
    Workload("huge rows", 0, 64, (*_THIN, SDK, BATCHER), rows_factor=0.1, text_bytes=100_000),
)  # fmt: skip

"""Where each microsecond of a row goes: the records, and the arithmetic from runs to parts.

Parts are taken out one after the other, each replaced by a stub that does nothing, until only the engine and the event
loop are left; a part costs what the run without it saves over the run before. So the parts add up to the
whole, whatever they share. HTTP goes first: what follows needs no server and no socket, and is steady. The
others go in the order of a row's life and, in other runs, in the opposite order, because parts lean on
each other; a part's cost is the mean of both, and the two are told as its range. Nothing is traced or sampled,
so nothing is distorted by being looked at.
"""

from collections.abc import Mapping, Sequence

import msgspec

STUBBED = ("http", "decode", "gate", "check", "render", "read", "journal", "book")
"""What can be replaced, HTTP first, then in the order of a row's life; see `stubs.py`."""

SWITCHED = ("budget", "rates")
"""Features of the job that can be switched off. They are parts of the gate and of the books, told beside them."""

SKELETON = "engine and loop"

WHAT = {
    "http": "the HTTP exchange: writing the request, waking for the answer, parsing its head, reading its body",
    "decode": "JSON of the answer to records",
    "gate": "permits, requests and tokens per minute, budget, breaker, pause",
    "check": "labels",
    "render": "the prompt, and its encoding",
    "read": "JSONL to rows, in a thread",
    "journal": "framing, one write for many, syncs and sealing in threads",
    "book": "ledger, budget, counters",
    "budget": "of the gate and the books: reserving and settling dollars",
    "rates": "of the gate: requests and tokens per minute",
    SKELETON: "what is left: workers, retries, choice of key, event loop, wake-ups",
}


class Variant(msgspec.Struct, frozen=True, order=True):
    """A run with some parts stubbed, and perhaps a feature of the job switched off."""

    stubbed: frozenset[str] = frozenset()
    without: str | None = None

    @property
    def described(self) -> str:
        """For people."""
        names = [name for name in STUBBED if name in self.stubbed] + ([self.without] if self.without else [])
        return f"without {', '.join(names)}" if names else "everything"


WHOLE = Variant()
_FIRST = Variant(frozenset(STUBBED[:1]))


def _chain(order: Sequence[str]) -> list[Variant]:
    return [Variant(frozenset(order[:count])) for count in range(len(order) + 1)]


_FORWARD = _chain(STUBBED)
_BACKWARD = _chain((*STUBBED[:1], *reversed(STUBBED[1:])))

VARIANTS: tuple[Variant, ...] = (
    *dict.fromkeys((*_FORWARD, *_BACKWARD, *(Variant(_FIRST.stubbed, feature) for feature in SWITCHED))),
)
"""All runs that a profile is made of."""


class Sample(msgspec.Struct, frozen=True):
    """One run: CPU seconds by phase of the process, and the main thread's share while rows were asked."""

    rows: int
    start_s: float
    rows_s: float
    rows_system_s: float
    main_thread_s: float
    end_s: float | None = None
    """None for a run with a stub: there is nothing to write results from."""


class Part(msgspec.Struct, frozen=True):
    """What one part costs a row: the mean of both orders, and each of them."""

    name: str
    us: float
    low_us: float
    high_us: float


class Profile(msgspec.Struct, frozen=True):
    """CPU of a row, in microseconds, by part; and of the whole process, in seconds, by phase.

    `system_us` is what of the whole was in the kernel. `plain_s` is the CPU of the same run started as users start it,
    which `start_s`, the rows and `end_s` should add up to. `noise_us` is how far the best two runs of one kind were
    apart, at most: smaller differences mean nothing.
    """

    rows: int
    runs: int
    whole_us: float
    system_us: float
    main_thread_us: float
    start_s: float
    end_s: float
    plain_s: float
    parts: list[Part]
    switched: list[Part]
    noise_us: float

    @property
    def process_s(self) -> float:
        """CPU of the whole process, by its phases."""
        return self.start_s + self.whole_us * self.rows / 1e6 + self.end_s


def profile_of(samples: Mapping[Variant, Sequence[Sample]], plain_s: Sequence[float]) -> Profile:
    """The parts from the runs with and without them.

    Of each kind of run the one that took least CPU counts: whatever else runs on the machine only adds to it (cold
    caches, a slower clock); Python's `timeit` says why.

    Args:
        samples: Of each of `VARIANTS`.
        plain_s: CPU seconds of whole processes with nothing measured inside.
    """

    def least_us(variant: Variant) -> float:
        return min(one.rows_s / one.rows for one in samples[variant]) * 1e6

    def saved(name: str, chain: Sequence[Variant]) -> float:
        after = next(variant for variant in chain if name in variant.stubbed)
        return least_us(chain[chain.index(after) - 1]) - least_us(after)

    def part(name: str) -> Part:
        low_us, high_us = sorted((saved(name, _FORWARD), saved(name, _BACKWARD)))
        return Part(name, (low_us + high_us) / 2, low_us, high_us)

    def switched(name: str) -> Part:
        us = least_us(_FIRST) - least_us(Variant(_FIRST.stubbed, name))
        return Part(name, us, us, us)

    whole = min(samples[WHOLE], key=lambda one: one.rows_s)
    left_us = least_us(_FORWARD[-1])
    return Profile(
        rows=whole.rows,
        runs=len(plain_s),
        whole_us=least_us(WHOLE),
        system_us=whole.rows_system_s / whole.rows * 1e6,
        main_thread_us=whole.main_thread_s / whole.rows * 1e6,
        start_s=min(one.start_s for one in samples[WHOLE]),
        end_s=min(one.end_s or 0.0 for one in samples[WHOLE]),
        plain_s=min(plain_s),
        parts=[*(part(name) for name in STUBBED), Part(SKELETON, left_us, left_us, left_us)],
        switched=[switched(name) for name in SWITCHED],
        noise_us=max(_noise_us(runs) for runs in samples.values()),
    )


def profile_lines(profile: Profile) -> str:
    """The profile as Markdown."""
    others_us = profile.whole_us - profile.main_thread_us
    per_row = 1e6 / profile.rows
    return "\n".join(
        [
            f"{profile.rows:,} rows, no latency, 256 in flight, everything on; the least of {profile.runs} runs each.",
            "CPU of all threads while rows are asked, from the kernel.",
            f"The best two runs of a kind were {profile.noise_us:.1f} µs apart at most; take no less for real.",
            "",
            "| part | CPU µs/row | in either order | what |",
            "| --- | ---: | ---: | --- |",
            *(_line(part) for part in profile.parts),
            f"| **together** | **{profile.whole_us:.1f}** | | in the kernel {profile.system_us:.1f}; "
            f"the main thread {profile.main_thread_us:.1f}, other threads {others_us:.1f} |",
            *(_line(part) for part in profile.switched),
            "",
            f"Starting took another {profile.start_s:.2f} s of CPU, {profile.start_s * per_row:.0f} µs a row here;",
            f"what comes after the last answer (sealing, results, leaving) {profile.end_s:.2f} s, "
            f"{profile.end_s * per_row:.0f} µs a row.",
            f"Together {profile.process_s:.2f} s; the same command with nothing measured inside took "
            f"{profile.plain_s:.2f} s.",
        ]
    )


def _line(part: Part) -> str:
    low, high = f"{part.low_us:.1f}", f"{part.high_us:.1f}"
    return f"| {part.name} | {part.us:.1f} | {'' if low == high else f'{low} to {high}'} | {WHAT[part.name]} |"


def _noise_us(samples: Sequence[Sample]) -> float:
    """From the least run to the next: what one more round might still have changed."""
    least = sorted(one.rows_s / one.rows * 1e6 for one in samples)[:2]
    return least[-1] - least[0]

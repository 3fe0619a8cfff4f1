"""`concurrency: auto`: finds how many calls in flight serve a key best, and follows it when it moves.

    8 --x2 a round--> first refusal or time-out: -1/5 --+5 % a clean round--> just below it
               |
               +--no more answers a second--> back to the smaller limit
    and from either place a look beyond, now and then

A round is as many answers to calls started since the last change as the limit (24 at least). The limit
grows at the end of a round in which it was really used (nine tenths of it on the wire at once) and which
held no refusal. Pure: told of each call's end, it decides a number; `Permits.resize` applies it.

- Additive increase and multiplicative decrease as in TCP (Chiu and Jain 1989; RFC 5681), both relative
  here: cut by a fifth, once per episode (calls started before the cut may still be refused; they are the
  same episode), and grow by 5 %. What was refused lately is approached and not passed, until a look beyond
  is due: CUBIC's plateau (RFC 9438). For the refusals alone this is what a sawtooth would cost.
- A server that queues never refuses. So growth must buy throughput, the idea of TCP Vegas (Brakmo and
  Peterson 1995) and of Netflix's concurrency-limits (2018). Those take the latency of an empty server for
  their measure; here it is answers per second, since continuous batching makes answers slower and yet
  serves more of them. Against a limit two thirds as large or smaller, less than 10 % more means: back.
- Time-outs are congestion where they are many (three in ten of a round): a queue longer than the timeout answers
  nobody. A few are the tail that every provider has, and hold growth like an error.
- A server error (5xx, a broken connection) holds growth and never cuts: an outage says nothing about
  concurrency. Five rounds in a row with more errors than usual take back the growth that brought them, to the
  last limit that was well; there, they are how this provider is, and hold nothing any more.
- A refusal that names a long wait speaks of a rate and not of concurrency: it ends the doubling, and does
  not cut.
"""

import math

START = 8
"""The first limit: twice what a small server on a desk does at once, and 1,024 seven rounds later."""

LIMIT_MIN, LIMIT_MAX = 1, 1024
"""One call has to go for anything to be learned; above 1,024 a single key gains nothing that is known of, and
every connection costs 50 kB (measured)."""

ROUND_CALLS_MIN = 24
"""A shorter round is noise: the rate of n answers is known to about 1 / sqrt(n)."""

CUT = 0.8
GROW = 1.05
LOOK = 1.5
"""The first step beyond a plateau: large enough for its gain to be seen above the noise."""

NEAR = 0.95
"""So near growth goes to a limit that was refused; the server's own jitter needs the rest."""

USED_SHARE = 0.9
GAIN_MIN, GAIN_CLEAR = 1.15, 1.4
LOSS_MAX = 1.05
"""Below the first there is no gain, above the second there is; between them another round is measured. The
first round after a change holds both limits' rates, so it shows a gain of two as 1.5 to 2."""

JUDGED_ROUNDS, JUDGED_CALLS = 3, 96
"""So many rounds are measured where the first did not settle it."""

APART = 1.5
"""Two limits closer than this are not compared: their rates differ by no more than the noise."""

RETRY_AFTER_LONG_S = 5.0
"""A server that is short of slots asks for a second or two; one whose minute is used up for the rest of it."""

LOOK_S_MIN, LOOK_S_MAX = 2.0, 120.0
"""Until the next look beyond; doubled by each that found nothing. One costs a pause of about a second."""

LOOK_REST = 2.0
"""The rest after a look is at least so many times as long as it took: a slow server would always be looked at."""

TIMEOUTS_MIN, TIMEOUTS_SHARE = 4, 0.3
"""So many, and so large a part of the calls that ended in a round, are a queue and not a tail."""

HELD_ROUNDS_MAX = 5
FAILURES_USUAL = 2.0
"""Growth is held when failures are so many times as frequent as is usual for this provider."""

ROUNDING = 1e-9

MEMORY = 0.3
"""Weight of the newest round in what is known of the limit that is held."""


class AdaptiveConcurrency:
    """The number of calls that one key may have in flight.

    Each method is told of one call that has ended and gives True if `limit` changed. Times are monotonic
    seconds; `started_s` is when the call went on the wire, which tells whether the present limit let it.

    AdaptiveConcurrency(limit_max=4)  # a local model that answers 4 side by side

    Args:
        start: The first limit; cut to the bounds.
        limit_min: Never below; at least 1.
        limit_max: Never above.
    """

    __slots__ = (
        "_busiest", "_ceiling", "_changed_s", "_cut_s", "_failures", "_finished", "_fresh", "_held_rounds",
        "_is_doubling", "_is_looking_down", "_is_measured", "_latency_sum_s", "_look_at_s", "_look_s", "_near",
        "_rates_sum", "_reference", "_reference_rate", "_round_calls", "_round_s", "_rounds", "_step", "_timeouts",
        "_usual_failures", "_was_refused", "limit", "limit_max", "limit_min",
    )  # fmt: skip

    def __init__(self, *, start: int = START, limit_min: int = LIMIT_MIN, limit_max: int = LIMIT_MAX) -> None:
        if not 1 <= limit_min <= limit_max:
            raise ValueError(f"the bounds must be in order and at least 1: {limit_min}, {limit_max}")
        self.limit_min, self.limit_max = limit_min, limit_max
        self.limit = min(max(start, limit_min), limit_max)
        self._is_doubling, self._was_refused = True, False
        self._step = LOOK
        # Growth is free up to `near`; beyond it one looks when the time has come, and is through above `ceiling`.
        self._near = self._ceiling = math.inf
        self._look_s = LOOK_S_MIN
        self._look_at_s = -math.inf
        # The largest limit that is known to be worth it, and its answers a second; 0 is not measured yet.
        self._reference, self._reference_rate = self.limit, 0.0
        self._rounds, self._rates_sum = 0, 0.0
        self._is_looking_down = False
        self._usual_failures = 0.0
        self._held_rounds = 0
        self._changed_s = self._cut_s = self._round_s = -math.inf
        self._finished = self._fresh = self._failures = self._timeouts = self._busiest = 0
        self._latency_sum_s = 0.0
        self._is_measured = True
        # The first answer of all only says when the first round began.
        self._round_calls = 1

    def succeeded(self, started_s: float, now_s: float, in_flight: int) -> bool:
        """A call was answered, whatever the answer is worth.

        Args:
            started_s: When it went on the wire.
            now_s: When its answer was there.
            in_flight: This key's calls on the wire, this one included; not those that wait for a rate.
        """
        self._finished += 1
        if in_flight > self._busiest:  # noqa: PLR1730  # max() costs three times as much, on every call
            self._busiest = in_flight
        if started_s <= self._changed_s:
            return False
        self._fresh += 1
        self._latency_sum_s += now_s - started_s
        return self._fresh >= self._round_calls and self._end_round(started_s, now_s)

    def refused(self, started_s: float, now_s: float, in_flight: int, retry_after_s: float | None = None) -> bool:
        """A call was refused with 429; `retry_after_s` is how long the provider wants to be left alone."""
        if started_s <= self._cut_s:
            self._spoil_round(now_s)
            return False
        if retry_after_s is not None and retry_after_s >= RETRY_AFTER_LONG_S:
            self._was_refused, self._is_doubling, self._step = True, False, GROW
            self._hold(now_s, ceiling=self.limit, near=self.limit)
            self._spoil_round(now_s)
            return False
        return self._cut(now_s, in_flight)

    def timed_out(self, started_s: float, now_s: float, in_flight: int) -> bool:
        """A call had no answer in time."""
        self._failures += 1
        if started_s <= self._cut_s:
            return False
        self._timeouts += 1
        ended = self._finished + self._failures
        if self._timeouts < min(TIMEOUTS_MIN, self.limit) or self._timeouts < TIMEOUTS_SHARE * ended:
            return False
        return self._cut(now_s, in_flight)

    def failed(self) -> bool:
        """A call met a server error or a broken connection; the limit stays."""
        self._failures += 1
        return False

    def set_free(self) -> None:
        """Forget the refusals so far: a rate has been learned that explains them, and that is kept from now on."""
        self._near = self._ceiling = math.inf
        self._look_s = LOOK_S_MIN
        self._is_doubling, self._was_refused, self._step = True, False, LOOK

    def _begin_round(self, now_s: float) -> None:
        self._round_s = now_s
        self._finished = self._fresh = self._failures = self._timeouts = self._busiest = 0
        self._latency_sum_s = 0.0
        self._round_calls = _round_calls(self.limit)
        self._is_measured = True

    def _spoil_round(self, now_s: float) -> None:
        """Begin anew, and measure nothing in it: the key rests now for a while."""
        self._begin_round(now_s)
        self._is_measured = False

    def _change(self, limit: float, now_s: float) -> bool:
        target = min(self.limit_max, max(self.limit_min, int(limit)))
        if target == self.limit:
            return False
        self.limit = target
        self._changed_s = now_s
        self._rounds, self._rates_sum = 0, 0.0
        self._begin_round(now_s)
        return True

    def _cut(self, now_s: float, in_flight: int) -> bool:
        """A fifth less; what is above the limit finishes first."""
        is_used = max(in_flight, self._busiest) >= USED_SHARE * self.limit
        if self.limit <= self._near:
            # Not a look beyond that found nothing: the provider can do less than it could.
            self._look_s = LOOK_S_MIN
        self._cut_s = now_s
        self._was_refused, self._is_doubling, self._step = True, False, GROW
        # A refusal with few on the wire speaks of something else than this limit.
        near = max(self.limit_min, min(self.limit - 1, int(self.limit * NEAR)))
        self._hold(now_s, ceiling=self.limit if is_used else math.inf, near=near if is_used else math.inf)
        has_changed = self._change(self.limit * CUT, now_s)
        if self.limit < self._reference:
            self._reference, self._reference_rate = self.limit, 0.0
        self._spoil_round(now_s)
        return has_changed

    def _hold(self, now_s: float, *, ceiling: float, near: float, took_s: float = 0.0) -> None:
        """No growth beyond `near` before it is time to look; the last look took `took_s`."""
        self._ceiling, self._near = ceiling, near
        self._is_looking_down = False
        self._look_at_s = now_s + max(self._look_s, LOOK_REST * took_s)
        self._look_s = min(LOOK_S_MAX, self._look_s * 2.0)

    def _end_round(self, started_s: float, now_s: float) -> bool:
        if self._round_s == -math.inf:
            self._round_s, self._round_calls = started_s, _round_calls(self.limit)
            return False
        rates = self._rates(now_s) if self._is_measured else None
        failures = self._failures / (self._failures + self._finished)
        is_used = self._busiest >= USED_SHARE * self.limit
        self._begin_round(now_s)
        if not is_used:
            return False
        if not self._is_well(failures):
            return self._endure(failures, now_s)
        if rates is None or self._reference < self.limit < self._reference * APART:
            return self._grow(now_s)
        mean = (rates[0] + rates[1]) / 2.0
        if self._reference_rate == 0.0:
            self._note(min(rates))
            return self._grow(now_s)
        if self.limit == self._reference:
            self._note(self._reference_rate + MEMORY * (mean - self._reference_rate))
            return self._grow(now_s)
        return self._judge(min(rates), mean, now_s)

    def _rates(self, now_s: float) -> tuple[float, float] | None:
        """Answers a second at this limit, measured in two ways that err differently.

        Counting errs where answers come in bursts, by one burst; Little's law (limit / mean latency) errs
        in the first round after a change, whose calls did not wait in a queue that was still filling.
        """
        elapsed_s = now_s - self._round_s
        if elapsed_s <= 0.0 or self._latency_sum_s <= 0.0:
            return None
        return self._finished / elapsed_s, self.limit * self._fresh / self._latency_sum_s

    def _is_well(self, failures: float) -> bool:
        """Whether no more calls failed than is usual for this provider."""
        if failures > FAILURES_USUAL * self._usual_failures:
            self._held_rounds += 1
            return False
        self._held_rounds = 0
        self._usual_failures += MEMORY * (failures - self._usual_failures)
        return True

    def _endure(self, failures: float, now_s: float) -> bool:
        """The errors stay: take back the growth that brought them; where none did, they are usual here."""
        if self._held_rounds < HELD_ROUNDS_MAX:
            return False
        self._held_rounds = 0
        if self.limit > self._reference:
            self._is_doubling = False
            self._hold(now_s, ceiling=self.limit - 0.5, near=self._reference, took_s=now_s - self._changed_s)
            return self._change(self._reference, now_s)
        self._usual_failures = max(self._usual_failures, failures)
        return False

    def _judge(self, lower: float, mean: float, now_s: float) -> bool:
        """Compare this limit with the reference: the larger one has to be worth it."""
        self._rounds += 1
        is_up = self.limit > self._reference
        if self._rounds == 1:
            is_clear = is_up and lower >= GAIN_CLEAR * self._reference_rate
            return self._keep(lower, now_s) if is_clear else False
        self._rates_sum += mean
        measured = self._rounds - 1
        if measured < JUDGED_ROUNDS or measured * self._round_calls < JUDGED_CALLS:
            return False
        mean = self._rates_sum / measured
        if is_up and mean >= GAIN_MIN * self._reference_rate:
            return self._keep(mean, now_s)
        is_smaller_as_good = not is_up and mean * LOSS_MAX >= self._reference_rate
        if is_smaller_as_good:
            self._note(mean)
            self._look_s = LOOK_S_MIN
        was_doubling, self._is_doubling = self._is_doubling, False
        ceiling = self._reference * APART - 0.5
        self._hold(now_s, ceiling=ceiling, near=self._reference, took_s=now_s - self._changed_s)
        # Looks alternate, and go on downwards for as long as nothing is lost by it. The first one after the
        # doubling goes up again: at small limits it may have been ended by chance.
        self._is_looking_down = (is_up and not was_doubling) or is_smaller_as_good
        return self._change(self._reference, now_s)

    def _keep(self, rate: float, now_s: float) -> bool:
        """The larger limit is worth it; go on."""
        self._note(rate)
        self._is_doubling = not self._was_refused
        return self._grow(now_s)

    def _note(self, rate: float) -> None:
        """The limit that is now held to be worth it, and its rate."""
        self._reference, self._reference_rate = self.limit, rate

    def _grow(self, now_s: float) -> bool:
        if self.limit > self._ceiling:
            # Beyond what was refused or was no use, and well: the way is free again.
            self._near = self._ceiling = math.inf
            self._look_s = LOOK_S_MIN
        if self.limit >= self._near and now_s < self._look_at_s:
            return False
        if self._is_looking_down:
            return self._change(self.limit / LOOK, now_s)
        target = max(self.limit + 1, math.ceil(self.limit * (2.0 if self._is_doubling else self._step) - ROUNDING))
        return self._change(min(target, self._near) if self.limit < self._near else target, now_s)


def _round_calls(limit: int) -> int:
    """Whole multiples of the limit: calls that all go at once also come back at once."""
    return limit * -(-ROUND_CALLS_MIN // limit)

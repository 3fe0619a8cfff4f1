"""How many tokens a request will use, before it is sent.

The input is guessed from the body's UTF-8 bytes and corrected by the running ratio of reported tokens
to bytes; the output by the running mean of what was reported, starting at the request's own cap where that is small.
Bytes, not characters: characters / 4 is wrong by 2 to 6 times for Thai and Chinese, whose characters
take three bytes each, and bytes are known without decoding.

The estimate aims at the mean, not above it. What is settled is exact whatever was estimated, so only
what is in flight can be wrong, and there errors to both sides cancel out.
"""

from collections.abc import Iterable

from batcher.core.records import Usage

TOKENS_PER_BYTE_START = 0.25
"""English on the tokenizers of 2025; Thai and Chinese come to 0.2 to 0.35."""

OUTPUT_START = 512
"""What an answer is taken for until one has been seen, where the request sets no cap."""

OUTPUT_START_MAX = 1024
"""The most that a cap makes of it: people set 4,096 for answers of one word, and a minute would pass in learning."""

MEMORY = 200
"""About so many replies are remembered: enough to be calm, short enough to follow a sorted input."""

START_WEIGHT = 1
"""The starting value counts as so many replies: the first replies to come are the shortest ones."""

EARLY = 8
"""So many replies are held to the wider of the two bounds."""

CLIP_EARLY, CLIP = 8.0, 4.0
"""How far one reply may lie from what was expected; further away it counts as this far."""


class TokenEstimator:
    """Estimates for one model at one provider, learned from its replies.

    Args:
        tokens_per_byte: Where the input's ratio starts.
        output_start: Where the output starts if the request has no cap.
    """

    def __init__(self, *, tokens_per_byte: float = TOKENS_PER_BYTE_START, output_start: int = OUTPUT_START) -> None:
        self._ratio = tokens_per_byte
        self._output_start = output_start
        self._output: float | None = None
        self._replies = 0
        # Sums, not a mean of ratios: the long bodies are the ones whose tokens matter.
        self._bytes_mean = 0.0
        self._tokens_mean = 0.0

    @property
    def tokens_per_byte(self) -> float:
        """Input tokens for each byte of a body, as learned so far."""
        return self._ratio

    def estimate(self, body_bytes: int, output_max: int | None = None) -> int:
        """Input and output tokens that a request is expected to use, at least 1.

        Args:
            body_bytes: Length of the request's body, or of the part of it that varies; the same in `learn`.
            output_max: The request's own cap (`max_tokens`), or None.
        """
        output = self._output
        if output is None:
            output = self._first_output(output_max)
        elif output_max is not None and output > output_max:
            output = output_max
        return int(self._ratio * body_bytes + output) + 1

    def learn(self, body_bytes: int, usage: Usage | None, output_max: int | None = None) -> None:
        """Correct the estimates by what a reply reported. A reply that reported nothing teaches nothing."""
        if usage is None or usage.input <= 0 or usage.output < 0 or body_bytes <= 0:
            return
        if self._replies == 0:
            self._bytes_mean, self._tokens_mean = float(body_bytes), self._ratio * body_bytes
            self._output = float(self._first_output(output_max))
        self._replies += 1
        clip = CLIP_EARLY if self._replies <= EARLY else CLIP
        expected = self._ratio * body_bytes
        tokens = min(max(usage.input, expected / clip), expected * clip)
        self._move_means(1, body_bytes, tokens, min(usage.output, self._output_clip(clip)))

    def learn_all(self, replies: Iterable[tuple[int, Usage]], output_max: int | None = None) -> None:
        """The same for several replies, each with its body's bytes: once much is known they move the means together."""
        low, high, output_high = self._ratio / CLIP, self._ratio * CLIP, self._output_clip(CLIP)
        is_early = self._replies < MEMORY
        count, bytes_sum, tokens_sum, output_sum = 0, 0, 0, 0
        for body_bytes, usage in replies:
            tokens, output = usage.input, usage.output
            if is_early or not (low * body_bytes <= tokens <= high * body_bytes and 0 <= output <= output_high):
                self.learn(body_bytes, usage, output_max)
            elif body_bytes and tokens:
                count += 1
                bytes_sum += body_bytes
                tokens_sum += tokens
                output_sum += output
        if count:
            self._replies += count
            self._move_means(count, bytes_sum / count, tokens_sum / count, output_sum / count)

    def _output_clip(self, clip: float) -> float:
        return max(self._output or 0.0, 16.0) * clip

    def _move_means(self, count: int, body_bytes: float, tokens: float, output: float) -> None:
        """By so many replies, of which these are the means."""
        weight = min(1.0, count / min(self._replies + START_WEIGHT, MEMORY))
        self._bytes_mean += weight * (body_bytes - self._bytes_mean)
        self._tokens_mean += weight * (tokens - self._tokens_mean)
        self._ratio = self._tokens_mean / self._bytes_mean
        output_mean = self._output or 0.0
        self._output = output_mean + weight * (output - output_mean)

    def _first_output(self, output_max: int | None) -> int:
        return self._output_start if output_max is None else min(output_max, OUTPUT_START_MAX)

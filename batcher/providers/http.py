"""One attempt: a request out, a reply or a failure of a known kind back."""

from collections.abc import Callable, Collection
from decimal import Decimal

import httpx2
import openai

from batcher.clock import Clock
from batcher.core.contracts import CallError
from batcher.core.records import Reply, Request, Spend, Usage
from batcher.providers.classify import FAILED_UNBILLED, classify, clean_words
from batcher.providers.exchange import Exchange
from batcher.providers.structured import Shape, StructuredSupport
from batcher.providers.wire import ChatWire, Completion, decode_completion

# With these the provider says why there is no text, and the checker knows what each means.
_TEXTLESS_REASONS = frozenset({"length", "content_filter"})


class HttpCaller:
    """Makes the one HTTP call of an attempt; everything else wraps it.

    Args:
        exchange: The client.
        wire: Bodies for this provider's model.
        structured: Shared by all keys of the provider: it learns whether `response_format` is taken.
        cost_usd: The price of a usage; None where the price, or the usage, is not known.
        provider: The name that replies carry.
        mask: Removes secrets from the provider's words.
        secrets: Keys that some provider may quote; an answer that holds one is masked, any other is untouched.
    """

    def __init__(
        self,
        exchange: Exchange,
        wire: ChatWire,
        structured: StructuredSupport,
        *,
        cost_usd: Callable[[Usage | None], Decimal | None],
        provider: str,
        clock: Clock,
        mask: Callable[[str], str],
        secrets: Collection[str] = (),
    ) -> None:
        self._exchange = exchange
        self._wire = wire
        self._structured = structured
        self._cost_usd = cost_usd
        self._provider = provider
        self._clock = clock
        self._mask = mask
        self._secrets = tuple(secrets)

    async def call(self, request: Request) -> Reply:
        """See `Caller`."""
        shape = self._structured.shape()
        started_s = self._clock.monotonic()
        try:
            body = await self._exchange.post(self._wire.body(request.messages, with_format=shape.with_format))
        except (openai.APIError, httpx2.HTTPError) as error:
            raise self._failure(error, shape) from error
        latency_ms = (self._clock.monotonic() - started_s) * 1000.0
        try:
            completion = decode_completion(body)
        except ValueError as error:
            raise CallError(str(error), kind="bad_response", status=200, spend=FAILED_UNBILLED) from error
        spend = Spend(1, completion.usage, self._cost_usd(completion.usage))
        fault = _fault(completion)
        if fault is not None:
            raise CallError(clean_words(fault, self._mask), kind="bad_response", status=200, spend=spend)
        self._structured.replied(shape)
        return Reply(
            self._without_secrets(completion.text) or "",
            spend,
            latency_ms,
            self._provider,
            completion.model,
            self._without_secrets(completion.reasoning),
            self._without_secrets(completion.refusal),
            completion.finish_reason,
            completion.system_fingerprint,
            shape.with_format,
        )

    def _without_secrets(self, text: str | None) -> str | None:
        if text is not None:
            for secret in self._secrets:
                if secret in text:
                    return self._mask(text)
        return text

    def _failure(self, error: Exception, shape: Shape) -> CallError:
        failure = classify(error, now_s=self._clock.now(), mask=self._mask)
        if not self._structured.failed(shape, status=failure.status, words=failure.message):
            return failure
        return CallError(
            failure.message, kind=failure.kind, status=failure.status, spend=failure.spend, is_reshaped=True
        )


def _fault(completion: Completion) -> str | None:
    """What is wrong with a 200 response that has no answer in it, or None."""
    if completion.error is not None:
        return f"200 with an error inside: {completion.error}"
    if not completion.has_choice:
        return "the response has no choices"
    if completion.text is None and completion.refusal is None and completion.finish_reason not in _TEXTLESS_REASONS:
        return "the response has null content"
    return None

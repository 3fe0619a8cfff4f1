"""One attempt: a request out, a reply or a failure of a known kind back."""

from collections.abc import Callable, Collection
from decimal import Decimal

from batcher.clock import Clock
from batcher.core.contracts import CallError
from batcher.core.records import Reply, Request, Spend, Usage
from batcher.errors import RefusedError, StoppedError
from batcher.providers.advice import Asked
from batcher.providers.classify import FAILED_UNBILLED, classify, clean_words, is_ours
from batcher.providers.contact import Contact, is_page
from batcher.providers.exchange import Exchange, Headed
from batcher.providers.failures import BrokenBody, StatusFailed, TransportFailed, received_body
from batcher.providers.structured import Shape, StructuredSupport
from batcher.providers.usage import find_usage
from batcher.providers.wire import ChatWire, Completion, decode_completion

# With these the provider says why there is no text, and the checker knows what each means.
_TEXTLESS_REASONS = frozenset({"length", "content_filter"})
# A mask reads a text letter by letter; in longer ones the known secrets alone are looked for.
_MASKED_LENGTH_MAX = 2**18
_MASK = "***"
OUT_OF_FILES = "this machine lets the process open no more files and connections (`ulimit -n`)"
OUT_OF_FILES_HINT = "raise the limit or lower limits.concurrency, then run the same command again"
_ONE_TOKEN_EACH = Usage(input=1, output=1)


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
        contact: Whether an API answers at the address at all; shared by all keys of the provider.
        on_response: Told of every response, those of error statuses too, before it is judged.
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
        contact: Contact | None = None,
        on_response: Callable[[Headed], None] | None = None,
    ) -> None:
        self._exchange = exchange
        self._wire = wire
        self._structured = structured
        self._cost_usd = cost_usd
        self._provider = provider
        self._clock = clock
        self._mask = mask
        self._secrets = tuple(secrets)
        self._contact = contact
        self._on_response = on_response
        self._asked = Asked(wire.model, wire.param_names, None if contact is None else contact.advice)

    async def call(self, request: Request) -> Reply:
        """See `Caller`.

        Raises:
            CallError: With the tokens and the cost of the call where the failed answer told them.
            RefusedError: What answers is a web page and no API; see `Contact`.
            StoppedError: This machine lets the process open no more connections.
        """
        shape = self._structured.shape()
        started_s = self._clock.monotonic()
        try:
            answered = await self._exchange.post(self._wire.body(request.messages, with_format=shape.with_format))
        except (StatusFailed, TransportFailed) as error:
            raise self._failure(error, shape) from error
        latency_ms = (self._clock.monotonic() - started_s) * 1000.0
        if self._on_response is not None:
            self._on_response(answered)
        try:
            completion = decode_completion(answered.body)
        except ValueError as error:
            raise self._unreadable(answered.body, str(error)) from error
        usage = completion.usage
        spend = Spend(1, usage, self._cost_usd(usage))
        if usage is not None and not usage.input and completion.error is None and self._cost_usd(_ONE_TOKEN_EACH):
            # Every prompt has a token: a gateway that sends zeros has counted nothing, and its bill is not known.
            spend = Spend(1, usage, None)
        if completion.text is None or completion.error is not None:
            fault = _fault(completion)
            if fault is not None:
                raise self._faulty(completion, fault, spend)
        if self._contact is not None:
            self._contact.answered()
        self._structured.replied(shape)
        return Reply(
            "" if completion.text is None else self._without_secrets(completion.text),
            spend,
            latency_ms,
            self._provider,
            completion.model,
            None if completion.reasoning is None else self._without_secrets(completion.reasoning),
            None if completion.refusal is None else self._without_secrets(completion.refusal),
            completion.finish_reason,
            completion.system_fingerprint,
            shape.with_format,
        )

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            if secret in text:
                return self._mask(text) if len(text) <= _MASKED_LENGTH_MAX else self._replace_secrets(text)
        return text

    def _replace_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        return text

    def _failure(self, error: StatusFailed | TransportFailed, shape: Shape) -> Exception:
        """What to raise for what the exchange raised."""
        if is_ours(error):
            return StoppedError(OUT_OF_FILES, hint=OUT_OF_FILES_HINT)
        body = received_body(error)
        if self._on_response is not None and isinstance(error, StatusFailed | BrokenBody):
            self._on_response(error)
        failure = classify(error, now_s=self._clock.now(), mask=self._mask, asked=self._asked)
        self._bill(failure, body)
        failure.is_reshaped = self._structured.failed(shape, status=failure.status, words=failure.message)
        failure.costs_try = failure.costs_try and not failure.is_reshaped
        return self._refusal(failure.status, body) or failure

    def _unreadable(self, body: bytes, words: str) -> Exception:
        """What to raise for a 200 that is no JSON."""
        # A page is no model's work; of anything else nobody can know.
        failure = CallError(
            words, kind="bad_response", status=200, spend=FAILED_UNBILLED, is_billing_unknown=not is_page(body),
            hint=self._asked.base_url_advice if is_page(body) else None,
        )  # fmt: skip
        self._bill(failure, body)
        return self._refusal(200, body) or failure

    def _faulty(self, completion: Completion, fault: str, spend: Spend) -> CallError:
        """What to raise for a 200 that is JSON and no answer."""
        is_unbilled = completion.error is not None and completion.usage is None
        if self._contact is not None:
            self._contact.answered()
        return CallError(
            clean_words(fault, self._mask),
            kind="bad_response",
            status=200,
            # An error in the clothes of a 200 is an error: it costs what it says, and else nothing.
            spend=FAILED_UNBILLED if is_unbilled else spend,
            is_billing_unknown=completion.usage is None and not is_unbilled,
        )

    def _bill(self, failure: CallError, body: bytes) -> None:
        usage = find_usage(body) if body else None
        if usage is not None:
            failure.spend = Spend(1, usage, self._cost_usd(usage))
            failure.is_billing_unknown = False

    def _refusal(self, status: int | None, body: bytes) -> RefusedError | None:
        if self._contact is None or status is None:
            return None
        refused = self._contact.failed(status, body)
        return (
            None if refused is None else RefusedError(self._mask(refused.message), hint=self._mask(refused.hint or ""))
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

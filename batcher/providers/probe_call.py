"""One small call of a probe: what came back, whatever it was, as one record.

Nothing is raised: to a probe, a refusal is an answer. The calls go through the configured `openai` client
(address, authentication, no redirects, its retries off) and are counted with their tokens, so that the
doctor can say what it cost. Two at once for a provider; a 429 is waited out where it is short.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
import msgspec
import openai

from batcher.clock import Clock
from batcher.core.contracts import CallError
from batcher.core.records import Usage
from batcher.providers.advice import NOTHING_ASKED, Asked
from batcher.providers.classify import classify, clean_words
from batcher.providers.contact import without_query
from batcher.providers.exchange import USER_AGENT
from batcher.providers.failures import StatusFailed, TransportFailed
from batcher.providers.network import DIRECT, Network
from batcher.providers.sdk_exchange import ConfiguredClient, exchange_failed
from batcher.providers.wire import Completion, decode_completion

CALL_TIMEOUT_S = 10.0
AT_ONCE = 2
RATE_WAIT_MAX_S = 5.0
"""A longer Retry-After is not waited for."""

RATE_TRIES = 3
_AGAIN_AFTER_S = 0.3
_CHAT = "/chat/completions"
_REFUSING = frozenset({400, 404, 405, 415, 422, 500, 501})


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of one call.

    `body` is the JSON object of a 200 (`completion` the same as a chat answer), else None; then `failure`
    says why. `sent_at_s` is wall time, `took_s` the round trip.
    """

    failure: CallError | None = None
    body: Mapping[str, Any] | None = None
    completion: Completion = field(default_factory=Completion)
    headers: Mapping[str, str] = field(default_factory=dict)
    sent_at_s: float = 0.0
    took_s: float = 0.0
    redirects_to: str | None = None

    @property
    def is_answer(self) -> bool:
        """Whether it is a chat answer."""
        return self.failure is None and self.completion.has_choice

    @property
    def choice(self) -> Mapping[str, Any]:
        """The first choice as it came; empty where there is none."""
        choices = (self.body or {}).get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        return first if isinstance(first, Mapping) else {}

    @property
    def is_refusal(self) -> bool:
        """Whether this is a "no" to what was asked, where the same call without it is answered.

        A crash (500, 501) counts: some servers crash on fields that they do not know, and `ask` asked twice.
        """
        failure = self.failure
        return failure is not None and failure.status in _REFUSING and failure.kind != "refused"

    @property
    def words(self) -> str | None:
        """The provider's words where the call failed."""
        return None if self.failure is None else self.failure.message


@dataclass(slots=True)
class Tally:
    """What probing has used: calls, tokens, and how many answers did not say."""

    calls: int = 0
    usage: Usage = field(default_factory=Usage)
    unreported: int = 0


class ProbeClient:
    """Asks one address by one key.

    Args:
        base_url: The address.
        api_key: None where the provider wants none.
        room: Shared by all that ask this provider.
        tally: Shared by the whole probing.
        timeout_s: For each call, from connecting to the last byte.
        clock: Tells the time and waits out a 429.
        mask: Removes secrets from the provider's words.
        asked: What the job asks for, so that a hint can name it.
        network: The way to the address.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        room: asyncio.Semaphore,
        tally: Tally,
        timeout_s: float,
        clock: Clock,
        mask: Callable[[str], str],
        asked: Asked = NOTHING_ASKED,
        network: Network = DIRECT,
    ) -> None:
        self._client = ConfiguredClient(base_url=base_url, api_key=api_key, timeout_s=timeout_s, network=network)
        authorization: str | openai.Omit = openai.Omit() if api_key is None else f"Bearer {api_key}"
        self._headers: dict[str, str | openai.Omit] = {"authorization": authorization, "user-agent": USER_AGENT}
        self._room, self._tally, self._timeout_s = room, tally, timeout_s
        self._clock, self._mask, self._asked = clock, network.masked(mask), asked

    async def chat(self, body: Mapping[str, Any]) -> Heard:
        """One chat completion."""
        return await self.ask(_CHAT, body)

    async def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Heard:
        """What the provider says: a GET without a body, else a POST.

        A short 429 is waited out; a server that failed is asked once more.
        """
        refusals = crashes = 0
        while True:
            async with self._room:
                heard = await self._once(path, body)
            failure = heard.failure
            if failure is None:
                return heard
            wait_s = failure.retry_after_s or _AGAIN_AFTER_S
            if failure.kind == "rate_limited":
                refusals += 1
                if refusals >= RATE_TRIES or wait_s > RATE_WAIT_MAX_S:
                    return heard
            elif failure.kind in ("server", "connection", "bad_response") and failure.status != 200 and not crashes:
                crashes += 1
                wait_s = min(wait_s, RATE_WAIT_MAX_S)
            else:
                return heard
            await self._clock.sleep(wait_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _once(self, path: str, body: Mapping[str, Any] | None) -> Heard:
        self._tally.calls += 1
        sent_at_s, started_s = self._clock.now(), self._clock.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._send(path, body)
            if response.status_code != 200:
                raise StatusFailed(response.status_code, response.headers, response.content)
        except (StatusFailed, TransportFailed) as error:
            return self._failed(error, sent_at_s, self._clock.monotonic() - started_s)
        except (openai.APIError, httpx2.HTTPError, TimeoutError) as error:
            return self._failed(exchange_failed(error), sent_at_s, self._clock.monotonic() - started_s)
        took_s = self._clock.monotonic() - started_s
        headers = dict(response.headers)
        try:
            completion = decode_completion(response.content) if body is not None else Completion()
            decoded = _decode_object(response.content)
        except ValueError as error:
            fault = CallError(str(error), kind="bad_response", status=200)
            return Heard(fault, headers=headers, sent_at_s=sent_at_s, took_s=took_s)
        if body is not None:
            self._count(completion)
        failure = None
        if completion.error is not None:
            words = clean_words(f"200 with an error inside: {completion.error}", self._mask)
            failure = CallError(words, kind="bad_response", status=200)
        return Heard(failure, decoded, completion, headers, sent_at_s, took_s)

    async def _send(self, path: str, body: Mapping[str, Any] | None) -> httpx2.Response:
        headers = {**self._headers, "accept": "application/json"}
        if body is None:
            return await self._client.get(path, cast_to=httpx2.Response, options={"headers": headers})
        return await self._client.post(
            path,
            cast_to=httpx2.Response,
            content=msgspec.json.encode(body),
            options={"headers": {**headers, "content-type": "application/json"}},
        )

    def _failed(self, error: StatusFailed | TransportFailed, sent_at_s: float, took_s: float) -> Heard:
        failure = classify(error, now_s=self._clock.now(), mask=self._mask, asked=self._asked)
        headers: Mapping[str, str] = error.headers if isinstance(error, StatusFailed) else {}
        target = headers.get("location") if failure.status in range(300, 400) else None
        return Heard(
            failure,
            headers=dict(headers),
            sent_at_s=sent_at_s,
            took_s=took_s,
            redirects_to=None if target is None else clean_words(without_query(target), self._mask),
        )

    def _count(self, completion: Completion) -> None:
        if completion.usage is None:
            self._tally.unreported += 1
        else:
            self._tally.usage += completion.usage


def _decode_object(content: bytes) -> Mapping[str, Any]:
    try:
        decoded = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("the response is not JSON") from error
    # Some list their models without the object around it.
    return decoded if isinstance(decoded, dict) else {"data": decoded}

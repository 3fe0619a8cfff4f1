"""What a provider can do, one ability a function: a call or two that show it, and what they show.

Each compares with a call that was answered: what is refused only with the field is refused for the field.
Whether something *works* is read from the answer, never from its status: a schema that was taken and not
kept, a limit that was passed, log-probabilities that are not there are findings of their own.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from batcher.providers.probe_call import Heard, ProbeClient
from batcher.runs.findings import Finding

LIMIT_TOKENS = 16
"""What the probes of the token limit allow; some providers refuse less."""

SCHEMA_TOKENS = 200
"""Enough for a short thought before the answer, where the provider cannot switch it off."""

AGREE_WITHIN = 0.1
"""Two log-probabilities of one token, in nats: servers that batch differ in the last digits."""

# More than the limit both as an echo and as an answer.
LONG_QUESTION = (
    "Count from one to forty in words, separated by spaces, and write nothing else: one two three four five six "
    "seven eight nine ten eleven twelve and so on up to forty."
)
_SHORT_QUESTION = "Say OK."
_RANDOM_QUESTION = "Make up a random word of ten letters that nobody has ever used, and a random number of six digits."
_COLOUR_QUESTION = "What is the colour of the sky at noon?"
# Neither is what anybody would answer unasked.
_COLOURS = ("violet", "ochre")
_COLOUR_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "colour",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"colour": {"type": "string", "enum": list(_COLOURS)}},
            "required": ["colour"],
            "additionalProperties": False,
        },
    },
}
_TEXT = "The quick brown fox jumps over the lazy"
_CUT_AT_LIMIT = ("could not finish the message", "output limit was reached")


def question(text: str) -> dict[str, Any]:
    """The messages of one question."""
    return {"messages": [{"role": "user", "content": text}]}


def judge_limit(heard: Heard) -> Finding:
    """Whether an answer to `LONG_QUESTION` kept to `LIMIT_TOKENS`."""
    if heard.failure is not None:
        if any(words in heard.failure.message.lower() for words in _CUT_AT_LIMIT):
            # Reasoning models that may not think to the end say so with a 400.
            return Finding("yes")
        return Finding("refused" if heard.is_refusal else "unknown", heard.words)
    completion = heard.completion
    output = completion.usage.output if completion.usage is not None else None
    if output is not None and output > LIMIT_TOKENS:
        return Finding("ignored", f"{output} tokens came where {LIMIT_TOKENS} were allowed")
    words = len((completion.text or "").split())
    if words > LIMIT_TOKENS:
        return Finding("ignored", f"{words} words came where {LIMIT_TOKENS} tokens were allowed")
    if completion.finish_reason == "length" or output == LIMIT_TOKENS:
        return Finding("yes")
    return Finding("accepted", "the answer was too short to tell")


def judge_usage(heard: Heard) -> Finding:
    """Whether an answer says how many tokens it took, in numbers that can be."""
    said = (heard.body or {}).get("usage")
    if not said:
        return Finding("missing")
    usage = heard.completion.usage
    if usage is None:
        return Finding("implausible", "usage lacks prompt_tokens or completion_tokens, or they are no counts")
    if usage.input == 0:
        return Finding("implausible", "0 prompt tokens")
    if usage.output == 0 and heard.completion.text:
        return Finding("implausible", "0 completion tokens, and a text")
    if usage.cached > usage.input or usage.reasoning > usage.output:
        return Finding("implausible", "a part of the tokens is larger than the whole")
    return Finding("yes")


async def probe_logprobs(client: ProbeClient, base: Mapping[str, Any]) -> Finding:
    """Log-probabilities of the tokens that were generated."""
    heard = await client.chat({**base, **question(_SHORT_QUESTION), "logprobs": True, "top_logprobs": 1})
    if heard.failure is not None:
        return _no(heard)
    if list(_generated(heard.choice.get("logprobs"))):
        return Finding("yes")
    return Finding("ignored", "taken, and the answer has none")


async def probe_prompt_logprobs(client: ProbeClient, base: Mapping[str, Any], model: str) -> Finding:
    """Log-probabilities of the prompt's own tokens, which perplexity needs.

    Believed only after a check, since some servers return those of the neighbouring token: one token is
    generated after a text, and then given with it; both times its log-probability must be the same.
    """
    ask = {"model": model, "max_tokens": 1, "temperature": 0}
    first = await client.ask("/completions", {**ask, "prompt": _TEXT, "logprobs": 1})
    token, truth = next(_generated(first.choice.get("logprobs")), (None, None))
    longer = _TEXT + (token or " dog")
    if first.failure is None:
        for way in ({"echo": True, "logprobs": 1}, {"prompt_logprobs": 1}):
            heard = await client.ask("/completions", {**ask, "prompt": longer, **way})
            scored = _last_of_prompt(heard, longer)
            if scored is not None:
                return _judge_prompt_logprobs(next(iter(way)), scored, truth)
    heard = await client.chat({**base, **question(_SHORT_QUESTION), "prompt_logprobs": 1})
    if heard.failure is None and _prompt_entries(heard):
        return Finding("unverified", "prompt_logprobs in chat, which could not be checked")
    if first.failure is not None and not first.is_refusal:
        return Finding("unknown", first.words)
    return Finding("ignored" if heard.failure is None else _no(heard).state, heard.words)


async def probe_json_schema(client: ProbeClient, base: Mapping[str, Any], limit: str | None) -> Finding:
    """Whether the answer keeps a schema that no model would keep by chance."""
    roomy = {**base, **({} if limit is None else {limit: SCHEMA_TOKENS})}
    heard = await client.chat({**roomy, **question(_COLOUR_QUESTION), "response_format": _COLOUR_FORMAT})
    if heard.failure is not None:
        return _no(heard)
    text = (heard.completion.text or "").rpartition("</think>")[2].strip()
    if not text and heard.completion.finish_reason == "length":
        return Finding("unknown", f"no answer within {SCHEMA_TOKENS} tokens")
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return Finding("ignored", "taken, and the answer is not JSON")
    is_kept = isinstance(answer, dict) and answer.keys() == {"colour"} and answer["colour"] in _COLOURS
    return Finding("yes") if is_kept else Finding("ignored", "taken, and the answer is JSON that breaks the schema")


async def probe_seed(client: ProbeClient, base: Mapping[str, Any]) -> Finding:
    """Whether the same seed gives the same answer where chance has its way."""
    texts = []
    for seed in (7, 7, 8):
        heard = await client.chat({**base, **question(_RANDOM_QUESTION), "temperature": 1, "seed": seed})
        if heard.failure is not None:
            return _no(heard)
        texts.append(heard.completion.text)
    if not texts[0]:
        return Finding("accepted", "the answers were empty")
    if texts[0] != texts[1]:
        return Finding("accepted", "two answers with one seed differ")
    return Finding("yes", "with another seed too" if texts[2] == texts[0] else None)


def _no(heard: Heard) -> Finding:
    return Finding("refused" if heard.is_refusal else "unknown", heard.words)


def _judge_prompt_logprobs(way: str, scored: float, truth: float | None) -> Finding:
    if truth is None:
        return Finding("unverified", f"by {way}; there was no generated token to check them with")
    if abs(scored - truth) <= AGREE_WITHIN:
        return Finding("yes", f"by {way}, and they agree with those of a generated token")
    return Finding(
        "untrustworthy", f"by {way}: {scored:.2f} for a token that was generated with {truth:.2f}; off by one position?"
    )


def _generated(logprobs: Any) -> Iterator[tuple[str, float]]:
    """Tokens with their log-probabilities, from the `content` list of chats or the parallel lists of completions."""
    if not isinstance(logprobs, Mapping):
        return
    content, tokens, values = (logprobs.get(name) for name in ("content", "tokens", "token_logprobs"))
    if isinstance(content, Sequence):
        pairs = [(part.get("token"), part.get("logprob")) for part in content if isinstance(part, Mapping)]
    elif isinstance(tokens, Sequence) and isinstance(values, Sequence):
        pairs = list(zip(tokens, values, strict=False))
    else:
        return
    for token, value in pairs:
        if isinstance(token, str) and _is_logprob(value):
            yield token, float(value)


def _last_of_prompt(heard: Heard, prompt: str) -> float | None:
    """The log-probability of the prompt's last token, or None where the answer has none of the prompt."""
    if heard.failure is not None:
        return None
    entries = _prompt_entries(heard)
    if entries:
        return _chosen(entries[-1], prompt)
    logprobs = heard.choice.get("logprobs")
    tokens = logprobs.get("tokens") if isinstance(logprobs, Mapping) else None
    values = logprobs.get("token_logprobs") if isinstance(logprobs, Mapping) else None
    if not (isinstance(tokens, list) and isinstance(values, list)):
        return None
    read = ""
    for token, value in zip(tokens, values, strict=False):
        read += token if isinstance(token, str) else ""
        # Some begin with a mark of the text's start, some with a space.
        if read.lstrip().removeprefix("<s>").lstrip() == prompt:
            return float(value) if _is_logprob(value) else None
    return None


def _prompt_entries(heard: Heard) -> list[Any]:
    """What vLLM calls `prompt_logprobs`: for each token of the prompt (but the first) the likely ones, by id."""
    entries = heard.choice.get("prompt_logprobs") or (heard.body or {}).get("prompt_logprobs")
    return entries if isinstance(entries, list) and isinstance(entries[-1] if entries else None, Mapping) else []


def _chosen(entry: Mapping[str, Any], prompt: str) -> float | None:
    """Of the likely tokens at the prompt's end the one that stands there: the longest that it ends with."""
    found = [
        (len(str(part.get("decoded_token"))), float(part["logprob"]))
        for part in entry.values()
        if isinstance(part, Mapping)
        and _is_logprob(part.get("logprob"))
        and prompt.endswith(str(part.get("decoded_token")))
    ]
    return max(found)[1] if found else None


def _is_logprob(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value <= 1e-6

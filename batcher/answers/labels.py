"""One of the job's labels as the answer.

The label is looked for where models put it: alone, in JSON, behind Markdown and quotes, in a sentence.
What is returned is always the job's own spelling. The checker would rather ask again than guess: two
labels, a negation beside one ("not billing"), or a cut that could have gone on are no answer.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec

from batcher.answers.finder import SEARCHED_CHARS_MAX, LabelFinder, key_of
from batcher.answers.text import CUT_REASONS, FILTER_REASONS, ReasoningSplit, SplitText, refusal, truncation
from batcher.core.records import Invalid, Repaired, Reply, Request, Valid, Verdict
from batcher.errors import JobError

LABELS_SHOWN_MAX = 20
LABELS_ASKED_MAX = 200

_JSON_FIELD = "label"
_STOPPED_SHORT = CUT_REASONS | FILTER_REASONS
_FENCE = "```"
_IN_SENTENCE = "label found inside a sentence"
_IN_FIELDS = "label found in one of several JSON fields"

_decode_json = msgspec.json.Decoder().decode


def structured_format(labels: Sequence[str]) -> dict[str, Any]:
    """The `response_format` that lets a provider give nothing but one of the labels: OpenAI's `json_schema`, strict."""
    schema = {
        "type": "object",
        "properties": {_JSON_FIELD: {"type": "string", "enum": list(labels)}},
        "required": [_JSON_FIELD],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "label", "strict": True, "schema": schema}}


class LabelChecker:
    """Exactly one of the labels; keeps `core.contracts.Checker`.

    | reply | verdict |
    |---|---|
    | `billing`, `**Billing**.`, `「billing」`, `{"label": "billing"}` also in a fence | `Valid` |
    | `I would say billing` | `Repaired`, the label being the only one |
    | `billing or technical`, `not billing`, `no idea` | `Invalid`, asked again |
    | cut: `billing` alone is fine; with no label, or a label that might have gone on | `Invalid`, truncated |

    Args:
        labels: As the job spells them.
        reasoning_tag: See `ReasoningSplit`.

    Raises:
        JobError: No label, an empty one, or two that differ only in case, width or separators.
    """

    def __init__(self, labels: Sequence[str], reasoning_tag: str | None = None) -> None:
        self._label_of_key = _labels_by_key(labels)
        # As models write them under our schema, most often: to find one of these is a tenth of reading its JSON.
        self._exact = {json.dumps({_JSON_FIELD: label}, ensure_ascii=False): label for label in labels}
        self._exact |= {msgspec.json.encode({_JSON_FIELD: label}).decode(): label for label in labels}
        self._exact |= {label: label for label in labels}
        self._finder = LabelFinder(labels)
        self._reasoning = ReasoningSplit(reasoning_tag)
        self._exact = {text: label for text, label in self._exact.items() if not self._reasoning.is_in(text)}
        # In sorted order, a key that begins another stands right before one that it begins.
        keys = pairwise(sorted(self._label_of_key))
        self._may_go_on = {self._label_of_key[key] for key, following in keys if following.startswith(key)}
        shown = ", ".join(labels[:LABELS_SHOWN_MAX])
        more = f" and {len(labels) - LABELS_SHOWN_MAX} more" if len(labels) > LABELS_SHOWN_MAX else ""
        self._expected = f"expected one of: {shown}{more}"
        named = ", ".join(labels) if len(labels) <= LABELS_ASKED_MAX else "the labels you were given"
        self._again = f"Your answer is not one of the labels. Answer with exactly one of: {named} and nothing else."

    def check(self, request: Request, reply: Reply) -> Verdict:  # noqa: ARG002
        """See `Checker`."""
        label = self._exact.get(reply.text)
        if label is not None and not reply.refusal and reply.finish_reason not in _STOPPED_SHORT:
            return Valid(reply.text, label, reply.reasoning)
        split = self._reasoning.split(reply)
        if (refused := refusal(reply, split)) is not None:
            return refused
        is_cut = reply.finish_reason in CUT_REASONS
        label = self._exact.get(split.answer)
        if label is not None and not is_cut:  # behind the reasoning that was split off
            return Valid(split.answer, label, split.reasoning)
        verdict = self._judge(split)
        if is_cut and (not isinstance(verdict, Valid) or verdict.label in self._may_go_on):
            return truncation(split)
        return verdict

    def _judge(self, split: SplitText) -> Verdict:
        text = split.answer.strip()
        if not text:
            return self._invalid(split, "the answer is empty")
        if text.startswith(("{", '"', _FENCE)):
            try:
                decoded = _decode_json(_without_fence(text))
            except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
                pass
            else:
                if isinstance(decoded, dict):
                    return self._judge_object(split, decoded)
                text = decoded if isinstance(decoded, str) else text
        return self._judge_text(split, text)

    def _judge_object(self, split: SplitText, fields: dict[str, Any]) -> Verdict:
        texts = [value for value in fields.values() if isinstance(value, str)]
        if _JSON_FIELD in fields:
            value = fields[_JSON_FIELD]
            return self._judge_text(split, value if isinstance(value, str) else msgspec.json.encode(value).decode())
        if len(texts) == 1:
            return self._judge_text(split, texts[0])
        named = {label for text in texts if (label := self._label_of_key.get(key_of(text))) is not None}
        if len(named) == 1:
            return Repaired(split.answer, _IN_FIELDS, named.pop(), split.reasoning)
        return self._invalid(split, "several labels in the answer" if named else "no label in the answer")

    def _judge_text(self, split: SplitText, text: str) -> Verdict:
        if len(text) > SEARCHED_CHARS_MAX:
            return self._invalid(split, "the answer is far longer than a label")
        label = self._label_of_key.get(key_of(text))
        if label is not None:
            return Valid(split.answer, label, split.reasoning)
        found = self._finder.find(text)
        if not found.keys:
            return self._invalid(split, "no label in the answer")
        if len(found.keys) > 1:
            return self._invalid(split, "several labels in the answer")
        if found.is_negated:
            return self._invalid(split, "a negation stands beside the label in the answer")
        label = self._label_of_key[next(iter(found.keys))]
        if found.is_alone:
            return Valid(split.answer, label, split.reasoning)
        return Repaired(split.answer, _IN_SENTENCE, label, split.reasoning)

    def _invalid(self, split: SplitText, fault: str) -> Invalid:
        return Invalid(split.answer, f"{fault}; {self._expected}", again=self._again, reasoning=split.reasoning)


def _labels_by_key(labels: Sequence[str]) -> dict[str, str]:
    if not labels:
        raise JobError("answer.labels is empty; name the labels, or remove the line to take any text")
    by_key: dict[str, str] = {}
    for label in labels:
        key = key_of(label)
        if not key:
            raise JobError(f"answer.labels holds {label!r}, which has no visible character; remove it")
        if key in by_key:
            raise JobError(
                f"answer.labels: {by_key[key]!r} and {label!r} differ too little to be told apart; rename one"
            )
        by_key[key] = label
    return by_key


def _without_fence(text: str) -> str:
    """The inside of a Markdown code fence, or the text itself where there is none."""
    if not (text.startswith(_FENCE) and text.endswith(_FENCE)):
        return text
    _language, _, inside = text.removesuffix(_FENCE).partition("\n")
    return inside

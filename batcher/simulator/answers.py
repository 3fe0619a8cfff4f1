"""What the simulated model says: a pure function of the seed and the messages.

The same question gets the same answer however often, in whatever order and by whichever key it is asked.
Where the request carries a JSON schema and the simulator takes it, the answer is JSON that keeps it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import xxhash

from batcher.simulator.chance import draw
from batcher.simulator.schemas import conform
from batcher.simulator.tokens import last_user_text

AnswerMode = Literal["echo", "label", "template", "lorem", "truth"]
ANSWER_MODES: Mapping[AnswerMode, str] = {
    "echo": "the text of the last user message",
    "label": "one of the labels, by the hash of the messages; of the schema's enum where one is sent",
    "template": "a text in which {text}, {model} and {digest} are filled in",
    "lorem": "so many words of Latin, by the hash of the messages",
    "truth": "from a .jsonl file of {text, answer}: by the whole last user message, else by its last known line",
}
OFF_ANSWER = "Hard to say; it might be one thing or another, and I would rather not choose."

_LOREM = (
    "lorem",
    "ipsum",
    "dolor",
    "sit",
    "amet",
    "consectetur",
    "adipiscing",
    "elit",
    "sed",
    "do",
    "eiusmod",
    "tempor",
    "incididunt",
    "ut",
    "labore",
    "et",
)
_PLACEHOLDER = re.compile(r"\{(text|model|digest)\}")


@dataclass(frozen=True, slots=True)
class AnswerRule:
    """How answers are made. `truth` maps a question (or a line of it) to its answer."""

    mode: AnswerMode = "echo"
    labels: tuple[str, ...] = ("positive", "negative", "neutral")
    template: str = "{text}"
    words: int = 20
    truth: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Question:
    """What the answer depends on."""

    seed: int
    model: str
    digest: str
    text: str


def ask(seed: int, model: str, messages: Sequence[Mapping[str, Any]]) -> Question:
    """The question that these messages put."""
    return Question(seed, model, messages_digest(messages), last_user_text(messages))


def messages_digest(messages: Sequence[Mapping[str, Any]]) -> str:
    """32 hex digits that name these messages in the witness; spacing and key order make no difference."""
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode(messages, order="sorted"))


def answer_text(rule: AnswerRule, question: Question, schema: Mapping[str, Any] | None = None) -> str | None:
    """The answer, or None when the truth file has none for this question.

    Args:
        rule: How answers are made.
        question: What is asked.
        schema: The JSON schema the answer has to keep, or None for free text.
    """
    text = _free_text(rule, question)
    if text is None or schema is None:
        return text
    value = conform(schema, text, lambda path: draw(question.seed, f"answer{path}", question.digest))
    return msgspec.json.encode(value).decode()


def _free_text(rule: AnswerRule, question: Question) -> str | None:
    if rule.mode == "echo":
        return question.text
    if rule.mode == "label":
        return str(_pick(rule.labels, question, "$"))
    if rule.mode == "lorem":
        start = int(draw(question.seed, "lorem", question.digest) * len(_LOREM))
        return " ".join(_LOREM[(start + index) % len(_LOREM)] for index in range(rule.words))
    if rule.mode == "template":
        values = {"text": question.text, "model": question.model, "digest": question.digest}
        # One pass: a question that holds {model} itself stays as it is.
        return _PLACEHOLDER.sub(lambda match: values[match[1]], rule.template)
    if question.text in rule.truth:
        return rule.truth[question.text]
    lines = (line.strip() for line in reversed(question.text.splitlines()))
    return next((rule.truth[line] for line in lines if line in rule.truth), None)


def _pick(choices: Sequence[Any], question: Question, path: str) -> Any:
    return choices[int(draw(question.seed, f"answer{path}", question.digest) * len(choices))]

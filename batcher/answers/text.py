"""Free text as the answer, and what every checker asks first: is it refused, is it cut, where does reasoning end?"""

import re

import msgspec

from batcher.core.records import Invalid, Reply, Request, Valid
from batcher.errors import JobError

CUT_REASONS = frozenset({"length", "max_tokens", "model_length"})
"""`finish_reason` of an answer that hit a limit: OpenAI's word, Anthropic's and Mistral's."""

FILTER_REASONS = frozenset({"content_filter"})

_REFUSAL_CHARS_SHOWN = 200
_CUT = "the answer was cut at the output limit; raise params.max_tokens"
_CUT_IN_REASONING = "the output limit was used up by reasoning; raise params.max_tokens"


class SplitText(msgspec.Struct, frozen=True, gc=False):
    """A reply's text in two. `is_open` says that the reasoning never ended."""

    answer: str
    reasoning: str | None
    is_open: bool = False


class ReasoningSplit:
    """Takes the reasoning out of a reply: what stands between `<think>` and `</think>`.

    The rest is the answer, its outer white space removed. A reply without the tags stays as it is, byte
    for byte. Some servers send the closing tag alone: what stands before it is reasoning. A tag without
    its end makes everything after it reasoning. The provider's own reasoning field is kept, and comes first.

    Args:
        tag: The opening tag, `<think>` or `[THINK]`; the closing one has `/` after its first character.
            None splits nothing.

    Raises:
        JobError: The tag is too short to be one.
    """

    def __init__(self, tag: str | None) -> None:
        if tag is not None and (len(tag) < 3 or tag[1] == "/" or tag != tag.strip()):
            raise JobError(f"prompt.reasoning is {tag!r}; write the opening tag, such as <think>")
        self._tags: re.Pattern[str] | None = None
        if tag is not None:
            self._open, self._close = tag, f"{tag[0]}/{tag[1:]}"
            self._tags = re.compile(f"({re.escape(self._open)}|{re.escape(self._close)})")

    def is_in(self, text: str) -> bool:
        """Whether a tag stands in the text."""
        return self._tags is not None and self._tags.search(text) is not None

    def split(self, reply: Reply) -> SplitText:
        """The reply's text and reasoning."""
        if self._tags is None or self._tags.search(reply.text) is None:
            return SplitText(reply.text, reply.reasoning)
        answers: list[str] = []
        thoughts: list[str] = [reply.reasoning or ""]
        is_open = False
        for piece in self._tags.split(reply.text):
            if piece == self._open:
                is_open = True
            elif piece != self._close:
                (thoughts if is_open else answers).append(piece)
            elif is_open:
                is_open = False
            else:
                thoughts += answers
                answers.clear()
        reasoning = "\n\n".join(thought.strip() for thought in thoughts if thought.strip())
        return SplitText("".join(answers).strip(), reasoning or None, is_open)


class TextChecker:
    """Any text is an answer, also an empty one (the success rule counts those); a cut or refused one is not.

    Keeps `core.contracts.Checker`.
    """

    def __init__(self, reasoning_tag: str | None = None) -> None:
        self._reasoning = ReasoningSplit(reasoning_tag)

    def check(self, request: Request, reply: Reply) -> Valid | Invalid:  # noqa: ARG002
        """See `Checker`."""
        split = self._reasoning.split(reply)
        if (refused := refusal(reply, split)) is not None:
            return refused
        if reply.finish_reason in CUT_REASONS:
            return truncation(split)
        return Valid(split.answer, reasoning=split.reasoning)


def refusal(reply: Reply, split: SplitText) -> Invalid | None:
    """The verdict on a reply that a content filter stopped or the model refused, else None."""
    if reply.refusal:
        words = " ".join(reply.refusal.split())
        shown = words if len(words) <= _REFUSAL_CHARS_SHOWN else words[: _REFUSAL_CHARS_SHOWN - 1] + "…"
        return Invalid(split.answer, f"the model refused: {shown}", kind="refused", reasoning=split.reasoning)
    if reply.finish_reason in FILTER_REASONS:
        reason = "the provider's content filter stopped the answer"
        return Invalid(split.answer, reason, kind="refused", reasoning=split.reasoning)
    return None


def truncation(split: SplitText) -> Invalid:
    """The verdict on a reply that was cut where the rest is needed; the reason names the fix."""
    reason = _CUT_IN_REASONING if split.is_open else _CUT
    return Invalid(split.answer, reason, kind="truncated", reasoning=split.reasoning)

"""Free text, reasoning, refusals and cuts."""

import time

import pytest

from batcher.answers.text import ReasoningSplit, TextChecker
from batcher.core.records import NOTHING_SPENT, Invalid, Reply, Request, Valid
from batcher.errors import JobError

REQUEST = Request(0, b"[]")


def reply(text, **fields):
    return Reply(text, NOTHING_SPENT, 1.0, "p", **fields)


def check(text, tag=None, **fields):
    return TextChecker(tag).check(REQUEST, reply(text, **fields))


@pytest.mark.parametrize("text", ["", " ", "\n สวัสดี 🙂\r\n", '{"label": 1}', "<think>a</think>b", "\x00"])
def test_any_text_is_an_answer_as_it_is(text: str) -> None:
    """Without a reasoning tag nothing is trimmed, split or interpreted."""
    assert check(text, finish_reason="stop") == Valid(text)


@pytest.mark.parametrize("finish_reason", ["length", "max_tokens", "model_length"])
def test_a_cut_answer_names_the_fix_and_keeps_its_text(finish_reason: str) -> None:
    verdict = check("half an ans", finish_reason=finish_reason)

    expected = "the answer was cut at the output limit; raise params.max_tokens"
    assert verdict == Invalid("half an ans", expected, kind="truncated")


def test_a_content_filter_is_a_refusal() -> None:
    assert check("par", finish_reason="content_filter") == Invalid(
        "par", "the provider's content filter stopped the answer", kind="refused"
    )


def test_a_refusal_is_in_the_providers_words_shortened() -> None:
    verdict = check("", refusal="I cannot\n help " + "x" * 500, finish_reason="stop")

    assert isinstance(verdict, Invalid)
    assert verdict.kind == "refused"
    assert verdict.reason.startswith("the model refused: I cannot help xxx")
    assert len(verdict.reason) == len("the model refused: ") + 200
    assert verdict.again is None


def test_an_empty_refusal_is_none() -> None:
    """Some servers send `"refusal": ""` with every answer."""
    assert check("yes", refusal="") == Valid("yes")


@pytest.mark.parametrize(
    ("text", "answer", "reasoning"),
    [
        ("<think>why</think>\n\nbecause", "because", "why"),
        ("why\n</think>\nbecause", "because", "why"),
        ("Well. <think>why</think> because", "Well.  because", "why"),
        ("<think>a</think> x <think>b</think> y", "x  y", "a\n\nb"),
        ("<think>a<think>b</think>c</think>d", "d", "a\n\nb\n\nc"),
        ("<think></think>x", "x", None),
        ("<think>\n\n</think>x", "x", None),
        ("  untouched ", "  untouched ", None),
        ("<thinking>x", "<thinking>x", None),
    ],
)
def test_reasoning_is_split_from_the_answer(text: str, answer: str, reasoning: str | None) -> None:
    assert check(text, "<think>") == Valid(answer, reasoning=reasoning)


def test_other_tags_close_like_think() -> None:
    assert check("[THINK]a[/THINK]b", "[THINK]") == Valid("b", reasoning="a")


def test_the_providers_own_reasoning_is_kept() -> None:
    assert check("b", "<think>", reasoning="own") == Valid("b", reasoning="own")
    assert check("<think>a</think>b", "<think>", reasoning="own") == Valid("b", reasoning="own\n\na")
    assert check("b", None, reasoning="own") == Valid("b", reasoning="own")


def test_reasoning_that_uses_up_the_limit_says_so() -> None:
    verdict = check("<think>and then", "<think>", finish_reason="length")

    expected = "the output limit was used up by reasoning; raise params.max_tokens"
    assert verdict == Invalid("", expected, kind="truncated", reasoning="and then")


def test_reasoning_without_an_end_leaves_an_empty_answer() -> None:
    assert check("<think>and then", "<think>", finish_reason="stop") == Valid("", reasoning="and then")


@pytest.mark.parametrize("tag", ["", "<", "a", "</think>", " <think>"])
def test_what_is_no_opening_tag_is_refused(tag: str) -> None:
    with pytest.raises(JobError, match=r"prompt\.reasoning"):
        TextChecker(tag)


@pytest.mark.parametrize(
    "text", ["<think>" * 140_000, "</think>" * 140_000, "<think></think>" * 70_000, "<" * 1_000_000]
)
def test_a_megabyte_of_tags_takes_no_time(text: str) -> None:
    """Linear: the loop is never blocked by what a model repeats."""
    started = time.process_time()
    ReasoningSplit("<think>").split(reply(text))
    assert time.process_time() - started < 1.0

"""What every checker promises; a new one joins by naming itself at the end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.answers.labels import LabelChecker
from batcher.answers.text import TextChecker
from batcher.core.contracts import Checker
from batcher.core.records import NOTHING_SPENT, Invalid, Repaired, Reply, Request, Valid

REQUEST = Request(0, b"[]")
FINISH_REASONS = st.sampled_from([None, "stop", "length", "content_filter", "tool_calls", ""])
PIECES = ["billing", "technical", "not ", "<think>", "</think>", '{"label": "', '"}', "```", "\n", "ไม่", "\x00", "５"]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES) | st.text(max_size=3)).map("".join))


def reply(text, **fields):
    return Reply(text, NOTHING_SPENT, 1.0, "p", **fields)


class CheckerSuite:
    """The promises of `core.contracts.Checker`. `make` gives a checker, `good` a text that is an answer to it."""

    good = "billing"

    def make(self) -> Checker:
        raise NotImplementedError

    def test_a_good_answer_is_valid(self) -> None:
        verdict = self.make().check(REQUEST, reply(self.good, finish_reason="stop"))

        assert isinstance(verdict, Valid)
        assert verdict.answer == self.good

    def test_any_reply_gets_a_verdict_and_the_same_one_twice(self) -> None:
        """Pure and total: what a model writes never raises on the event loop."""
        checker = self.make()

        @given(TEXTS, FINISH_REASONS, st.none() | st.text(), st.none() | st.text(), st.booleans())
        def law(text, finish_reason, refusal, reasoning, is_structured) -> None:
            asked = reply(
                text, finish_reason=finish_reason, refusal=refusal, reasoning=reasoning, is_structured=is_structured
            )
            verdict = checker.check(REQUEST, asked)
            assert isinstance(verdict, Valid | Repaired | Invalid)
            assert checker.check(REQUEST, asked) == verdict

        law()

    def test_text_with_half_a_character_gets_a_verdict(self) -> None:
        assert self.make().check(REQUEST, reply('{"label": "\ud83d"}')) is not None

    @pytest.mark.parametrize("fields", [{"finish_reason": "content_filter"}, {"refusal": "no"}])
    def test_a_refused_reply_is_never_asked_again_and_keeps_its_text(self, fields) -> None:
        verdict = self.make().check(REQUEST, reply("par", **fields))

        assert isinstance(verdict, Invalid)
        assert (verdict.kind, verdict.answer, verdict.again) == ("refused", "par", None)

    def test_a_cut_that_makes_the_answer_unusable_names_the_fix(self) -> None:
        verdict = self.make().check(REQUEST, reply("I think the", finish_reason="length"))

        assert isinstance(verdict, Invalid)
        assert (verdict.kind, verdict.again) == ("truncated", None)
        assert "raise params.max_tokens" in verdict.reason


class TestTextChecker(CheckerSuite):
    def make(self) -> Checker:
        return TextChecker("<think>")


class TestLabelChecker(CheckerSuite):
    def make(self) -> Checker:
        return LabelChecker(("billing", "technical", "5"), "<think>")

    def test_a_label_is_always_one_of_the_jobs(self) -> None:
        checker = self.make()

        @given(TEXTS)
        def law(text) -> None:
            verdict = checker.check(REQUEST, reply(text))
            if not isinstance(verdict, Invalid):
                assert verdict.label in ("billing", "technical", "5")

        law()

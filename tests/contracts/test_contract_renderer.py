"""What every renderer promises; a new one joins by naming itself at the end."""

import msgspec

from batcher.core.contracts import Renderer
from batcher.core.records import Request, Row
from batcher.prompts.chat import ChatRenderer


class RendererSuite:
    """The promises of `core.contracts.Renderer`. `make` gives a renderer, `row` a row that it can render."""

    def make(self) -> Renderer:
        raise NotImplementedError

    def row(self) -> Row:
        raise NotImplementedError

    def first(self) -> Request:
        return self.make().render(self.row())

    def test_the_same_row_gives_the_same_request(self) -> None:
        """Resume and the cache stand on it; so does a renderer made anew."""
        renderer = self.make()

        assert renderer.render(self.row()) == renderer.render(self.row()) == self.first()

    def test_the_request_names_its_row(self) -> None:
        request, row = self.first(), self.row()

        assert (request.row, request.key, request.ask_number) == (row.index, row.key, 1)

    def test_messages_are_a_json_array_of_messages(self) -> None:
        messages = msgspec.json.decode(self.first().messages)

        assert messages
        assert all({"role", "content"} <= message.keys() for message in messages)

    def test_again_keeps_the_first_question_and_counts(self) -> None:
        renderer, first = self.make(), self.first()

        second = renderer.again(first, "answer", "fault")

        asked = msgspec.json.decode(first.messages)
        assert msgspec.json.decode(second.messages)[: len(asked)] == asked
        assert (second.row, second.key, second.ask_number) == (first.row, first.key, 2)

    def test_again_of_again_explains_only_the_latest_fault(self) -> None:
        renderer, first = self.make(), self.first()

        third = renderer.again(renderer.again(first, "answer 1", "fault 1"), "answer 2", "fault 2")

        assert third.messages == renderer.again(first, "answer 2", "fault 2").messages
        assert third.ask_number == 3

    def test_rendering_leaves_the_row_alone(self) -> None:
        row = self.row()
        self.make().render(row)

        assert row == self.row()


class TestJoinedTemplates(RendererSuite):
    def make(self) -> Renderer:
        return ChatRenderer.compile(
            system="S",
            examples=[("q", "a")],
            user="{{ text }}",
            messages_column=None,
            variables={},
            columns=("id", "text"),
        )

    def row(self) -> Row:
        return Row(7, {"text": "สวัสดี {{ x }}"}, "T-7")


class TestJinjaTemplates(TestJoinedTemplates):
    def make(self) -> Renderer:
        return ChatRenderer.compile(
            system="{% for word in words %}{{ loop.index }}{{ word|upper }}{% endfor %}",
            examples=[],
            user="{{ words|sort|join(', ') }}",
            messages_column=None,
            variables={},
            columns=("words",),
        )

    def row(self) -> Row:
        return Row(7, {"words": ["b", "ก", "a"]}, 7)


class TestChatHistories(RendererSuite):
    def make(self) -> Renderer:
        return ChatRenderer.compile(
            system=None, examples=(), user=None, messages_column="chat", variables={}, columns=("chat",)
        )

    def row(self) -> Row:
        return Row(7, {"chat": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})

"""The chat renderer: the JSON that is sent, and asking again."""

import msgspec
import pytest

from batcher.core.records import Row
from batcher.errors import InputError, PromptError
from batcher.prompts.chat import ChatRenderer


def compiled(**changes):
    job = {"system": None, "examples": (), "user": None, "messages_column": None, "variables": {}, "columns": ("text",)}
    return ChatRenderer.compile(**{**job, **changes})


def from_history(value, **row):
    renderer = compiled(messages_column="chat", columns=("id", "chat"))
    return msgspec.json.decode(renderer.render(Row(4, {"chat": value}, **row)).messages)


def test_messages_stand_in_the_order_of_a_chat() -> None:
    renderer = compiled(
        system="Sort {{ text }}.", examples=[("q1", "a1"), ("q2", "a2 {{ text }}")], user="Q: {{ text }}"
    )

    request = renderer.render(Row(3, {"text": "ตั๋ว"}, "k"))

    expected = [
        {"role": "system", "content": "Sort ตั๋ว."},
        {"role": "user", "content": "q1"},
        {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "q2"},
        {"role": "assistant", "content": "a2 ตั๋ว"},
        {"role": "user", "content": "Q: ตั๋ว"},
    ]
    assert expected == msgspec.json.decode(request.messages)
    assert (request.row, request.key, request.ask_number) == (3, "k", 1)


def test_an_ending_newline_is_kept() -> None:
    """Prompts are data of the job: what the file says is sent."""
    assert compiled(user="a\n").render(Row(0, {})).messages == b'[{"role":"user","content":"a\\n"}]'


def test_again_adds_the_answer_and_the_fault_to_the_first_question() -> None:
    first = compiled(user="Q").render(Row(3, {}, "k"))

    request = compiled(user="Q").again(first, 'bad "{{ x }}"', "not a label")

    expected = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": 'bad "{{ x }}"'},
        {"role": "user", "content": "not a label"},
    ]
    assert expected == msgspec.json.decode(request.messages)
    assert (request.row, request.key, request.ask_number) == (3, "k", 2)


def test_again_of_again_explains_only_the_latest_fault() -> None:
    """Otherwise a stubborn row costs more tokens each time it is asked."""
    renderer = compiled(system="S", user="Q")
    first = renderer.render(Row(0, {}))

    twice = renderer.again(renderer.again(first, "bad 1", "fault 1"), "bad 2", "fault 2")

    assert renderer.again(first, "bad 2", "fault 2").messages == twice.messages
    assert twice.ask_number == 3


@pytest.mark.parametrize(("answer", "sent"), [("", "(no text)"), (" \n", "(no text)"), ("half \ud83d", "half ?")])
def test_again_sends_what_a_provider_takes(answer: str, sent: str) -> None:
    """Some providers refuse an empty message; half an emoji cannot be encoded. Neither may cost the row."""
    renderer = compiled(user="Q")

    request = renderer.again(renderer.render(Row(0, {})), answer, "fault")

    assert sent == msgspec.json.decode(request.messages)[1]["content"]


def test_a_prompt_needs_a_question() -> None:
    with pytest.raises(PromptError, match=r"prompt\.user is missing"):
        compiled(system="S")


def test_a_column_of_messages_stands_alone() -> None:
    with pytest.raises(PromptError, match=r"prompt\.messages stands instead of"):
        compiled(user="Q", messages_column="text")


def test_an_unknown_column_of_messages_names_the_nearest() -> None:
    with pytest.raises(
        PromptError, match=r"names the column chats, but the input has only: id, chat; did you mean chat\?"
    ):
        compiled(messages_column="chats", columns=("id", "chat"))


def test_a_chat_history_goes_along_as_it_is() -> None:
    history = [
        {"role": "developer", "content": "be short"},
        {"role": "user", "content": [{"type": "text", "text": "สวัสดี"}], "name": "an"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        {"role": "user", "content": ""},
    ]

    assert history == from_history(history)
    assert compiled(messages_column="chat", columns=("id", "chat")).columns_used == ("chat",)


def test_null_fields_of_parquet_structs_are_left_out() -> None:
    """Parquet gives every message the fields of all; a provider refuses `"tool_calls": null`."""
    assert from_history([{"role": "user", "content": "a", "tool_calls": None}]) == [{"role": "user", "content": "a"}]


def test_a_chat_history_may_be_json_text() -> None:
    """CSV cells have no lists."""
    assert from_history('[{"role": "user", "content": "ก"}]') == [{"role": "user", "content": "ก"}]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "holds nothing"),
        ([], "holds an empty list"),
        (5, "holds a number"),
        ("hello", "no JSON"),
        ('{"role": "user"}', "holds an object"),
        ("[" * 100_000, "no JSON"),
        (["hi"], "message 1 is text"),
        ([{"content": "a"}], "message 1: role is missing"),
        ([{"role": "user", "content": "a"}, {"role": "bot", "content": "a"}], "message 2: role is none of these"),
        ([{"role": [], "content": "a"}], "role is none of these"),
        ([{"role": "user"}], "content is missing"),
        ([{"role": "user", "content": None}], "content is missing"),
        ([{"role": "user", "content": 5}], "content is a number"),
        ([{"role": "user", "content": []}], "content is an empty list"),
        ([{"role": "user", "content": ["text"]}], "content is a list"),
        ([{"role": "user", "content": "\ud800"}], "no JSON text"),
        ([{"role": "user", "content": "a", "x": object()}], "no JSON text"),
    ],
)
def test_a_wrong_chat_history_names_row_and_message(value: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        from_history(value, key="T-7")

    assert caught.value.message.startswith("row 4 (key 'T-7'): column chat")


def test_a_row_without_the_history_is_an_input_error() -> None:
    with pytest.raises(InputError, match="row 0: column chat is missing"):
        compiled(messages_column="chat", columns=("chat",)).render(Row(0, {}))

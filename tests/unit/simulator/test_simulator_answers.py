import msgspec
import pytest

from batcher.simulator.answers import AnswerRule, answer_text, ask, messages_digest
from batcher.simulator.chance import draw
from batcher.simulator.schemas import conform
from batcher.simulator.tokens import count_prompt_tokens, count_tokens, cut_to_tokens, last_user_text


def question(text="I was charged twice", seed=0, model="m"):
    return ask(seed, model, [{"role": "system", "content": "sort"}, {"role": "user", "content": text}])


def made(schema, index=0):
    return conform(schema, "text", lambda path: draw(0, path, index))


def enum_schema(*labels):
    return {"type": "object", "properties": {"label": {"type": "string", "enum": list(labels)}}, "required": ["label"]}


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("a", 1),
        ("abcd", 1),
        ("abcde", 2),
        ("สวัสดี", 6),  # 6 code points of 3 bytes
        ("你好", 2),
        ("tiếng Việt", 4),  # 8 ASCII / 4, 2 letters of 3 bytes
        ("🙂", 2),
        ("🙂🙂🙂", 4),
        ("\ud800", 1),  # a lone surrogate is legal JSON
    ],
)
def test_tokens_follow_the_public_rule(text, tokens):
    """ceil(ASCII characters / 4 + other bytes / 3)."""
    assert tokens == count_tokens(text)


def test_a_prompt_costs_its_texts_4_a_message_and_3():
    assert 3 + 4 + 1 + 4 + 2 == count_prompt_tokens(
        [{"role": "system", "content": "abcd"}, {"role": "user", "content": [{"type": "text", "text": "你好"}]}]
    )


@pytest.mark.parametrize("text", ["hello there, friend", "สวัสดีครับ", "a🙂b🙂c🙂", ""])
def test_cutting_keeps_the_longest_start_that_fits(text):
    for tokens_max in range(8):
        cut = cut_to_tokens(text, tokens_max)
        assert text.startswith(cut)
        assert count_tokens(cut) <= tokens_max
        assert cut == text or count_tokens(text[: len(cut) + 1]) > tokens_max


def test_the_last_user_message_is_the_question():
    messages = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": "last"},
        {"role": "assistant", "content": "x"},
    ]
    assert "last" == last_user_text(messages)
    assert "x" == last_user_text(messages[2:])
    assert "" == last_user_text([])
    assert "" == last_user_text([{"role": "user", "content": None}])


def test_a_digest_does_not_depend_on_spacing_or_key_order():
    assert messages_digest([{"role": "user", "content": "ก"}]) == messages_digest([{"content": "ก", "role": "user"}])
    assert messages_digest([{"role": "user", "content": "ก"}]) != messages_digest([{"role": "user", "content": "ข"}])


def test_echo_gives_the_question_back_byte_for_byte():
    assert "ที่นี่ {text} 🙂" == answer_text(AnswerRule(), question("ที่นี่ {text} 🙂"))


def test_labels_are_spread_and_depend_on_seed_and_content_only():
    rule = AnswerRule("label", labels=("a", "b", "c"))
    first = [answer_text(rule, question(str(index))) for index in range(300)]
    again = [answer_text(rule, question(str(index))) for index in reversed(range(300))][::-1]
    other = [answer_text(rule, question(str(index), seed=1)) for index in range(300)]
    assert first == again
    assert first != other
    assert all(70 < first.count(label) < 130 for label in "abc")


def test_a_template_fills_its_own_names_once_and_nothing_of_the_question():
    rule = AnswerRule("template", template="{model}: {text} {other}")
    assert "m: {model} {other}" == answer_text(rule, question("{model}"))


def test_lorem_has_as_many_words_as_asked():
    assert 7 == len(str(answer_text(AnswerRule("lorem", words=7), question())).split())
    assert "" == answer_text(AnswerRule("lorem", words=0), question())


def test_truth_is_found_by_the_whole_text_or_its_last_known_line():
    rule = AnswerRule("truth", truth={"charged twice": "billing", "whole\ntext": "other"})
    assert "billing" == answer_text(rule, question("Which team?\n charged twice \nAnswer:"))
    assert "other" == answer_text(rule, question("whole\ntext"))
    assert answer_text(rule, question("unknown")) is None


def test_an_enum_in_the_schema_is_answered_as_json_with_one_of_its_values():
    schema = enum_schema("billing", "technical")
    answers = {answer_text(AnswerRule("label"), question(str(index)), schema) for index in range(50)}
    assert {'{"label":"billing"}', '{"label":"technical"}'} == answers


def test_truth_goes_into_the_enum_where_it_fits():
    rule = AnswerRule("truth", truth={"q": "technical"})
    assert '{"label":"technical"}' == answer_text(rule, question("q"), enum_schema("billing", "technical"))


def test_any_schema_of_the_usual_keywords_is_kept():
    schema = {
        "$defs": {"Team": {"type": "string", "enum": ["a", "b"]}},
        "type": "object",
        "properties": {
            "team": {"$ref": "#/$defs/Team"},
            "score": {"type": "integer", "minimum": 3, "maximum": 5},
            "ratio": {"type": "number", "minimum": 0, "maximum": 1},
            "urgent": {"type": "boolean"},
            "tags": {"type": "array", "items": {"const": "x"}, "minItems": 2},
            "note": {"type": ["string", "null"]},
            "either": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
            "nothing": {"type": "null"},
        },
    }
    for index in range(30):
        value = made(schema, index)
        assert value["team"] in ("a", "b")
        assert value["score"] in (3, 4, 5)
        assert 0 <= value["ratio"] <= 1
        assert isinstance(value["urgent"], bool)
        assert ["x", "x"] == value["tags"]
        assert "text" == value["note"]
        assert isinstance(value["either"], bool)
        assert value["nothing"] is None
        msgspec.json.encode(value)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/missing"},
        {"$ref": "https://example.com/schema"},
        {"type": "object", "properties": {"next": {"$ref": "#"}}},
        {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}},
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 50},
        {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        {"allOf": [{"$ref": "#"}]},
        {"type": []},
        {"type": "array", "minItems": 10**9, "items": {}},
        {"type": "integer", "minimum": 1e400, "maximum": "x"},
        {"type": "object", "properties": []},
        {"allOf": ["x", 1]},
        {"anyOf": {"a": 1}},
        {"enum": 3},
        {"type": {}},
    ],
)
def test_no_schema_hangs_or_breaks_it(schema):
    """The schema comes from a client: recursion ends, nonsense gives nonsense."""
    msgspec.json.encode(made(schema))


def test_answers_are_the_same_in_every_process():
    """Pinned: a change of the hash would make reruns of old rehearsals differ."""
    rule = AnswerRule("label", labels=("a", "b", "c"))
    got = [answer_text(rule, question(text)) for text in "กขคงabcd"]
    assert "caaabaab" == "".join(map(str, got))

"""Templates: what is refused before the first call, and what a value looks like in a prompt."""

from datetime import UTC, date, datetime
from decimal import Decimal

import msgspec
import pytest

from batcher.core.records import Row
from batcher.errors import BatcherError, InputError, PromptError
from batcher.prompts.chat import ChatRenderer

COLUMNS = ("id", "text", "lang", "my column")


def compiled(user, *, columns=COLUMNS, variables=None, system=None, examples=()):
    return ChatRenderer.compile(
        system=system, examples=examples, user=user, messages_column=None, variables=variables or {}, columns=columns
    )


def rendered(user, /, *, columns=COLUMNS, variables=None, **values):
    """The text of the user message for one row."""
    row = Row(0, {**dict.fromkeys(columns), **values})
    messages = msgspec.json.decode(compiled(user, columns=columns, variables=variables).render(row).messages)
    return messages[-1]["content"]


def test_unknown_column_names_the_columns_and_the_nearest_one() -> None:
    """The contract's own sentence: where, which name, which columns there are, what was meant."""
    with pytest.raises(PromptError) as caught:
        compiled("{{ titel }}", columns=("id", "text", "lang"))

    expected = "prompt.user uses {{ titel }}, but the input has only: id, text, lang; did you mean {{ text }}?"
    assert expected == caught.value.message


def test_unknown_column_in_an_example_names_the_example() -> None:
    with pytest.raises(PromptError, match=r"prompt\.examples\[1\]\.assistant uses \{\{ labl \}\}"):
        compiled("{{ text }}", examples=[("a", "b"), ("c", "{{ labl }}")])


def test_columns_in_dead_branches_are_checked_too() -> None:
    """A branch that no row of a test file takes is taken at night."""
    with pytest.raises(PromptError, match="other"):
        compiled("{% if false %}{{ other }}{% endif %}")


def test_very_many_columns_are_shortened() -> None:
    with pytest.raises(PromptError, match="and 970 more"):
        compiled("{{ zzz }}", columns=tuple(f"c{n}" for n in range(1000)))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("a\n{{ text", r"prompt\.user, line 2: "),
        ("{% for x in text %}", r"line 1: "),
        ("{% nonsense %}", "unknown tag 'nonsense'"),
        ("{{ my column }}", "line 1"),
        ("{{ text|uper }}", r"line 1, uses the filter uper, which does not exist; did you mean upper\?"),
        ("{{ text is evn }}", r"uses the test evn, which does not exist; did you mean even\?"),
        ("{{ [text]|map('uper')|list }}", "filter uper"),
        ("{{ [text]|select('evn')|list }}", "test evn"),
        ("{{ [text]|random }}", "same row must always give the same prompt"),
        ("{{ lipsum() }}", "uses {{ lipsum }}"),
        ("{% include 'other' %}", "uses include, but a prompt stands alone"),
        ("{% extends 'other' %}", "uses extends"),
        ("{% import 'other' as o %}", "uses import"),
        ("{% from 'other' import o %}", "stands alone"),
        ("{{ text.__class__ }}", "reaches for __class__"),
        ("{{ text['__class__'] }}", "reaches for __class__"),
        ("{{ text|attr('__class__') }}", "reaches for __class__"),
        ("{{ row.__class__ }}", "reaches for __class__"),
        ("{{ row['titel'] }}", r"uses \{\{ row\[\"titel\"\] \}\}, but the input has only"),
        ("{% block a %}{% endblock %}{% block a %}{% endblock %}", "line 1.*defined twice"),
        ("{% for a in text %}" * 30 + "{% endfor %}" * 30, "nested too deeply"),
        ("{{ 1/0 }}", "division by zero"),
        ("{{ range(10 ** 9)|length }}", "ranges"),
        ("{% for i in range(1000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}", "more than 100,000 numbers"),
        ("{{ 'x' * 10 ** 9 }}", "too long for a prompt"),
        ("{{ [0] * 10 ** 9 }}", "too long for a prompt"),
        ("{{ 10 ** 100000 }}", "too large"),
        ("{{ 'x'.center(10 ** 9) }}", "too long for a prompt"),
        ("{{ '{0.__class__}'.format(1) }}", "unsafe"),
        ("\ud800", "half a surrogate pair"),
    ],
)
def test_a_template_that_cannot_work_is_refused_before_the_first_row(template: str, words: str) -> None:
    """One sentence with the place; never a traceback of Jinja2, never a call."""
    with pytest.raises(PromptError, match=words):
        compiled(template)


def test_deep_nesting_is_a_sentence() -> None:
    """A recursion limit of the parser, the inspection or Python's compiler is no fault of batcher."""
    with pytest.raises(PromptError, match="nested too deeply"):
        compiled("{{ " + "(" * 3000 + "text" + ")" * 3000 + " }}")


def test_a_name_that_is_no_identifier_is_hinted_at() -> None:
    with pytest.raises(PromptError) as caught:
        compiled("{{ my column }}")

    assert caught.value.hint == 'write {{ row["my column"] }} for a column whose name is no plain word'


@pytest.mark.parametrize(
    ("template", "used"),
    [
        ("plain", ()),
        ("{{ text }}", ("text",)),
        ("{{ lang }} {{ id }} {{ lang }}", ("id", "lang")),
        ('{{ row["my column"] }}', ("my column",)),
        ("{{ row.lang }}", ("lang",)),
        ("{{ row[text] }}", COLUMNS),
        ("{{ row|tojson }}", COLUMNS),
        ("{{ row.items()|list }}", COLUMNS),
        ("{% for name in row %}{{ name }}{% endfor %}", COLUMNS),
        ("{% for text in lang %}{{ text }}{% endfor %}", ("lang",)),
        ("{% raw %}{{ id }}{% endraw %}{# {{ id }} #}{{ '{{ id }}' }}", ()),
        ("{% set id = text %}{{ id }}", ("text",)),
        ("{% macro m(id) %}{{ id }}{% endmacro %}{{ m(text) }}", ("text",)),
        ("{% if lang == 'th' %}{{ text|trim }}{% else %}-{% endif %}", ("text", "lang")),
    ],
)
def test_columns_used_are_those_a_template_reads(template: str, used: tuple[str, ...]) -> None:
    """The source reads no other column: a missing one would be an error at night, one too many costs memory."""
    assert used == compiled(template).columns_used


def test_system_and_examples_count_among_the_columns_used() -> None:
    renderer = compiled("{{ text }}", system="{{ lang }}", examples=[("{{ id }}", "x")])

    assert renderer.columns_used == ("id", "text", "lang")


def test_keys_with_an_underscore_are_data() -> None:
    """MongoDB's `_id` is a column or a key like any other; Python's own attributes stay closed."""
    assert (
        rendered("{{ _id }} {{ row._id }} {{ text._id }}", columns=("_id", "text"), _id=1, text={"_id": 2}) == "1 1 2"
    )


def test_a_column_called_row_is_that_column() -> None:
    assert rendered("{{ row }}", columns=("row",), row="a house") == "a house"
    assert rendered("{{ row|trim }}", columns=("row",), row=" a house ") == "a house"


def test_columns_with_the_names_of_jinja_functions_are_columns() -> None:
    assert rendered("{{ range }} {{ dict }}", columns=("range", "dict"), range=1, dict=2) == "1 2"
    assert rendered("{{ range|int }} {{ dict }}", columns=("range", "dict"), range=1, dict=2) == "1 2"


@pytest.mark.parametrize("name", ["ข้อความ", "คำ", "văn_bản", "文本", "été"])
def test_columns_in_any_script_are_names(name: str) -> None:
    assert rendered("{{ " + name + " }}", columns=(name,), **{name: "สวัสดี 🙂"}) == "สวัสดี 🙂"
    assert rendered("{{ " + name + "|trim }}", columns=(name,), **{name: "สวัสดี 🙂"}) == "สวัสดี 🙂"


@pytest.mark.parametrize("hostile", ["{{ id }}", "{% for x in y %}", "{# a #}", '"}]', "\\", "\x00", "a\r\nb\u2028"])
@pytest.mark.parametrize("template", ["{{ text }}", "{{ text|string }}", '{{ row["text"] }}'])
def test_a_row_value_is_data(template: str, hostile: str) -> None:
    """A row never becomes a template, and never leaves its place in the JSON."""
    assert hostile == rendered(template, text=hostile)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (False, "false"),
        (7, "7"),
        (0.1, "0.1"),
        (1e300, "1e+300"),
        (Decimal("1E+3"), "1000"),
        (Decimal("0.10"), "0.10"),
        (date(2026, 11, 21), "2026-11-21"),
        (datetime(2026, 11, 21, 2, 0, tzinfo=UTC), "2026-11-21T02:00:00+00:00"),
        (b"bytes \xe0\xb8\x81", "bytes ก"),
        (["ก", 1, None, 1.5, True], '["ก",1,null,1.5,true]'),
        ({"a": {"b": "<&>"}}, '{"a":{"b":"<&>"}}'),
        ([], "[]"),
    ],
)
@pytest.mark.parametrize("template", ["{{ text }}", "{% if true %}{{ text }}{% endif %}"])
def test_values_are_written_as_the_table_says(template: str, value: object, text: str) -> None:
    assert text == rendered(template, text=value)


def test_tojson_is_readable_and_not_for_web_pages() -> None:
    """Jinja2's own writes `\\u003c` for `<`, and its result would escape what is joined to it."""
    assert rendered("{{ (text|tojson) ~ ' <' }}", text={"a": "<ก>"}) == '{"a":"<ก>"} <'
    assert rendered("{{ text|tojson(indent=2) }}", text=["ก"]) == '[\n  "ก"\n]'


def test_variables_are_text_and_cost_nothing_per_row() -> None:
    renderer = compiled("{{ today }}: {{ text }}", variables={"today": "{{ id }}"})
    constant = compiled("{{ today|upper }}", variables={"today": "monday"})

    assert renderer.columns_used == ("text",)
    assert b'"{{ id }}: a"' in renderer.render(Row(0, {"text": "a"})).messages
    assert constant.render(Row(0, {})).messages == b'[{"role":"user","content":"MONDAY"}]'


@pytest.mark.parametrize(
    ("variable", "words"), [("text", "name of an input column"), ("row", "no name"), ("a-b", "no name")]
)
def test_a_variable_that_no_template_could_tell_apart_is_refused(variable: str, words: str) -> None:
    with pytest.raises(PromptError, match=f"--var {variable}.*{words}"):
        compiled("x", variables={variable: "1"})


@pytest.mark.parametrize(
    ("template", "value", "words"),
    [
        ("{{ text + 1 }}", None, "a value is null"),
        ("\n\n{{ 1 / text }}", 0, "line 3 of the template: division by zero"),
        ("{{ text.missing }}", {"a": 1}, "has no attribute 'missing'"),
        ("{{ lang[text] }}", "SECRET", "nothing of the name that the template computes"),
        ("{{ text.upper }}", "a", r"call it with \(\)"),
        ("{{ text|join }}", 5, "TypeError"),
        ("{{ [][text] }}", 3, "has no element|nothing of the name"),
        ("{{ text }}", b"\xff", "not UTF-8"),
        ("{{ text|string }}{{ text }}", object(), "type object has no text"),
        ("{{ text }}", "\ud83d", "half a surrogate pair"),
        ("{{ text|upper }}", "\ud83d", "half a surrogate pair"),
        ("{{ text }}", ["\ud83d"], "half a surrogate pair"),
        ("{{ text|attr(lang) }}", "x", "."),
    ],
)
def test_a_fault_of_one_row_names_the_row_and_the_template_but_no_value(template, value, words) -> None:
    """Errors go to logs, and logs must not hold what people wrote."""
    row = Row(12, {"id": None, "text": value, "lang": {"a": 1}, "my column": None}, "T-7")
    with pytest.raises(InputError, match=words) as caught:
        compiled(template).render(row)

    assert caught.value.message.startswith("prompt.user on row 12 (key 'T-7')")
    assert "SECRET" not in caught.value.message


@pytest.mark.parametrize("template", ["{{ text }}", "{{ text|upper }}"])
def test_a_row_without_the_column_is_an_input_error(template: str) -> None:
    with pytest.raises(InputError, match=r"row 0.*text"):
        compiled(template).render(Row(0, {"id": 1}))


@pytest.mark.parametrize("template", ["{{ text }}{{ text }}", "{% for i in range(9000) %}{{ text }}{% endfor %}"])
def test_a_prompt_beyond_16_megabytes_is_refused_with_its_row(template: str) -> None:
    with pytest.raises(PromptError, match=r"row 3.*longer than 16 MB"):
        compiled(template).render(Row(3, {"text": "x" * 9_000_000}))


@pytest.mark.parametrize("template", ["{{ row.clear() }}", "{% set _ = row.pop('text') %}", "{{ text.append(1) }}"])
def test_a_template_cannot_change_the_row(template: str) -> None:
    row = Row(0, {"id": 1, "text": [1], "lang": None, "my column": None})
    with pytest.raises(BatcherError):
        compiled(template).render(row)

    assert row.columns == {"id": 1, "text": [1], "lang": None, "my column": None}


def test_each_row_has_its_own_range_allowance() -> None:
    renderer = compiled("{% for i in range(60000) %}{% endfor %}{{ text }}")

    for index in range(3):
        renderer.render(Row(index, {"text": "a"}))

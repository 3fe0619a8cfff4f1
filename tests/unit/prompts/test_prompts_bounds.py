# ruff: noqa: E501  # a table of cases reads best with one case a line
"""Templates and rows that would take a minute or a gigabyte: each is a sentence, soon and in little memory."""

import contextlib
import time
import tracemalloc

import msgspec
import pytest

from batcher.core.records import Row
from batcher.errors import BatcherError, InputError, PromptError
from batcher.prompts.chat import ChatRenderer

COLUMNS = ("id", "text", "tags")
THAI = "สวัสดี Việt 工单 " * 80
GROWING = (
    "{% set n = namespace(x=START) %}{% for i in range(60) %}{% set n.x = STEP %}{% endfor %}{{ n.x|string|length }}"
)


def rendered(template: str, text: str = THAI) -> str:
    renderer = ChatRenderer.compile(
        system=None, examples=(), user=template + "{{ text[:0] }}", messages_column=None, variables={}, columns=COLUMNS
    )
    row = Row(3, {"id": 7, "text": text, "tags": ["ก", "ข"]}, "k")
    return str(msgspec.json.decode(renderer.render(row).messages)[-1]["content"])


def growing(start: str, step: str) -> str:
    return GROWING.replace("START", start).replace("STEP", step)


BOMBS = [
    # Padding and formatting.
    "{{ 'a' * 10**9 }}",
    "{{ 'a'.encode() * 10**9 }}",
    "{{ ('x'|safe) * 10**9 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '%.1000000000f' % 1.0 }}",
    "{{ '%%%1000000000d' % 1 }}",
    "{{ '%(a)s%((b)c)1000000000d' % {'a': 1, '(b)c': 2} }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ ('%(a)s' * 100000) % {'a': 'x' * 10**6} }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ '{:{w}}'.format(1, w=10**9) }}",
    "{{ '{0:{1}}'.format(1, '>999999999') }}",
    "{{ '{0:>99999999999999999999}'.format(1) }}",
    "{{ '{w:>999999999}'.format_map({'w': 1}) }}",
    "{{ ('{:>999999999}'|safe).format(1) }}",
    "{{ ('{0}' * 100000).format('x' * 10**6) }}",
    "{{ 'a'.center(10**9) }}",
    "{{ 'a'|center(10**9) }}",
    "{{ 'a'.encode().center(10**9) }}",
    "{{ (1).to_bytes(10**9, 'big')|length }}",
    "{{ ('\\t' * 10**6).expandtabs(10**6) }}",
    "{{ 'a'|indent(10**9, true) }}",
    "{{ ('a\\n' * 10**6)|indent('y' * 10**6)|length }}",
    "{{ tags|tojson(indent=10**9) }}",
    "{{ 'a'|batch(10**9, 'x')|list }}",
    "{{ 'a'|slice(10**9)|list }}",
    # Numbers.
    "{{ 10 ** 100000 }}",
    "{{ 1.5|round(10**9, 'ceil') }}",
    "{{ ('f' * 10000000)|int(0, 16) }}",
    growing("10**1000", "n.x * n.x"),
    # Replacing, joining, wrapping.
    "{{ ('x' * 10**6).replace('x', 'y' * 10**6)|length }}",
    "{{ ('x' * 10**6)|replace('x', 'y' * 10**6)|length }}",
    "{{ ('x' * 10**6)|list|join('y' * 10**6)|length }}",
    "{{ ('y' * 10**6).join('x' * 10**6)|length }}",
    "{{ ('x' * 10**6).translate({120: 'y' * 10**6})|length }}",
    "{{ ('x ' * 10**6)|wordwrap(1, wrapstring='y' * 10**6)|length }}",
    "{{ ('a' * 10000000)|wordwrap(10)|length }}",
    "{{ ('ab' * 500000).encode().decode('punycode')|length }}",
    "{{ ('a,' * 8000000).split(',')|length }}",
    # Doubling.
    growing("'ab'", "n.x ~ n.x"),
    growing("'ab'", "n.x + n.x"),
    growing("[1]", "n.x + n.x"),
    growing("[1]", "[n.x, n.x]"),
    growing("(1,)", "(n.x, n.x)"),
    growing("{}", "{'a': n.x, 'b': n.x}"),
    growing("1", "namespace(l=n.x, r=n.x)"),
    "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
    "{% macro m(x, n) %}{% if n %}{{ m(x, n-1) }}{{ m(x, n-1) }}{% else %}x{% endif %}{% endmacro %}{{ m('a', 60) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    # Lists.
    "{{ [0] * 16000000 }}",
    "{{ [[0] * 10**5] * 10**5 }}",
    "{{ ([[0] * 10**4] * 10**4)|sum(start=[])|length }}",
    "{{ ('x' * 16000000)|list|map('upper')|list|length }}",
    "{{ cycler(*('x' * 16000000)) }}",
    "{{ ([[[]]] * 1000000)|pprint|length }}",
    # Loops.
    "{{ range(10**9)|list }}",
    "{% for a in text %}{% for b in text %}{% for c in text %}{% endfor %}{% endfor %}{% endfor %}",
    "{% for a in text %}{% for b in text %}{% for c in text if c == 'z' %}{% endfor %}{% endfor %}{% endfor %}",
    "{% for a in text recursive %}{% if loop.depth < 30 %}{{ loop(text) }}{% endif %}{% endfor %}",
    "{% set x %}{% for i in range(99999) %}" + "static " * 100_000 + "{% endfor %}{% endset %}",
    "{% for i in range(99999) %}{{ text[1:]|length }}{% endfor %}",
    "{% set t = 'x' * 16000000 %}{% for i in range(99999) %}{% if 'zz' in t %}{% endif %}{% endfor %}",
    "{% set t = 'x' * 16000000 %}{% for i in range(99999) %}{% if t is lower %}{% endif %}{% endfor %}",
    "{% set t = 'x' * 16000000 %}{% for i in range(99999) %}{{ t.count('xy') }}{% endfor %}",
    "{{ text|upper }}" * 50_000,
]  # fmt: skip


@pytest.mark.parametrize("template", BOMBS, ids=lambda template: template[:60])
def test_a_bomb_is_a_sentence_within_seconds(template: str) -> None:
    """One to two seconds here, on a machine that others use too; without bounds most of these never end."""
    began_s = time.process_time()
    with pytest.raises((InputError, PromptError)) as caught:
        rendered(template)

    assert time.process_time() - began_s < 5
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 250


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10**9 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ [0] * 16000000 }}",
        "{{ cycler(*('x' * 16000000)) }}",
        "{{ ('x' * 10**6).translate({120: 'y' * 10**6})|length }}",
        growing("'ab'", "n.x ~ n.x"),
    ],
)
def test_a_bomb_takes_little_memory(template: str) -> None:
    """Work is spent before the memory is asked for."""
    tracemalloc.start()
    try:
        with pytest.raises(BatcherError):
            rendered(template)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 96 * 2**20


@pytest.mark.parametrize(
    "template",
    [
        "{{ text|striptags|length }}",
        "{{ text|wordwrap(79)|length }}",
        "{{ text|urlize|length }}",
        "{{ text|title|length }}",
        "{{ text|replace(' ', '_')|trim|upper|length }}",
        "{{ text.split()|length }}",
        "{% for c in text %}{% if c == '<' %}{% endif %}{% endfor %}",
    ],
)
@pytest.mark.parametrize("piece", ["<a>", "<!--", "&amp;", "www.", "a@", "ก", "a ", "http://a.b/("])
def test_a_hostile_row_in_an_honest_template_ends_soon(template: str, piece: str) -> None:
    """Half a megabyte from a stranger: rendered, or a failure of that row alone."""
    text = piece * (500_000 // len(piece))
    began_s = time.process_time()
    with contextlib.suppress(InputError):
        rendered(template, text)

    assert time.process_time() - began_s < 5


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for i in range(1000) %}{{ i }}{% endfor %}", "".join(map(str, range(1000)))),
        ("{{ '%05.1f|%s|%-4s|%%' % (1.5, 'ก', 'x') }}", "001.5|ก|x   |%"),
        ("{{ '%(a)s-%(b)d' % {'a': 'ก', 'b': 7} }}", "ก-7"),
        ("{{ '{:>5}|{a[0]}'.format('ก', a=tags) }}", "    ก|ก"),
        ("{{ '{a}'.format_map({'a': 1}) }}", "1"),
        ("{{ 'ab'.center(6) }}|{{ '7'.zfill(3) }}|{{ 'a\\tb'.expandtabs(4) }}", "  ab  |007|a   b"),
        ("{{ '-'.join(tags) }}|{{ tags|join(', ') }}", "ก-ข|ก, ข"),
        ("{{ 'aXa'.replace('X', 'ก') }}|{{ 'a-a'|replace('-', '+') }}", "aกa|a+a"),
        ("{{ ([1] + [2]) * 2 }}|{{ 2 * 'ab' }}|{{ 7 % 4 }}|{{ 2 ** 10 }}", "[1,2,1,2]|abab|3|1024"),
        ("{{ tags|map('upper')|list }}|{{ tags|reverse|list }}|{{ [[1], [2]]|sum(start=[]) }}", '["ก","ข"]|["ข","ก"]|[1,2]'),
        ("{% set n = namespace(count=0) %}{% for t in tags %}{% set n.count = n.count + 1 %}{% endfor %}{{ n.count }}", "2"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(id) }}{% call m('a') %}{% endcall %}", None),
        ("{% for t in tags recursive %}{{ t }}{{ loop(['x']) if loop.depth < 2 }}{% endfor %}", "กxขx"),
        ("{% for t in tags %}{{ loop.index }}/{{ loop.length }}{% if not loop.last %},{% endif %}{% endfor %}", "1/2,2/2"),
        ("{{ 1.25|round(1, 'floor') }}|{{ 'a b c'|wordwrap(3) }}|{{ tags|batch(1)|list }}", '1.2|a b\nc|[["ก"],["ข"]]'),
        ("{{ 'a' in 'abc' }}|{{ 'a' is in 'abc' }}|{{ 'ก' is eq 'ก' }}|{{ 2 is divisibleby 2 }}", "true|true|true|true"),
        ("{{ text.encode('utf-8').decode('UTF8')[:6] }}", "สวัสดี"),
        ("{{ dict(a=1, **{'b': 2}) }}|{{ {'a': [id]} }}", '{"a":1,"b":2}|{"a":[7]}'),
        ("{{ 'a' ~ none ~ true ~ [1] }}", "aNoneTrue[1]"),
    ],
)  # fmt: skip
def test_what_people_write_renders_as_before(template: str, text: str | None) -> None:
    """Bounds that refused an honest template would be a fault of their own."""
    if text is None:
        with pytest.raises(InputError, match="TypeError"):
            rendered(template)
    else:
        assert text == rendered(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ (cycler|attr('__in' ~ 'it__')) }}",
        "{{ text['__cl' ~ 'ass__'] }}",
        "{{ text|attr('__cl' ~ 'ass__') }}",
        "{{ [text]|map(attribute='__cl' ~ 'ass__')|list }}",
        "{{ [text]|map(attribute='__class__.__mro__')|list }}",
        "{{ ('{0.__cl' ~ 'ass__}').format(1) }}",
        "{{ (['{0.__class__}']|map(attribute='format')|first)(1) }}",
        "{{ ('{0.__class__}'|attr('format'))(1) }}",
        "{{ '{a.__class__}'.format_map({'a': 1}) }}",
        "{{ ('{0.__class__}'|safe).format(1) }}",
        "{% macro m() %}{% endmacro %}{{ m['_fu' ~ 'nc'] }}",
        "{{ self._TemplateReference__context }}",
        "{{ [1]|selectattr('__class__')|list }}",
        "{{ [1, 2]|sort(attribute='__class__') }}",
        "{{ [1]|unique(attribute='__class__')|list }}",
        "{{ [1]|groupby('__class__')|list }}",
        "{{ [-10**9]|map(' turn')|list }}{{ [1]|map('__class__')|list }}",
        "{{ lipsum }}",
        "{{ self }}",
        "{{ joiner }}",
        "{{ namespace(a=1) }}",
        "{{ text.upper }}",
        "{% include text %}",
        "{% import 'os' as os %}",
        "{{ config }}",
        "{{ request.application }}",
    ],
)
def test_no_way_leads_out_of_the_sandbox(template: str) -> None:
    """Neither to Python's insides nor to anything whose text is an address or a name of Python's."""
    with pytest.raises(BatcherError):
        rendered(template)


def test_a_row_that_looks_like_a_bomb_is_text() -> None:
    """Only the job's author writes templates."""
    for text in ("{{ 'a' * 10**9 }}", "{% for a in b %}", "%1000000000d", "{:>999999999}"):
        assert text == rendered("{{ text }}", text) == rendered("{{ text|string }}", text)


def test_many_columns_are_added_up_before_they_are_joined() -> None:
    """Three hundred times a megabyte would be asked for at once."""
    tracemalloc.start()
    try:
        with pytest.raises(PromptError, match=r"row 3 .*longer than 16 MB"):
            rendered("{{ text }}" * 300, "x" * 1_000_000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 64 * 2**20

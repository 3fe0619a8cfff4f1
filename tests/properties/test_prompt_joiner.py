"""The fast way of rendering gives what Jinja2 gives."""

import string
from decimal import Decimal

import msgspec
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from batcher.core.records import Row
from batcher.errors import PromptError
from batcher.prompts.chat import ChatRenderer
from batcher.prompts.inspection import Names, inspect_template
from batcher.prompts.template import Template, _interpreted, _joined, _pieces

COLUMNS = ("a", "b", "the c")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.one_of(
    texts, st.none(), st.booleans(), st.integers(), st.floats(), st.decimals(allow_nan=False), st.dates(), st.times()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=4
)
pieces = st.one_of(
    st.text(string.ascii_letters + " .\n{}%#<&'\"ก", max_size=8),
    st.sampled_from(["{{ a }}", "{{b}}", "{{- a }}", "{{ b -}}", '{{ row["the c"] }}', "{{ row.a }}", "{{ v }}"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(pieces, max_size=8), st.fixed_dictionaries(dict.fromkeys(COLUMNS, values)), texts)
def test_joining_equals_jinja(template_pieces: list[str], columns: dict[str, object], variable: str) -> None:
    """Two ways to one text: a difference would make a prompt depend on what else stands in its template."""
    source = "".join(template_pieces).replace("{%", "").replace("{#", "").replace("{{{", "{{")
    names = Names(COLUMNS, {"v": variable})
    try:
        inspected = inspect_template(source, "prompt.user", names)
    except PromptError:
        reject()
    found = _pieces(inspected, names)
    assume(found is not None)

    text = _interpreted(inspected, names)(columns)

    assert _joined(found)(columns) == text
    renderer = ChatRenderer.compile(
        system=source, examples=[(source, source)], user=source, messages_column=None, variables={"v": variable},
        columns=COLUMNS,
    )  # fmt: skip
    messages = renderer.render(Row(0, columns)).messages
    roles = ("system", "user", "assistant", "user")
    assert messages == msgspec.json.encode([{"role": role, "content": text} for role in roles])


@settings(max_examples=100, deadline=None)
@given(texts, texts)
def test_a_value_comes_out_byte_for_byte(before: str, value: str) -> None:
    """Every language, every control character: what stands in the row stands in the request."""
    template = Template.compile("{% raw %}<{% endraw %}{{ a }}>", "prompt.user", Names(COLUMNS, {}))

    text = template.render(Row(0, {"a": before + value}))

    assert f"<{before}{value}>" == msgspec.json.decode(msgspec.json.encode(text))


def test_decimals_keep_their_digits() -> None:
    template = Template.compile("{{ a }}", "prompt.user", Names(COLUMNS, {}))

    assert template.render(Row(0, {"a": Decimal("1E-8")})) == "0.00000001"

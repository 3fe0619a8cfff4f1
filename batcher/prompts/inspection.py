"""What a template would do, found before the first row: the columns it reads, and what is wrong with it.

Everything is read off Jinja2's own syntax tree, so a name inside a string, a comment or a `{% raw %}`
block is text, and a loop variable is no column.
"""

import difflib
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from jinja2 import TemplateSyntaxError, nodes
from jinja2.meta import find_undeclared_variables

from batcher.errors import PromptError
from batcher.prompts.sandbox import PromptEnvironment, prompt_environment

ROW_NAME = "row"
"""`row["my column"]` reads a column whose name is no identifier, unless a column is called `row` itself."""

TOKENS_MAX = 40_000
"""Names, signs and spaces between `{{` and `}}`: what is plain text counts as one. Compiling so many takes seconds."""

_NAMES_SHOWN_MAX = 30
_SIMILAR_ENOUGH = 0.4
_LOADING_NODES = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
_ARGUMENT_NAMING_A_FILTER = {"map": 0}
_ARGUMENT_NAMING_A_TEST = {"select": 0, "reject": 0, "selectattr": 1, "rejectattr": 1}


@dataclass(frozen=True, slots=True)
class Names:
    """What a template may speak of: the input's columns, and the variables given with `--var`."""

    columns: tuple[str, ...]
    variables: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Inspected:
    """A template that may be rendered. `columns_used` are in the order of the input."""

    where: str
    source: str
    tree: nodes.Template
    columns_used: tuple[str, ...]
    is_row_used: bool


def inspect_template(source: str, where: str, names: Names) -> Inspected:
    """The template's tree and the columns it reads.

    Args:
        source: The template.
        where: Its place in the job file, such as `prompt.user`, for messages.
        names: What it may speak of.

    Raises:
        PromptError: It has a syntax error, loads another template, reaches into Python's insides, or names
            a column, filter or test that does not exist.
    """
    tree = _parse(source, where, names)
    for found in _faults(tree):
        raise PromptError(f"{where}, line {found.line}, {found.what}")

    free = find_undeclared_variables(tree)
    is_row_used = ROW_NAME in free and ROW_NAME not in names.columns
    offered = {*names.columns, *names.variables, *prompt_environment().globals, ROW_NAME}
    unknown = free - offered
    if unknown:
        first = next(node.name for node in tree.find_all(nodes.Name) if node.name in unknown)
        raise _unknown_column(where, "{{ " + first + " }}", first, names)

    used = free & {*names.columns}
    if is_row_used:
        used |= _columns_through_row(tree, where, names)
    in_order = tuple(column for column in names.columns if column in used)
    return Inspected(where, source, tree, in_order, is_row_used)


def column_of_row_item(node: nodes.Node) -> str | None:
    """The column that `row["my column"]` or `row.column` reads, or None for any other expression."""
    match node:
        case nodes.Getitem(node=nodes.Name(name="row"), arg=nodes.Const(value=str() as column)):
            return column
        case nodes.Getattr(node=nodes.Name(name="row"), attr=str() as column) if not hasattr(dict, column):
            return column
    return None


def nearest(name: str, offered: Iterable[str]) -> str | None:
    """The offered name that `name` was most likely meant to be, or None where none is near."""
    folded = {candidate.casefold(): candidate for candidate in offered}
    found = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=_SIMILAR_ENOUGH)
    return folded[found[0]] if found else None


def listed(names: Collection[str], shown_max: int = _NAMES_SHOWN_MAX) -> str:
    """`id, text, lang`, shortened where there are very many."""
    shown = ", ".join(list(names)[:shown_max])
    return shown if len(names) <= shown_max else f"{shown} and {len(names) - shown_max} more"


@dataclass(frozen=True, slots=True)
class _Fault:
    line: int
    what: str


@functools.cache
def _parser() -> PromptEnvironment:
    # Without globals, so that a column called `range` or `dict` is seen as a free name like any other.
    environment = PromptEnvironment()
    environment.globals = {}
    return environment


def _parse(source: str, where: str, names: Names) -> nodes.Template:
    try:
        tokens = sum(1 for _ in islice(_parser().lexer.tokeniter(source, None), TOKENS_MAX + 1))
        if tokens > TOKENS_MAX:
            raise PromptError(
                f"{where} has more than {TOKENS_MAX:,} words of template; move what is long into a column"
            )
        return _parser().parse(source)
    except TemplateSyntaxError as error:
        spaced = [column for column in names.columns if not column.isidentifier() and column in source]
        hint = f'write {{{{ row["{spaced[0]}"] }}}} for a column whose name is no plain word' if spaced else None
        raise PromptError(f"{where}, line {error.lineno}: {error.message}", hint=hint) from error


def _faults(tree: nodes.Template) -> Iterator[_Fault]:
    environment = prompt_environment()
    for node in tree.find_all(_LOADING_NODES):
        word = {"FromImport": "from … import"}.get(type(node).__name__, type(node).__name__.lower())
        yield _Fault(node.lineno, f"uses {word}, but a prompt stands alone; write the text into the job file")
    for lineno, attribute in _attributes(tree):
        # A single underscore may be a key in the data (`meta._id`); the sandbox judges it when it is rendered.
        if attribute.startswith("__"):
            yield _Fault(lineno, f"reaches for {attribute}; names that begin with __ are closed to templates")
    for lineno, name in _used(tree, nodes.Filter, _ARGUMENT_NAMING_A_FILTER):
        if name not in environment.filters:
            yield _Fault(lineno, _no_such("filter", name, environment.filters))
    for lineno, name in _used(tree, nodes.Test, _ARGUMENT_NAMING_A_TEST):
        if name not in environment.tests:
            yield _Fault(lineno, _no_such("test", name, environment.tests))


def _attributes(tree: nodes.Template) -> Iterator[tuple[int, str]]:
    """Every attribute that is named in the template, `x["y"]` and `x|attr("y")` included."""
    for node in tree.find_all((nodes.Getattr, nodes.Getitem, nodes.Filter)):
        match node:
            case nodes.Getattr(attr=str() as name):
                yield node.lineno, name
            case nodes.Getitem(arg=nodes.Const(value=str() as name)) if column_of_row_item(node) is None:
                yield node.lineno, name
            case nodes.Filter(name="attr", args=[nodes.Const(value=str() as name), *_]):
                yield node.lineno, name


def _used(
    tree: nodes.Template, kind: type[nodes.Filter] | type[nodes.Test], naming_argument: Mapping[str, int]
) -> Iterator[tuple[int, str]]:
    """Every filter (or test) that is used, also by its name in a string: `map("upper")`, `select("odd")`."""
    for node in tree.find_all(kind):
        yield node.lineno, node.name
    for node in tree.find_all(nodes.Filter):
        position = naming_argument.get(node.name)
        if position is not None and len(node.args) > position:
            match node.args[position]:
                case nodes.Const(value=str() as name):
                    yield node.lineno, name


def _no_such(kind: str, name: str, offered: Iterable[str]) -> str:
    if (kind, name) == ("filter", "random"):
        return "uses the filter random, but the same row must always give the same prompt; remove it"
    meant = nearest(name, offered)
    return f"uses the {kind} {name}, which does not exist" + (f"; did you mean {meant}?" if meant else "")


def _columns_through_row(tree: nodes.Template, where: str, names: Names) -> set[str]:
    """The columns that are read as `row[...]`; all of them where the name is computed."""
    plain: set[int] = set()
    used: set[str] = set()
    for node in tree.find_all((nodes.Getitem, nodes.Getattr)):
        column = column_of_row_item(node)
        if column is None:
            continue
        if column not in names.columns:
            raise _unknown_column(where, f'{{{{ row["{column}"] }}}}', column, names)
        plain.update(id(name) for name in node.find_all(nodes.Name))
        used.add(column)
    is_computed = any(node.name == ROW_NAME and id(node) not in plain for node in tree.find_all(nodes.Name))
    return {*names.columns} if is_computed else used


def _unknown_column(where: str, shown: str, name: str, names: Names) -> PromptError:
    variables = f" (and --var: {listed(names.variables)})" if names.variables else ""
    there_are = f"the input has only: {listed(names.columns)}{variables}"
    meant = nearest(name, (*names.columns, *names.variables))
    if meant is None:
        return PromptError(f"{where} uses {shown}, but {there_are}")
    written = meant if meant.isidentifier() else f'row["{meant}"]'
    return PromptError(f"{where} uses {shown}, but {there_are}; did you mean {{{{ {written} }}}}?")

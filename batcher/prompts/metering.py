"""A template's syntax tree with its costs written in: what runs again, and what makes values, is paid for.

Jinja2 gives no hook for a loop's turns, for `~`, for a list that is written out or for a slice. So the tree gets
filters of our own at those places, under names that no template can write, before it is compiled.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jinja2 import Environment, nodes, pass_context
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer

from batcher.prompts.allowance import NAME, NODE_WORK, Allowance
from batcher.prompts.bounds import joined

_Spreading = TypeVar("_Spreading", nodes.Call, nodes.Filter, nodes.Test)
_Repeated = TypeVar("_Repeated", nodes.Macro, nodes.CallBlock)

_TURN, _MADE, _JOINED, _SPREAD = " turn", " made", " joined", " spread"


def allowance_of(context: Context) -> Allowance:
    """The allowance of the rendering that `context` belongs to."""
    allowance: Allowance = context.parent[NAME]
    return allowance


@pass_context
def _turn(context: Context, work: int) -> bool:
    # A template that finds the name can spend its allowance, never add to it.
    allowance_of(context).spend(abs(work))
    return True


@pass_context
def _made(context: Context, value: Any) -> Any:
    return allowance_of(context).weigh(value)


@pass_context
def _joined(context: Context, parts: Any) -> str:
    return joined(allowance_of(context), parts)


@pass_context
def _spread(context: Context, values: Any) -> list[Any]:
    return list(allowance_of(context).weigh(iter(values)))


METER_FILTERS: Mapping[str, Callable[..., Any]] = {_TURN: _turn, _MADE: _made, _JOINED: _joined, _SPREAD: _spread}
"""The filters that a metered tree uses; the environment that compiles it must have them."""


def metered(tree: nodes.Template, environment: Environment) -> nodes.Template:
    """The tree with its costs written in; the one that was given is changed."""
    changed: nodes.Template = _Meter().visit(tree)
    changed.set_environment(environment)
    return changed


class _Meter(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802  # named by Jinja2
        work = _work(node)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_filter(_TURN, _work_node(work, node), node), lineno=node.lineno))
        if node.test is not None:
            turn = _filter(_TURN, _work_node(work, node), node)
            node.test = nodes.And(turn, node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:  # noqa: N802  # named by Jinja2
        return self._with_turn(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:  # noqa: N802  # named by Jinja2
        return self._with_turn(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802  # named by Jinja2
        self.generic_visit(node)
        return _filter(_JOINED, nodes.Tuple(node.nodes, "load", lineno=node.lineno), node)

    def visit_List(self, node: nodes.List) -> nodes.Expr:  # noqa: N802  # named by Jinja2
        return self._made(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:  # noqa: N802  # named by Jinja2
        return self._made(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802  # named by Jinja2
        # `for a, b in …` has one too, which is no value.
        return self._made(node) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802  # named by Jinja2
        self.generic_visit(node)
        return _filter(_MADE, node, node) if isinstance(node.arg, nodes.Slice) else node

    def visit_Call(self, node: nodes.Call) -> nodes.Call:  # noqa: N802  # named by Jinja2
        return self._with_spread(node)

    def visit_Filter(self, node: nodes.Filter) -> nodes.Filter:  # noqa: N802  # named by Jinja2
        return self._with_spread(node)

    def visit_Test(self, node: nodes.Test) -> nodes.Test:  # noqa: N802  # named by Jinja2
        return self._with_spread(node)

    def visit_Operand(self, node: nodes.Operand) -> nodes.Operand:  # noqa: N802  # named by Jinja2
        """The right side of a comparison: `x in text` reads all of it."""
        self.generic_visit(node)
        if not isinstance(node.expr, nodes.Const | nodes.Filter):
            node.expr = _filter(_MADE, node.expr, node)
        return node

    def _made(self, node: nodes.Expr) -> nodes.Expr:
        if all(isinstance(child, nodes.Const) for child in node.iter_child_nodes()):
            return node
        self.generic_visit(node)
        return _filter(_MADE, node, node)

    def _with_spread(self, node: _Spreading) -> _Spreading:
        """`f(*values)`: they become a list before anybody counts them."""
        self.generic_visit(node)
        if node.dyn_args is not None:
            node.dyn_args = _filter(_SPREAD, node.dyn_args, node)
        return node

    def _with_turn(self, node: _Repeated) -> _Repeated:
        work = _work(node)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_filter(_TURN, _work_node(work, node), node), lineno=node.lineno))
        return node


def _work(node: nodes.Node) -> int:
    """What one more turn through `node` costs: its nodes, and the text that stands in it."""
    work = NODE_WORK
    for inner in node.find_all(nodes.Node):
        work += NODE_WORK + (len(inner.data) if isinstance(inner, nodes.TemplateData) else 0)
    return work


def _work_node(work: int, at: nodes.Node) -> nodes.Const:
    return nodes.Const(work, lineno=at.lineno)


def _filter(name: str, value: nodes.Expr, at: nodes.Node) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=at.lineno)

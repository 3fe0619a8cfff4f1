"""What one rendering may cost: an allowance of work, spent by everything that makes text, values or steps.

A unit is a character that is made or read, about ten nanoseconds; a value in a list counts as 32 of them, a
node of the template that runs again (in a loop, in a macro) as 16. Counting is deterministic, so a row renders
or fails the same way on every machine, and each cost is spent before the memory is asked for: nothing has to be
stopped half way. What is refused is named to the author; no value of a row is.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jinja2 import TemplateRuntimeError
from jinja2.runtime import LoopContext
from jinja2.utils import Namespace

TEXT_CHARS_MAX = 16 * 1024 * 1024
"""The longest text that one operation or one template may make."""

WORK_MAX = 64 * 1024 * 1024
"""All that one rendering of one template may spend: under a second, and at most four such texts."""

VALUE_WORK = 32
NODE_WORK = 16
INTEGER_BITS_MAX = 65_536

_SMALL = frozenset({int, float, bool, type(None)})

NAME = "\0allowance"
"""Under this name a rendering's allowance stands in the context; no template can write it."""


class Allowance:
    """What is left for one rendering."""

    __slots__ = ("_left",)

    def __init__(self, work_max: int = WORK_MAX) -> None:
        self._left = work_max

    def spend(self, work: int) -> None:
        """Take `work` units off.

        Raises:
            TemplateRuntimeError: There are not so many left.
        """
        self._left -= work
        if self._left < 0:
            raise TemplateRuntimeError("it makes too much text or takes too many steps for one prompt")

    def spend_text(self, chars: int, what: str) -> None:
        """Take the making of one text off; `what` names it, such as "the repeated text".

        Raises:
            TemplateRuntimeError: It is longer than any text may be, or there is not so much left.
        """
        if chars > TEXT_CHARS_MAX:
            raise TemplateRuntimeError(f"{what} is too long for a prompt")
        self.spend(chars)

    def weigh(self, value: Any) -> Any:
        """The value, paid for; what is made lazily is paid for as it comes.

        Raises:
            TemplateRuntimeError: It is too large.
        """
        kind = type(value)
        if kind is str:
            self.spend_text(len(value), "a text")
        elif kind is int:
            if value.bit_length() > INTEGER_BITS_MAX:
                raise TemplateRuntimeError("a number is too large for a prompt")
        elif kind in _SMALL:
            pass
        elif isinstance(value, Iterator) and not isinstance(value, LoopContext):
            return self._paid(value)
        elif isinstance(value, str | bytes | bytearray):
            self.spend_text(len(value), "a text")
        elif isinstance(value, list | tuple | set | frozenset | Mapping):
            self.spend(self.weight(value))
        return value

    def weight(self, value: Any) -> int:
        """The work that stands for a value with all that is in it, however often it is in it.

        Raises:
            TemplateRuntimeError: It is more than is left; the count stops there.
        """
        if isinstance(value, str | bytes | bytearray):
            return len(value)
        if type(value) in _SMALL:
            return 0
        work, unseen = 0, [value]
        while unseen:
            work += self._shallow(unseen.pop(), unseen)
            if work > self._left:
                self.spend(work)
        return work

    def depth(self, value: Any) -> int:
        """How many lists and objects stand inside one another in `value`, which has been paid for."""
        depth, level = 0, [value]
        while level:
            inside: list[Any] = []
            for node in level:
                self._shallow(node, inside)
            level = [node for node in inside if isinstance(node, list | tuple | set | frozenset | Mapping)]
            depth += 1
        return depth

    def _shallow(self, node: Any, unseen: list[Any]) -> int:
        """The work of one node without what is in it, which goes to `unseen`."""
        kind = type(node)
        if kind is str:
            return len(node)
        if kind in _SMALL:
            return 0
        if isinstance(node, str | bytes | bytearray):
            return len(node)
        if isinstance(node, Mapping):
            if len(node) * VALUE_WORK <= self._left:
                unseen.extend(node.keys())
                unseen.extend(node.values())
        elif isinstance(node, list | tuple | set | frozenset):
            if len(node) * VALUE_WORK <= self._left:
                unseen.extend(node)
        else:
            # What a namespace holds may grow after it was weighed.
            refuse_namespace(node)
            return 0
        return VALUE_WORK * (1 + len(node))

    def _paid(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self.spend(VALUE_WORK)
            yield self.weigh(value)


def refuse_namespace(value: object) -> None:
    """Refuse a namespace where text or data belongs.

    Raises:
        TemplateRuntimeError: It is one.
    """
    if isinstance(value, Namespace):
        raise TemplateRuntimeError("a namespace is no text and no value; name one of its fields")

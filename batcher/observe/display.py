"""The live display: one frame of a run as styled lines, for any width. Pure.

A line is a row of short phrases. What does not fit moves to the next line as a whole, so 40 columns
read as well as 120; a phrase wider than the terminal goes on below, and is cut with `…` after three
lines. The terminal itself never has to wrap a line.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rich.text import Text

from batcher.core.progress import Progress
from batcher.observe.human import counted, dollars, duration, kinds, rate, share, thousands
from batcher.observe.text import cells, cut
from batcher.observe.view import (
    View,
    budget_phrase,
    cost_phrase,
    cost_projected,
    down_phrase,
    failures_phrase,
    rows_left,
    rows_phrase,
    wait_phrases,
)

_BETWEEN = " · "
_BAR_WIDTH_MIN = 10
_BAR_WIDTH_MAX = 40
_NAME_WIDTH_MIN = 3
_NAME_WIDTH_MAX = 40
_ATTEMPTS_WORDS = "attempts failed in the last minute: "
_PHRASE_LINES_MAX = 3
# A number is not parted from what it counts.
_SPACE_AFTER_A_WORD = re.compile(r"(?<!\d) ")
_SPEEDS_DIFFER = 0.1

_GOOD, _BAD, _WAITING, _QUIET, _NAME = "green", "red", "yellow", "dim", "bold"


@dataclass(frozen=True, slots=True)
class _Phrase:
    text: str
    style: str = ""


def frame(progress: Progress, view: View, *, width: int, height: int) -> list[Text]:
    """The lines of the display, none wider than `width` - 1 cells and no more than `height` - 1 of them.

    The last column stays free: some terminals wrap when it is written.
    """
    room = max(1, width - 1)
    lines = [_headline(progress, view, room)]
    for phrases in _sections(progress, view):
        lines += _flow((phrase for phrase in phrases if phrase.text), room)
    return lines[: max(1, height - 1)]


def _headline(progress: Progress, view: View, room: int) -> Text:
    """The job's name, and a bar where the total is known."""
    left = rows_left(progress)
    part = share(progress.done, progress.done + left) if left is not None else ""
    if room < len(part) + 1 + _NAME_WIDTH_MIN:
        part = ""
    name = cut(view.job_name, min(_NAME_WIDTH_MAX, room - len(part) - 1 if part else room))
    line = Text(name, style=_NAME, end="")
    bar_width = min(_BAR_WIDTH_MAX, room - cells(name) - len(part) - 4)
    if left is not None and bar_width >= _BAR_WIDTH_MIN:
        full = bar_width * progress.done // max(1, progress.done + left)
        line.append("  ")
        line.append("━" * full, style=f"not bold {_GOOD}")
        line.append("─" * (bar_width - full), style=f"not bold {_QUIET}")
    if part:
        line.append(("  " if bar_width >= _BAR_WIDTH_MIN else " ") + part, style="not bold")
    return line


def _sections(progress: Progress, view: View) -> Iterable[list[_Phrase]]:
    left = f"about {duration(view.left_s)} left" if view.left_s and view.left_s >= 1.0 else ""
    yield [
        _Phrase(_rows(progress)),
        _Phrase(_speed(view)),
        _Phrase(f"{thousands(progress.in_flight)} in flight"),
        _Phrase(left),
        _Phrase(duration(view.elapsed_s) + " so far", _QUIET),
    ]
    yield [
        _Phrase(_cost(progress, view), _WAITING if view.unpriced or progress.rows_cost_unknown else ""),
        _Phrase(_forecast(progress, view), _BAD),
        _Phrase(_tokens(progress)),
    ]
    failures = failures_phrase(progress)
    yield [_Phrase(failures, _BAD if progress.failed else _WAITING)]
    recent = kinds(view.failures_recent)
    yield [_Phrase(_ATTEMPTS_WORDS + recent if recent else "", _QUIET)]
    yield [_Phrase(down_phrase(view), f"bold {_BAD}")]
    waits = wait_phrases(progress, view)
    yield [_Phrase(("waiting: " if number == 0 else "") + text, _WAITING) for number, text in enumerate(waits)]
    yield [_Phrase(view.note, _NAME)]


def _rows(progress: Progress) -> str:
    """The rows without the share, which stands beside the bar."""
    return rows_phrase(progress).partition(" (")[0]


def _speed(view: View) -> str:
    """The speed of late, and the speed since the start where it tells something else."""
    now, overall = view.rows_per_s, view.rows_per_s_overall
    if now is None or overall is None:
        return ""
    if abs(now - overall) <= _SPEEDS_DIFFER * overall:
        return rate(now)
    return f"{rate(now)} ({rate(overall)} overall)"


def _cost(progress: Progress, view: View) -> str:
    # What costs nothing so far, and is known to, will cost nothing.
    projected = cost_projected(progress, view) or None
    phrase = cost_phrase(progress, unpriced=view.unpriced)
    if progress.budget_usd is not None:
        return phrase + budget_phrase(progress)
    return phrase if projected is None else f"{phrase} of about {dollars(projected)}"


def _forecast(progress: Progress, view: View) -> str:
    """What the whole job will cost, where that is more than its budget: it is better known before the stop."""
    projected = cost_projected(progress, view)
    if progress.budget_usd is None or projected is None or projected <= progress.budget_usd:
        return ""
    return f"the whole job would cost about {dollars(projected)}"


def _tokens(progress: Progress) -> str:
    if not progress.input_tokens and not progress.output_tokens:
        return ""
    return f"{counted(progress.input_tokens, 'token')} in, {thousands(progress.output_tokens)} out"


def _flow(phrases: Iterable[_Phrase], room: int) -> list[Text]:
    """Put phrases into lines of at most `room` cells."""
    lines: list[Text] = []
    used = 0
    for phrase in phrases:
        first, *rest = _wrapped(phrase.text, room)
        if not lines or used + len(_BETWEEN) + cells(first) > room:
            lines.append(Text(end=""))
            used = 0
        else:
            lines[-1].append(_BETWEEN, style=_QUIET)
            used += len(_BETWEEN)
        lines[-1].append(first, style=phrase.style)
        used += cells(first)
        for text in rest:
            lines.append(Text(text, style=phrase.style, end=""))
            used = cells(text)
    return lines


def _wrapped(text: str, room: int) -> list[str]:
    """`text` broken between words into lines of at most `room` cells, a few at most; the last is cut."""
    lines = [""]
    words = _SPACE_AFTER_A_WORD.split(text)
    for number, word in enumerate(words):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cells(joined) <= room:
            lines[-1] = joined
        elif len(lines) == _PHRASE_LINES_MAX or not lines[-1]:
            lines[-1] = cut(" ".join([joined, *words[number + 1 :]]), room)
            break
        else:
            lines.append(word if cells(word) <= room else cut(word, room))
    return lines

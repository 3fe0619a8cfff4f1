"""One answer given to everything: found among millions of rows in bounded memory.

A provider that answers "Prompt is too long" as text to every row gives answers that are `ok`, not empty, and
worth nothing. Answers are compared trimmed and in lower case; where one reads like an error message, its
numbers count as one sign, so that "213462 tokens > 200000" and "198004 tokens > 200000" are the same. Only
there: "ticket 17 of 40" and "ticket 18 of 40" may well be two right answers.

Two passes keep the price low. `SameHeads` looks at the beginning of each answer while the results are written;
only where one beginning is frequent does `SameAnswers` read the whole answers again. Both count with the
summary of Misra and Gries 1982 (merged as Agarwal et al. 2012): with k counters, no count is too small by
more than n / (k + 1), and none is too large.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

ROWS_MIN = 20
"""Of fewer answers, several may be the same by chance."""

WIDTH_MIN = 8
"""Shorter answers (`yes`, `positive?`) are rightly given often. Chinese, Japanese and Korean characters count twice."""

COUNTERS = 200

_HEAD_CHARS, _FOLDED_HEAD_CHARS = 100, 50
_NUMBER = r"\p{Nd}+(?:[.,]\p{Nd}+)*"
_NUMBER_SIGN = "#"
# What providers, proxies and models say when they did not answer, in the languages our users write most.
_ERROR_WORDS = (
    r"\b(?:error|exception|traceback|failed|failure|too (?:long|large|many)|tokens?|context|exceed(?:s|ed|ing)?|limit"
    r"|limited|maximum|quota|time[d -]*out|unauthori[sz]ed|forbidden|denied|unavailable|overloaded|invalid|request)\b"
    r"|错误|錯誤|过长|過長|太长|太長|超过|超過|超出|限制|无法|無法|エラー|長すぎ"
    r"|ผิดพลาด|ยาวเกิน|เกินกำหนด|เกินขีด|ไม่สามารถ|lỗi|quá dài|vượt quá|giới hạn|không thể"
)


@dataclass(frozen=True, slots=True)
class Same:
    """The answer that most rows have. `rows` is a lower bound unless `is_exact`; `text` is one of them as given."""

    rows: int
    answers: int
    text: str
    is_exact: bool = True


class Frequent:
    """The frequent values of a stream of texts, `counters_max` of them; see the module.

    Texts are kept as hashes of 128 bits, so that long ones take no room.
    """

    def __init__(self, counters_max: int = COUNTERS) -> None:
        self._counters_max = counters_max
        self.counts: dict[bytes, int] = {}
        self.shown: dict[bytes, str] = {}
        self.missed_max = 0

    def add(self, texts: pa.Array, shown: pa.Array | None = None) -> None:
        """Count one batch; `shown` is what stands for each text when it is named, where that is not itself."""
        found = pc.value_counts(texts)
        values, counts = found.field(0), found.field(1)
        least = self._counted_off(counts)
        kept = pc.greater(counts, least)
        for value, count in zip(values.filter(kept).to_pylist(), counts.filter(kept).to_pylist(), strict=True):
            digest = xxhash.xxh3_128_digest(value.encode())
            self.counts[digest] = self.counts.get(digest, 0) + count - least
            if digest not in self.shown:
                self.shown[digest] = value if shown is None else shown[pc.index(texts, value).as_py()].as_py()
        again = self._counted_off(pa.array(self.counts.values(), pa.int64()))
        self.counts = {digest: count - again for digest, count in self.counts.items() if count > again}
        self.shown = {digest: self.shown[digest] for digest in self.counts}
        self.missed_max += least + again

    def _counted_off(self, counts: pa.Array) -> int:
        """What is taken from each count so that no more than `counters_max` are left: the next one's."""
        if len(counts) <= self._counters_max:
            return 0
        if pc.max(counts).as_py() == 1:  # mostly so: every answer is another
            return 1
        next_one: int = pc.array_sort_indices(counts, order="descending")[self._counters_max].as_py()
        taken: int = counts[next_one].as_py()
        return taken


class SameHeads:
    """Whether so many answers begin alike that the whole ones are worth a look.

    It never says no where one answer takes more than the share, however its numbers differ in length (by up to 50
    digits in its first 100 characters).
    """

    def __init__(self) -> None:
        self._frequent = Frequent()
        self._answers = 0

    def add(self, answers: pa.Array) -> None:
        """Look at a batch of answers without nulls."""
        heads = pc.utf8_slice_codeunits(pc.utf8_ltrim_whitespace(answers), 0, _HEAD_CHARS)
        # Cut again, since longer numbers leave less of the text behind them.
        folded = pc.utf8_slice_codeunits(_folded(_plain(heads)), 0, _FOLDED_HEAD_CHARS)
        self._frequent.add(folded)
        self._answers += len(answers)

    def may_be_above(self, share: Decimal) -> bool:
        """Whether one answer may take more than `share` of them."""
        if self._answers < ROWS_MIN or share >= 1:
            return False
        most = share * self._answers - self._frequent.missed_max
        return any(
            count > most and (_NUMBER_SIGN in self._frequent.shown[digest] or _is_wide(self._frequent.shown[digest]))
            for digest, count in self._frequent.counts.items()
        )


class SameAnswers:
    """The whole answer that is given most."""

    def __init__(self) -> None:
        self._frequent = Frequent()
        self._answers = 0

    def add(self, answers: pa.Array) -> None:
        """Count a batch of answers without nulls."""
        plain = _plain(answers)
        folded = _folded(plain)
        key = pc.if_else(pc.match_substring_regex(folded, _ERROR_WORDS), folded, plain)
        self._frequent.add(key, answers)
        self._answers += len(answers)

    def most(self) -> Same | None:
        """The most frequent answer that says more than a word; None where there is none, or too few answers."""
        counts = {
            digest: count for digest, count in self._frequent.counts.items() if _is_wide(self._frequent.shown[digest])
        }
        if not counts or self._answers < ROWS_MIN:
            return None
        digest = max(counts, key=counts.__getitem__)
        is_exact = self._frequent.missed_max == 0
        return Same(counts[digest], self._answers, self._frequent.shown[digest], is_exact=is_exact)


def most_given(batches: Iterable[pa.Array]) -> Same | None:
    """The answer that is given most in all of these batches; see `SameAnswers.most`."""
    same = SameAnswers()
    for answers in batches:
        same.add(answers)
    return same.most()


def judge_sameness(same: Same | None, share: Decimal, *, shown: str) -> list[str]:
    """A sentence where one answer takes more than `share` of them, else none.

    Args:
        same: The answer that is given most.
        share: `success.same`.
        shown: `same.text`, masked and made safe to show.
    """
    if same is None or same.rows <= share * same.answers:
        return []
    about = "" if same.is_exact else "at least "
    return [
        f'{about}{same.rows:,} of {same.answers:,} answers are the same: "{shown}"; '
        f"success.same allows {format((share * 100).normalize(), 'f')} %"
    ]


def _plain(texts: pa.Array) -> pa.Array:
    return pc.utf8_lower(pc.utf8_trim_whitespace(texts))


def _folded(texts: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(texts, _NUMBER, _NUMBER_SIGN)


def _is_wide(text: str) -> bool:
    """Whether the text takes `WIDTH_MIN` columns or more."""
    start = text.strip()[:WIDTH_MIN]
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in start) >= WIDTH_MIN

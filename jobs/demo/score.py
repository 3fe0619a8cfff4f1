"""How right a finished run was: its labels against the truth that was carried into the results.

    python jobs/demo/score.py runs/demo/2026-11-21T02-00-00Z-7f3a

Prints the accuracy with its 95 % interval, which label was given to which truth (a model that gives one
label to everything shows at once), the cost, and a few rows. Rows without a valid label count as wrong.
"""

import argparse
import math
import shutil
import sys
import unicodedata
from pathlib import Path

import polars as pl

NO_LABEL = "(none)"
Z_95 = 1.959964


def wilson(right: int, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share; holds near 0 and 1 and for few rows too (Wilson 1927)."""
    share, z2 = right / rows, Z_95**2
    centre = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z_95 * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2)) / (1 + z2 / rows)
    return max(0.0, centre - half), min(1.0, centre + half)


def columns_of(character: str) -> int:
    """How many terminal columns a character takes: Thai vowel signs none, Chinese two."""
    if unicodedata.combining(character) or unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def fitted(text: str, width: int) -> str:
    """The text in exactly `width` columns, cut or filled; control characters become spaces."""
    clean = "".join(c if unicodedata.category(c) != "Cc" else " " for c in text)
    if sum(map(columns_of, clean)) > width:
        kept, used = "", 0
        for character in clean:
            if used + columns_of(character) > width - 1:
                break
            kept, used = kept + character, used + columns_of(character)
        clean = kept + "…"
    return clean + " " * (width - sum(map(columns_of, clean)))


def accuracy_lines(results: pl.DataFrame) -> list[str]:
    """The share that is right, beside what the most frequent truth alone would reach."""
    rows = results.height
    right = int(results["is_right"].sum())
    low, high = wilson(right, rows)
    commonest = int(results["truth"].value_counts()["count"].max())  # type: ignore[arg-type]  # counts are integers
    lines = [
        f"accuracy  {right / rows:.1%}   ({right} of {rows}; 95 % interval {low:.1%} to {high:.1%})",
        f"          one label for everything would reach {commonest / rows:.1%}",
    ]
    statuses = dict(results["status"].value_counts().sort("status").iter_rows())
    if set(statuses) != {"ok"}:
        lines.append("          " + ", ".join(f"{count} {status}" for status, count in statuses.items()))
    return lines


def confusion_lines(results: pl.DataFrame) -> list[str]:
    """A row for each truth, a column for each label that was given."""
    labels = sorted(set(results["truth"]) | set(results["label"]) - {NO_LABEL})
    if NO_LABEL in set(results["label"]):
        labels.append(NO_LABEL)
    width = max(map(len, [*labels, "truth"])) + 2
    lines = ["truth".ljust(width) + "".join(f"{label:>{width}}" for label in labels) + "   right"]
    for truth in sorted(set(results["truth"])):
        of_truth = results.filter(pl.col("truth") == truth)
        counts = [of_truth.filter(pl.col("label") == label).height for label in labels]
        lines.append(
            truth.ljust(width)
            + "".join(f"{count:>{width}}" for count in counts)
            + f"{of_truth['is_right'].mean():>8.0%}"
        )
    return lines


def cost_line(results: pl.DataFrame) -> str:
    """The sum in US dollars; a price that is not known is said, never counted as 0."""
    unknown = results["cost_usd"].null_count()
    if unknown == results.height:
        return "cost      unknown"
    known = f"{results['cost_usd'].sum():.6f}".rstrip("0").rstrip(".")
    return f"cost      {known} USD" + (f" and {unknown} rows whose cost is unknown" if unknown else "")


def sample_lines(results: pl.DataFrame, count: int) -> list[str]:
    """Rows at even distances through the results, in the width of the terminal."""
    step = max(1, results.height // max(1, count))
    chosen = results.gather_every(step).head(count)
    label_width = max([len("truth"), *map(len, results["truth"]), *map(len, results["label"])]) + 2
    text_width = max(20, shutil.get_terminal_size((100, 24)).columns - 2 * label_width - 8)
    lines = [fitted("text", text_width) + "  " + "label".ljust(label_width) + "truth"]
    for row in chosen.iter_rows(named=True):
        verdict = "right" if row["is_right"] else "WRONG"
        text = fitted(row["text"], text_width)
        lines.append(f"{text}  {row['label'].ljust(label_width)}{row['truth'].ljust(label_width)}{verdict}")
    return lines


def main() -> int:
    """Read `results.parquet` of the run and print."""
    parser = argparse.ArgumentParser(description="How right a finished run was.")
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--text", default="text", help="the carried column with the text")
    parser.add_argument("--truth", default="truth", help="the carried column with the right label")
    parser.add_argument("--rows", type=int, default=6, help="how many rows to show")
    options = parser.parse_args()
    file = options.run / "results.parquet"
    if not file.is_file():
        print(f"error: {file} is not there; has the run finished?", file=sys.stderr)
        return 2
    table = pl.read_parquet(file)
    needed = ["label", "status", "cost_usd", options.text, options.truth]
    if missing := [name for name in needed if name not in table.columns]:
        print(f"error: {file} has no column {', '.join(missing)}; carry it with `input.carry`", file=sys.stderr)
        return 2
    if table.is_empty():
        print(f"error: {file} holds no rows", file=sys.stderr)
        return 2
    results = table.select(
        pl.col(options.text).cast(pl.String).fill_null("").alias("text"),
        pl.col(options.truth).cast(pl.String).fill_null("").alias("truth"),
        pl.col("label").fill_null(NO_LABEL),
        "status",
        "cost_usd",
    ).with_columns((pl.col("label") == pl.col("truth")).alias("is_right"))
    blocks = [
        [*accuracy_lines(results), cost_line(results)],
        confusion_lines(results),
        sample_lines(results, options.rows),
    ]
    print("\n\n".join("\n".join(block) for block in blocks))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The generated parts of docs/benchmarks.md, between markers, and the plots beside it.

What stands between `<!-- bench:NAME -->` and `<!-- bench:end -->` comes from the results; the rest is written by hand.
"""

import re
from pathlib import Path

from plots import plot_cpu, plot_memory, plot_rates
from processes import BenchmarkError
from profiling import profile_lines
from results import Results
from summary import summary_table
from tables import workload_tables


def write_document(results: Results, document: Path) -> None:
    """Put the results into the document, and the plots into `img/` beside it.

    Raises:
        BenchmarkError: The document has no place for a part.
    """
    images = document.parent / "img"
    images.mkdir(exist_ok=True)
    parts = {
        "facts": "\n".join(results.facts),
        "summary": summary_table(results),
        "rates": _image("benchmark-rates.svg", "Rows a second of each program, of the rawest client's, by workload"),
        "tables": workload_tables(results),
    }
    (images / "benchmark-rates.svg").write_text(plot_rates(results.rounds), encoding="utf-8")
    if results.memory:
        parts["memory"] = _image("benchmark-memory.svg", "Peak memory by the number of rows")
        (images / "benchmark-memory.svg").write_text(plot_memory(results.memory), encoding="utf-8")
    if results.profile is not None:
        image = _image("benchmark-cpu.svg", "CPU of a row by part, in microseconds")
        parts["profile"] = f"{profile_lines(results.profile)}\n\n{image}"
        (images / "benchmark-cpu.svg").write_text(plot_cpu(results.profile), encoding="utf-8")
    text = document.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = with_part(text, name, part)
    document.write_text(text, encoding="utf-8")


def with_part(text: str, name: str, part: str) -> str:
    """The text with what is between the markers of `name` replaced.

    Raises:
        BenchmarkError: It has no such markers.
    """
    pattern = re.compile(rf"(<!-- bench:{name} -->\n).*?(<!-- bench:end -->)", re.DOTALL)
    written, count = pattern.subn(lambda found: f"{found[1]}\n{part}\n\n{found[2]}", text, count=1)
    if not count:
        raise BenchmarkError(f"the document has no place for {name}: <!-- bench:{name} --> ... <!-- bench:end -->")
    return written


def _image(name: str, alternative: str) -> str:
    return f"![{alternative}](img/{name})"

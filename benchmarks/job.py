"""The job that batcher is measured with: everything on.

Keys, labels that are sent and checked, limits in calls, requests and tokens, a budget, prices, the journal with its
syncs. The limits and the budget are never reached, so what is measured is what watching them costs.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from questions import MAX_TOKENS, row_text
from workloads import Workload

_JOB = """\
name: bench
input: {{path: {input}, key: ticket_id}}
prompt:
  system: You sort support tickets.
  user: "Which team should handle this ticket?\\n{{{{ text }}}}"
model: bench-model
params: {{max_tokens: {max_tokens}}}
{answer}client: {client}
provider:
  name: bench
  base_url: "{url}"
  api_key: "${{BENCH_KEY}}"
  limits: {{concurrency: {in_flight}}}
  price: {{input: 0.10, cached_input: 0.025, output: 0.40}}
limits: {limits}
{budget}"""

_LIMITS = "{{concurrency: {in_flight}, requests_per_minute: 60_000_000, tokens_per_minute: 60_000_000_000}}"


@dataclass(frozen=True, slots=True)
class Features:
    """What of a job is switched on; the profile switches parts off to see what they cost."""

    client: str = "fast"
    has_labels: bool = True
    has_rates: bool = True
    has_budget: bool = True


EVERYTHING = Features()


def job_file(directory: Path, workload: Workload, rows: int, *, url: str, features: Features = EVERYTHING) -> Path:
    """The job for a workload, and its input where that is not there yet; both in `directory`."""
    source = _input(directory, rows, workload.text_bytes)
    # A long answer is a text: labels would call it invalid.
    features = replace(features, has_labels=features.has_labels and not workload.answer_bytes)
    limits = _LIMITS if features.has_rates else "{{concurrency: {in_flight}}}"
    text = _JOB.format(
        input=source.name,
        # The budget's worst case must cover the longest answer.
        max_tokens=max(MAX_TOKENS, workload.answer_bytes),
        answer="answer: {labels: [billing, technical, other]}\n" if features.has_labels else "",
        client=features.client,
        url=url,
        in_flight=workload.in_flight,
        limits=limits.format(in_flight=workload.in_flight),
        budget="budget: {usd: 100000}\n" if features.has_budget else "",
    )
    path = directory / f"{workload.name.replace(' ', '-').replace(',', '')}-{features.client}-{rows}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _input(directory: Path, rows: int, text_bytes: int) -> Path:
    path = directory / f"rows-{rows}-{text_bytes}.jsonl"
    if not path.exists():
        with path.open("w", encoding="utf-8") as file:
            for row in range(rows):
                record = {"ticket_id": f"T{row:09d}", "lang": "mixed", "text": row_text(row, text_bytes)}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path

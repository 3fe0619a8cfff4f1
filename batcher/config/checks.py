"""What concerns two fields of a job, or a field and a file: each check is one sentence.

They run after the models, so every value has its type. Nothing is opened here but directories and certificates.
"""

import fnmatch
import unicodedata
from pathlib import Path

from batcher.config.faults import refuse
from batcher.config.files import target_fault
from batcher.config.model import Job, Provider
from batcher.config.tree import Node
from batcher.config.tree import Path as FieldPath
from batcher.errors import JobError

RESULT_COLUMNS = frozenset(
    {
        "row",
        "key",
        "status",
        "answer",
        "label",
        "parsed",
        "reasoning",
        "embedding",
        "nll",
        "tokens_scored",
        "perplexity",
        "error_kind",
        "error",
        "finish_reason",
        "model",
        "system_fingerprint",
        "provider",
        "cache",
        "attempts",
        "input_tokens",
        "cached_tokens",
        "output_tokens",
        "reasoning_tokens",
        "cost_usd",
        "latency_ms",
        "finished_at",
    }
)
"""The columns of the results, of every kind of job; a carried column may be called none of these."""

OWNED_PARAMS = {
    "stream": "replies are read whole",
    "stream_options": "replies are read whole",
    "n": "a row has one answer",
    "messages": "they are made from the prompt",
    "model": "it is the field model of the job",
}
"""Parameters that the engine sets itself, each with the reason."""

OUTPUT_FORMATS = {".parquet": "parquet", ".jsonl": "jsonl", ".csv": "csv"}


def check_job(job: Job, tree: Node, base: Path) -> None:
    """Check what no single field can.

    Raises:
        JobError: The first thing that is wrong.
    """
    _check_prompt(job, tree)
    _check_carry(job, tree)
    _check_params(job, tree)
    _check_labels(job, tree)
    _check_provider(job, tree, base)
    _check_output(job, tree, base)


def _check_prompt(job: Job, tree: Node) -> None:
    prompt = job.prompt
    if prompt.user is not None and prompt.messages is not None:
        refuse(tree, ("prompt", "messages"), "and prompt.user both say what is asked; keep one of them")
    if prompt.messages is not None and (prompt.system is not None or prompt.examples):
        refuse(tree, ("prompt", "messages"), "holds whole chats; put system and examples into them, or remove it")
    if prompt.user is None and prompt.messages is None:
        refuse(tree, ("prompt", "user"), 'is missing; write what is asked about a row, like "{{ text }}"')


def _check_carry(job: Job, tree: Node) -> None:
    seen: set[str] = set()
    for index, column in enumerate(job.input.carry):
        path: FieldPath = ("input", "carry", index)
        if column in seen:
            refuse(tree, path, "names a column that stands in the list already; remove one")
        if column in RESULT_COLUMNS:
            refuse(tree, path, f"is {column}, which the results have already; rename that column in the input")
        seen.add(column)


def _check_params(job: Job, tree: Node) -> None:
    for name in job.params:
        if name in OWNED_PARAMS:
            raise JobError(
                f"{tree.nearest(('params', name)).spot}: params.{name} is set by batcher itself, "
                f"as {OWNED_PARAMS[name]}; remove it"
            )
    if "response_format" in job.params and job.answer.labels is not None and job.answer.structured == "auto":
        refuse(
            tree,
            ("params", "response_format"),
            "is made from answer.labels; remove it, or write answer.structured: off",
        )


def _check_labels(job: Job, tree: Node) -> None:
    seen: dict[str, int] = {}
    for index, label in enumerate(job.answer.labels or ()):
        same = unicodedata.normalize("NFKC", label).casefold().strip()
        if same in seen:
            refuse(
                tree,
                ("answer", "labels", index),
                f"is the same as label {seen[same] + 1} (case, width and spaces do not count); remove one",
            )
        if not same:
            refuse(tree, ("answer", "labels", index), "is empty; write some text")
        seen[same] = index


def _check_provider(job: Job, tree: Node, base: Path) -> None:
    if job.provider is not None and job.providers is not None:
        refuse(tree, ("providers",), "and provider both say who is asked; keep one of them")
    provider, path = job.sole_provider, _provider_path(job)
    if provider.local is not None:
        _check_local(provider, tree, path)
    elif provider.model is None and job.model is None:
        raise JobError(f"{tree.spot}: model is missing; name the model to ask, like model: gpt-4.1-nano")
    if provider.tls is not None:
        from batcher.config.certificates import check_tls  # noqa: PLC0415  # 10 ms of ssl that few jobs need

        check_tls(provider, tree, path, base)
    seen: set[str] = set()
    for index, key in enumerate(provider.api_key):
        if key.get_secret_value() in seen:
            refuse(tree, (*path, "api_key", index), "is the same key as one before it; each key counts once")
        seen.add(key.get_secret_value())


def _check_local(provider: Provider, tree: Node, path: FieldPath) -> None:
    for name in ("base_url", "api_key", "model", "tls"):
        if getattr(provider, name):
            refuse(tree, (*path, name), "stands beside local, which needs none of it; remove one of the two")


def _provider_path(job: Job) -> FieldPath:
    return ("provider",) if job.provider is not None else ("providers", 0)


def _check_output(job: Job, tree: Node, base: Path) -> None:
    if job.output.path is None:
        return
    path: FieldPath = ("output", "path")
    target = base / job.output.path
    ending = OUTPUT_FORMATS.get(target.suffix.lower())
    if ending is None:
        refuse(tree, path, "does not end in .parquet, .jsonl or .csv; choose one of them")
    if job.output.format not in (None, ending):
        refuse(tree, ("output", "format"), f"is {job.output.format}, but output.path ends in {target.suffix}; mend one")
    if (sentence := target_fault(target)) is not None:
        refuse(tree, path, sentence)
    for index, source in enumerate(job.input.path):
        if _may_be_same(target, base / source):
            refuse(tree, path, f"is also read by input.path.{index}; write the results to another file")
    if isinstance(job.prompt.examples, str) and _may_be_same(target, base / job.prompt.examples):
        refuse(tree, path, "is also the file of prompt.examples; write the results to another file")


def _may_be_same(target: Path, source: Path) -> bool:
    """Whether the file is the source, through links and as a match of a glob too."""
    written, read = _real(target), _real(source)
    if written == read or _is_one_file(written, read):
        return True
    return any(c in str(read) for c in "*?[") and fnmatch.fnmatchcase(str(written), str(read))


def _is_one_file(written: Path, read: Path) -> bool:
    """Whether both names lead to one file: by a hard link, or where the file system does not tell cases apart."""
    try:
        return written.samefile(read)
    except (OSError, ValueError):
        return False


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        # A loop of links is nobody's input; whoever opens it will say so.
        return path.absolute()

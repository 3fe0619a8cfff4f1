"""A job file, read and made complete: the one way from YAML to a `Job`.

    text -> tree -> options set -> fields known? -> variables filled in -> defaults -> models -> checks

Each step refuses with one sentence (`JobError`), and nothing is written. The order matters: variables
are filled in after parsing, so no value adds YAML, and fields are checked before, so that a slip in a
field's name is not reported as a missing variable.
"""

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from batcher.config.as_run import emit
from batcher.config.checks import check_job
from batcher.config.examples import read_examples
from batcher.config.faults import refuse, validated
from batcher.config.fields import refuse_unknown
from batcher.config.files import read_text, shown
from batcher.config.fingerprint import Fingerprint, fingerprint_of
from batcher.config.model import DEFAULT_BASE_URL, Example, Job
from batcher.config.overrides import expanded, with_limit, with_set
from batcher.config.tree import Node, Spot, parse, refuse_unwritable
from batcher.config.tree import Path as FieldPath
from batcher.config.values import found
from batcher.config.variables import Filler, check_variables, escaped, refuse_misplaced_secrets
from batcher.errors import JobError

KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"


@dataclass(frozen=True, slots=True)
class LoadedJob:
    """A job that is complete and checked, and what a run keeps of it.

    Relative paths in the job start at `base`. `secrets` are the keys, for masking. `as_run` is the text
    of the run directory's `job.yaml`; `load_job(run / "job.yaml", original=job_file)` reads it back.
    `examples` are the prompt's, read from their file where they have one. `variables` are those that
    templates may name: all of `--var`, without those that a key was made from.
    """

    job: Job
    path: Path
    base: Path
    secrets: frozenset[str]
    as_run: str
    fingerprint: Fingerprint
    examples: tuple[Example, ...]
    variables: Mapping[str, str]

    def __repr__(self) -> str:
        # The generated one would print every key.
        return f"LoadedJob({shown(self.path)}, name={self.job.name!r}, fingerprint={self.fingerprint.digest})"


def load_job(
    path: Path,
    *,
    variables: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
    limit: int | None = None,
    environ: Mapping[str, str] = os.environ,
    original: Path | None = None,
) -> LoadedJob:
    """The job in a file.

    Args:
        path: The job file.
        variables: `--var`: for `${NAME}` in the file, and for templates.
        sets: `--set`, each as `path=value`; later ones win.
        limit: `--limit`: takes the place of `input.limit`.
        environ: The environment.
        original: For a run directory's `job.yaml`: the job file it was made from. Relative paths start
            where that file is, and keys that it writes out are read from it; it may be gone otherwise.

    Raises:
        JobError: The file, an option or a variable is wrong; the message says where and what to write.
    """
    variables = dict(variables or {})
    check_variables(variables)
    tree = _read(path)
    for option in sets:
        tree = with_set(tree, option)
    if limit is not None:
        tree = with_limit(tree, limit)
    refuse_unknown(tree)
    tree = _with_defaults(tree, path, environ)
    key_of_original = functools.partial(_key_in, original, variables, environ) if original is not None else None
    filler = Filler(variables, environ, key_of_original)
    tree = filler.fill(tree)
    refuse_misplaced_secrets(tree, frozenset(filler.secrets))

    job = validated(Job, tree)
    base = (original or path).absolute().parent
    check_job(job, tree, base)
    job = _with_fitting_wait(job, tree)
    examples = _examples(job, tree, base)
    open_variables = {name: value for name, value in variables.items() if name not in filler.secret_names}
    named = _variables_named(_templates(job, examples), open_variables)
    return LoadedJob(
        job=job,
        path=path,
        base=base,
        secrets=frozenset(filler.secrets),
        as_run=emit(tree),
        fingerprint=fingerprint_of(job, examples, named),
        examples=examples,
        variables=open_variables,
    )


def _read(path: Path) -> Node:
    tree = parse(read_text(path, what="the job file"), shown(path))
    if not isinstance(tree.value, dict):
        kind = "the file is empty" if tree.value is None else f"the file {found(tree.plain())}"
        raise JobError(f"{tree.spot}: {kind}; a job is a mapping of fields, as `batcher init` writes it")
    return expanded(tree)


def _with_defaults(tree: Node, path: Path, environ: Mapping[str, str]) -> Node:
    """The tree with the name and the provider that a job without them has; a copy of it shows both."""
    spot = Spot(shown(path))
    fields: dict[str, Node] = dict(tree.value) if isinstance(tree.value, dict) else {}
    if "name" not in fields:
        try:
            refuse_unwritable(path.stem, spot)
        except JobError:
            raise JobError(f"{spot}: the file's name is not UTF-8; rename it, or give the job a name") from None
        fields = {"name": Node(escaped(path.stem), spot), **fields}
    if "provider" not in fields and "providers" not in fields:
        fields["provider"] = Node({}, spot)
    for name in ("provider", "providers"):
        if name in fields:
            fields[name] = _reachable(fields[name], environ)
    return replace(tree, value=fields)


def _reachable(node: Node, environ: Mapping[str, str]) -> Node:
    """The provider (or each of a list) with the URL and key that the environment gives one without.

    A key from the environment goes to the environment's URL or to OpenAI, never to another URL: that
    would hand it to whoever a job names.
    """
    if isinstance(node.value, list):
        return replace(node, value=[_reachable(child, environ) for child in node.value])
    if not isinstance(node.value, dict) or "local" in node.value or "base_url" in node.value:
        return node
    url = environ.get(URL_VARIABLE, "").strip() or DEFAULT_BASE_URL
    fields = {"base_url": Node(escaped(url), replace(node.spot, line=None)), **node.value}
    if "api_key" not in fields:
        if not environ.get(KEY_VARIABLE, "").strip():
            raise JobError(
                f"{node.spot}: the job names no api_key, and {KEY_VARIABLE} is not set; "
                "set it, or give the job a provider with base_url and api_key"
            )
        fields["api_key"] = Node(f"${{{KEY_VARIABLE}}}", node.spot)
    return replace(node, value=fields)


def _key_in(original: Path, variables: Mapping[str, str], environ: Mapping[str, str], path: FieldPath) -> str | None:
    """The key that the original job file holds at `path`, or None where it has none there any more."""
    if not original.is_file():
        return None
    node = _read(original).at(path)
    if node is None or not isinstance(node.value, str):
        return None
    # Filled as part of its path: a key may be a reference there by now.
    key = Filler(variables, environ).fill(node, path).value
    return key if isinstance(key, str) else None


def _with_fitting_wait(job: Job, tree: Node) -> Job:
    """Lower the first wait to the longest, where the file gives only the longest; refuse it where it gives both."""
    if job.retry.min_wait_s <= job.retry.max_wait_s:
        return job
    if tree.at(("retry", "min_wait")) is not None:
        refuse(tree, ("retry", "min_wait"), "is longer than retry.max_wait; lower it or raise the other")
    retry = job.retry.model_copy(update={"min_wait_s": job.retry.max_wait_s})
    return job.model_copy(update={"retry": retry})


def _examples(job: Job, tree: Node, base: Path) -> tuple[Example, ...]:
    examples = job.prompt.examples
    if not isinstance(examples, str):
        return examples
    if not (base / examples).is_file():
        refuse(tree, ("prompt", "examples"), f"names {shown(base / examples)}, which is no file; mend the path")
    return read_examples(base / examples)


def _templates(job: Job, examples: Iterable[Example]) -> Iterator[str]:
    for text in (job.prompt.system, job.prompt.user):
        if text is not None:
            yield text
    for example in examples:
        yield from (example.user, example.assistant)


def _variables_named(templates: Iterator[str], variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that the templates speak of.

    A template that cannot be read counts as speaking of all: the prompts refuse it in better words,
    with the input's columns.
    """
    if not variables:
        return {}
    from jinja2 import Environment, TemplateError, nodes  # noqa: PLC0415  # 50 ms that few jobs need

    named: set[str] = set()
    for template in templates:
        try:
            tree = Environment(autoescape=False).parse(template)  # noqa: S701  # parsed, never rendered
            named.update(node.name for node in tree.find_all(nodes.Name))
        except (TemplateError, RecursionError):
            return dict(variables)
    return {name: value for name, value in variables.items() if name in named}

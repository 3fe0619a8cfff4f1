"""A job's own parts: its rows, its prompts, its check of answers. Everything here happens before anything is sent."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from batcher.answers.gold import GoldRule
from batcher.answers.labels import LabelChecker, structured_format
from batcher.answers.sameness import SameLimit
from batcher.answers.success import SuccessRule
from batcher.answers.text import TextChecker
from batcher.assemble.books import refuse_unpriced
from batcher.assemble.rule import check_success, check_truths
from batcher.assemble.stack import refuse_too_many_connections
from batcher.clock import SystemClock
from batcher.config.load import LoadedJob
from batcher.core.contracts import Checker
from batcher.prompts.chat import ChatRenderer
from batcher.providers.network import DIRECT, Network, Tls, network_for
from batcher.runs.runfile import utc
from batcher.sources.source import FileSource, InputFacts, InputSpec

ROWS_RENDERED = 3
"""A template that fails on the first rows is the job's fault, one that fails on a later row is that row's."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a job asks, ready to be asked: checked as far as it can be without a provider."""

    loaded: LoadedJob
    source: FileSource
    facts: InputFacts
    renderer: ChatRenderer
    checker: Checker
    response_format: Mapping[str, Any] | None
    network: Network = DIRECT

    def checked(self, *, keys: bool = True, tell: Callable[[int], None] | None = None) -> "Prepared":
        """The same, with its rows looked at and the first of them rendered.

        Args:
            keys: Whether to read every key of the input; not needed where it is unchanged since that was done.
            tell: Called now and then with the number of rows looked at.

        Raises:
            InputError, PromptError: The rows are not what the job needs; with file and line.
            JobError: It has a budget, and its calls no known price.
        """
        job = self.loaded.job
        refuse_unpriced(job, at=utc(SystemClock().now()))
        gold = () if job.success.gold is None else (job.success.gold.column,)
        # A truth column is held to one type like a carried one: it is read again when the answers are judged.
        held = tuple(dict.fromkeys((*job.input.carry, *gold)))
        facts = self.source.check(carry=held, list_column=job.prompt.messages, keys=keys, tell=tell)
        check_truths(self.loaded, self.source)
        for row in next(self.source.rows(), ())[:ROWS_RENDERED]:
            self.renderer.render(row)
        return replace(self, facts=facts)

    @property
    def beside(self) -> tuple[str, ...]:
        """The input's columns that go into the results: the key first, if there is one, then `carry`."""
        job = self.loaded.job
        key = () if job.input.key is None else (job.input.key,)
        return (*key, *job.input.carry)


def prepare(loaded: LoadedJob) -> Prepared:
    """Open the input and compile the prompts against its columns; `checked` then looks at the rows.

    Raises:
        InputError, PromptError: The job and its input do not go together.
        UsageError: The way to the provider, or the machine, does not allow what the job wants.
    """
    job = loaded.job
    network = network_of(loaded, os.environ)
    refuse_too_many_connections(job)
    if (local := local_model(loaded)) is not None:
        from batcher.local import lease  # noqa: PLC0415  # few jobs have a local model

        lease.check(local)
    source = FileSource.open(
        InputSpec(
            paths=job.input.path,
            base=loaded.base,
            key=job.input.key,
            where=job.input.where,
            limit=job.input.limit,
        )
    )
    renderer = ChatRenderer.compile(
        system=job.prompt.system,
        examples=[(example.user, example.assistant) for example in loaded.examples],
        user=job.prompt.user,
        messages_column=job.prompt.messages,
        variables=loaded.variables,
        columns=source.columns,
    )
    check_success(loaded, source.columns, asked=renderer.columns_used)
    source = source.select(renderer.columns_used)
    labels = job.answer.labels
    checker: Checker = (
        TextChecker(job.prompt.reasoning) if labels is None else LabelChecker(labels, job.prompt.reasoning)
    )
    is_structured = labels is not None and job.answer.structured == "auto"
    return Prepared(
        loaded=loaded,
        source=source,
        facts=InputFacts(None, 0, False),
        renderer=renderer,
        checker=checker,
        response_format=structured_format(labels or ()) if is_structured else None,
        network=network,
    )


def local_model(loaded: LoadedJob) -> str | None:
    """The local model of a job, a path made whole; None where the provider is elsewhere."""
    local = loaded.job.sole_provider.local
    if local is None:
        return None
    from batcher.local.models import is_path  # noqa: PLC0415  # few jobs have a local model

    return str(loaded.base / local) if is_path(local) else local


def network_of(loaded: LoadedJob, environ: Mapping[str, str]) -> Network:
    """The way to the job's provider; straight to a local model.

    Raises:
        UsageError: A variable of the environment names a proxy or certificates that cannot be used.
    """
    provider = loaded.job.sole_provider
    if provider.local is not None:
        return DIRECT
    given = provider.tls
    files = () if given is None else (given.ca, given.cert, given.key)
    tls = Tls(*(None if file is None else loaded.base / file for file in files))
    return network_for(provider.base_url or "", environ, tls=tls)


def success_rule(loaded: LoadedJob) -> SuccessRule:
    """The job's `success` section as a rule."""
    success = loaded.job.success
    gold = success.gold
    return SuccessRule(
        failed=success.failed,
        invalid=success.invalid,
        empty=success.empty,
        # A share that the job itself names holds for errors told as text too: somebody has thought about it.
        same=SameLimit(success.same, success.same) if "same" in success.model_fields_set else SameLimit(success.same),
        label_drift=success.label_drift,
        gold=None if gold is None else GoldRule(gold.column, gold.min_accuracy),
    )

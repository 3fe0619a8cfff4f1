"""Which fields there are, and what to say about one that is not.

An unknown field is answered with the nearest name, a misplaced one with its place, and one that a later
version brings with just that: nothing in a job file is ever ignored. This runs before any value is
looked at, on the tree alone.
"""

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from batcher.config.model import Job
from batcher.config.tree import Node, Path, dotted, shorten
from batcher.errors import JobError

NOT_YET = {
    ("cache",),
    ("routing",),
    ("notify",),
    ("answer", "schema"),
    ("input", "chunk"),
    ("input", "incremental"),
}
"""Fields of the job-file contract that this version does not have."""

KINDS_NOT_YET = ("embedding", "perplexity", "requests", "evaluation", "distillation")

PARAMS = (
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "reasoning_effort",
    "response_format",
    "extra_body",
    "tools",
    "service_tier",
)
"""Names that belong under `params`: what people most often put beside it."""

OTHER_WORDS = {
    "api_base": "provider.base_url",
    "url": "provider.base_url",
    "endpoint": "provider.base_url",
    "key_env": "provider.api_key",
    "token": "provider.api_key",
    "rpm": "limits.requests_per_minute",
    "tpm": "limits.tokens_per_minute",
    "max_concurrency": "limits.concurrency",
    "workers": "limits.concurrency",
    "max_retries": "retry.attempts",
    "retries": "retry.attempts",
    "file": "input.path",
    "files": "input.path",
    "columns": "input.carry",
    "filter": "input.where",
    "template": "prompt.user",
    "system_prompt": "prompt.system",
    "few_shot": "prompt.examples",
    "choices": "answer.labels",
    "classes": "answer.labels",
}
"""What other programs call our fields."""


def refuse_unknown(tree: Node) -> None:
    """Refuse the first field that this version does not have, and the first that has no value.

    Raises:
        JobError: Names the field, its line, and what to write instead.
    """
    _refuse_in(tree, (), Job)


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation holds, as itself, in a list, or optional."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := model_of(part)) is not None), None)


def fields_of(model: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    """The names of a section's fields in the file, each with the model of its section, if it is one."""
    return {
        info.alias or name: model_of((info.annotation, *info.metadata)) or model_of(info.annotation)
        for name, info in model.model_fields.items()
    }


def _refuse_in(node: Node, path: Path, model: type[BaseModel]) -> None:
    if isinstance(node.value, list):
        for index, child in node.children():
            _refuse_in(child, (*path, index), model)
        return
    fields = fields_of(model)
    for name, child in node.children():
        here = (*path, name)
        if here in NOT_YET:
            raise JobError(f"{child.spot}: `{dotted(here)}` is not built yet in this version; remove it")
        if name not in fields:
            raise JobError(f"{child.spot}: {_about_unknown(path, str(name), list(fields))}")
        if child.value is None:
            raise JobError(f"{child.spot}: {dotted(here)} has no value; give it one or remove the line")
        section = fields[str(name)]
        if section is not None:
            _refuse_in(child, here, section)


def _about_unknown(path: Path, name: str, siblings: list[str]) -> str:
    """The sentence for an unknown field: the nearest name, or the place where it belongs."""
    prefix = f"{dotted(path)}." if path else ""
    if name.partition(".")[0] in siblings:
        section, _, field = name.partition(".")
        return f"{shorten(prefix + name, 80)} is one name here; write {shorten(field)} below {section}, indented"
    unknown = f"{shorten(prefix + name, 80)} is not a field"
    near = [prefix + sibling for sibling in _near(name, siblings)]
    elsewhere = [place for place in places_of(name) if place not in {prefix + sibling for sibling in siblings}]
    if elsewhere and (not near or not _is_very_near(name, siblings)):
        sections = " or ".join(place.rpartition(".")[0] or "the top level" for place in elsewhere)
        return f"{unknown} here; it belongs under {sections}, so write {' or '.join(elsewhere)}"
    if candidates := [*near, *elsewhere]:
        return f"{unknown}; did you mean {' or '.join(candidates)}?"
    if far := _near(name, list(_PLACES), cutoff=0.8):
        return f"{unknown}; did you mean {' or '.join(_PLACES[far[0]])}?"
    return f"{unknown}; {'those of ' + dotted(path) if path else 'the fields'} are {', '.join(siblings)}"


def places_of(name: str) -> list[str]:
    """Where a field of this name belongs, nearest to the top first; empty where there is none."""
    return _PLACES.get(name.lower().replace("-", "_"), [])


def _near(name: str, names: list[str], cutoff: float = 0.6) -> list[str]:
    wanted = name.lower().replace("-", "_")
    if wanted in names:
        return [wanted]
    return difflib.get_close_matches(wanted, names, n=1, cutoff=cutoff)


def _is_very_near(name: str, siblings: list[str]) -> bool:
    wanted = name.lower().replace("-", "_")
    return bool(_near(name, siblings, cutoff=0.8)) or any(wanted in sibling.split("_") for sibling in siblings)


def _leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, section in fields_of(model).items():
        if (*path, name) == ("providers",):
            continue
        yield (*path, name)
        if section is not None:
            yield from _leaves(section, (*path, name))


def _places() -> dict[str, list[str]]:
    """Each field name with the shallowest paths that end in it."""
    places: dict[str, list[str]] = {}
    for path in sorted([*_leaves(Job), *NOT_YET], key=len):
        places.setdefault(path[-1], []).append(".".join(path))
    for paths in places.values():
        depth = paths[0].count(".")
        paths[:] = [place for place in paths if place.count(".") == depth]
    for name in PARAMS:
        places.setdefault(name, [f"params.{name}"])
    for word, place in OTHER_WORDS.items():
        places.setdefault(word, [place])
    return places


_PLACES = _places()

"""`${NAME}` in a job's text: filled in after parsing, so that a value can never add YAML.

`--var` wins over the environment, `$${` stands for the two characters themselves, and a name that is
not set is an error. In `api_key` the values are secrets: they are collected for masking, and the copy
of the job in the run directory shows the reference again; a key that was written out is replaced there
by a mark, and found again in the original job file.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from batcher.config.tree import Node, Path, dotted, refuse_unwritable, shorten
from batcher.errors import JobError

KEY_IN_JOB_FILE = "<written in the job file>"
"""What a copy of the job shows in the place of a key that the job file writes out."""

SECRET_CHARACTERS_MIN = 16
"""Shorter keys (`EMPTY`, `sk-local`) are placeholders; real ones are longer and stand nowhere else."""

FILLED_CHARS_MAX = 4 * 1024 * 1024
"""All the text that the variables of one job may stand for; `${NAME}` counts each time."""

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}\n]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ONLY_REFERENCES = re.compile(r"(\$\{[A-Za-z_][A-Za-z0-9_]*\})+")


def escaped(text: str) -> str:
    """Text that `fill` gives back as it is."""
    return text.replace("${", "$${")


def check_variables(variables: Mapping[str, str]) -> None:
    """Refuse a `--var` that no template could name.

    Raises:
        JobError: Its name is not one, or its value cannot be text.
    """
    for name, value in variables.items():
        if not _NAME.fullmatch(name):
            raise JobError(
                f"--var {shorten(name)}: the name is not one; write letters, digits and _, like --var today=2026-11-21"
            )
        if not isinstance(value, str) or any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
            raise JobError(f"--var {name}: the value is not text in UTF-8; write it again")


@dataclass(slots=True)
class Filler:
    """Fills in one job, and remembers what was secret.

    `key_of_original` gives the key that the original job file has at a path, already filled in, for
    jobs that are copies; `secret_names` are the variables that an `api_key` read.
    """

    variables: Mapping[str, str]
    environ: Mapping[str, str]
    key_of_original: Callable[[Path], str | None] | None = None
    secrets: set[str] = field(default_factory=set)
    secret_names: set[str] = field(default_factory=set)
    _filled_chars: int = 0

    def fill(self, node: Node, path: Path = ()) -> Node:
        """The same tree with every reference replaced by its value.

        Raises:
            JobError: A name is not set, or a reference is not one.
        """
        match node.value:
            case dict():
                return replace(node, value={k: self.fill(child, (*path, k)) for k, child in node.value.items()})
            case list():
                return replace(node, value=[self.fill(child, (*path, i)) for i, child in enumerate(node.value)])
            case str() as text:
                return self._key(node, text, path) if is_key_path(path) else self._text(node, text, path)
            case _:
                return node

    def _text(self, node: Node, text: str, path: Path) -> Node:
        if "${" not in text:
            return node
        return replace(node, value=self._filled(node, text, path))

    def _key(self, node: Node, text: str, path: Path) -> Node:
        if text == KEY_IN_JOB_FILE:
            key = self.key_of_original(path) if self.key_of_original is not None else None
            if key is None:
                raise JobError(
                    f"{node.spot}: {dotted(path)} stands in the original job file, which is gone or has "
                    "no key there now; write api_key: ${NAME} in it and set that variable"
                )
            written = KEY_IN_JOB_FILE
        else:
            self.secret_names.update(name for name, _ in _REFERENCE.findall(text) if name)
            key = self._filled(node, text, path)
            is_reference = _ONLY_REFERENCES.fullmatch(text) is not None
            if not is_reference and node.spot.line is None:
                raise JobError(
                    f"{node.spot}: a key on the command line is seen by everyone on this machine; "
                    "set an environment variable and write '${NAME}' instead"
                )
            if is_reference and not key.strip():
                raise JobError(f"{node.spot}: {dotted(path)} reads {text}, which is empty; give it a key")
            written = text if is_reference else KEY_IN_JOB_FILE
        if key.strip():
            self.secrets.add(key)
        return replace(node, value=key, written=written)

    def _filled(self, node: Node, text: str, path: Path) -> str:
        def value_of(match: re.Match[str]) -> str:
            name, is_closed = match[1], match[2] == "}"
            if name is None:
                return "${"
            if not is_closed or not _NAME.fullmatch(name):
                raise JobError(
                    f"{node.spot}: {dotted(path)} holds ${{ without a variable's name and }}; "
                    "write ${NAME}, or $${ for the two characters themselves"
                )
            value = self.variables.get(name, self.environ.get(name))
            if value is None:
                or_var = "" if is_key_path(path) else f", or pass --var {name}=…"
                raise JobError(
                    f"{node.spot}: {dotted(path)} reads ${{{name}}}, which is not set; "
                    f"set the environment variable {name}{or_var}"
                )
            refuse_unwritable(value, node.spot)
            self._filled_chars += len(value)
            if self._filled_chars > FILLED_CHARS_MAX:
                raise JobError(
                    f"{node.spot}: {dotted(path)} reads ${{{name}}}, and the job's variables stand for more than "
                    f"{FILLED_CHARS_MAX >> 20} MiB of text by then; move long texts into the input"
                )
            return value

        return _REFERENCE.sub(value_of, text)


def is_key_path(path: Path) -> bool:
    """Whether the field at `path` holds a key: `provider.api_key`, `providers.0.api_key.1`."""
    return bool(path) and path[0] in ("provider", "providers") and "api_key" in path


def refuse_misplaced_secrets(node: Node, secrets: frozenset[str]) -> None:
    """Refuse a job that holds a key outside `api_key`: there it would be sent, logged and kept.

    Raises:
        JobError: Names the field, not the key.
    """
    long = [secret for secret in secrets if len(secret) >= SECRET_CHARACTERS_MIN]
    _refuse_any_of(long, node, ())


def _refuse_any_of(secrets: list[str], node: Node, path: Path) -> None:
    if isinstance(node.value, str) and not is_key_path(path):
        _refuse_secret(secrets, node.value, node, path)
    for part, child in node.children():
        if isinstance(part, str):
            _refuse_secret(secrets, part, child, path)
        _refuse_any_of(secrets, child, (*path, part))


def _refuse_secret(secrets: list[str], text: str, node: Node, path: Path) -> None:
    if any(secret in text for secret in secrets):
        raise JobError(f"{node.spot}: {dotted(path) or 'a field'} holds an API key; keys may stand in api_key only")

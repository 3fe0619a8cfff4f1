"""What to write instead: a refusal's fix, from the provider's words and from what the job asked.

A hint names only what is in the job. Nothing here decides a kind; that is `classify`'s.

Source: error bodies of OpenAI, Azure, vLLM, Ollama, Mistral (pydantic's `extra_forbidden`), DeepSeek, Google,
OpenRouter, Moonshot, DashScope and Zhipu, as documented and as quoted in issues of their clients, 2024 to 2026.
"""

import re
from dataclasses import dataclass

from batcher.errors import FailureKind
from batcher.providers.network_faults import PROXY_LOGIN_HINT


@dataclass(frozen=True, slots=True)
class Asked:
    """What the job asks of a provider, as far as a hint may name it."""

    model: str | None = None
    params: tuple[str, ...] = ()
    base_url_advice: str | None = None


NOTHING_ASKED = Asked()

PAGE_WORDS = "an HTML page instead of JSON"
"""What is said in place of a web page's own words."""

_LIMITS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}

_VALUE = re.compile(
    r"unsupported[_ ]value|invalid[_ ]value|only the default|does not support \S{1,40} with this model"
    r"|(must|should) be|between|(less|greater|smaller|larger|lower|higher|more) than|out of range"
    r"|too (large|small|high|low|big)|at (most|least)|m(ax|in)imum|above_max|below_min|不能(大于|小于)|取值|范围",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"unsupported|un(known|recognized|recognised|expected)|not (supported|permitted|allowed|recognized)"
    r"|extra[_ ](inputs|forbidden|fields)|does not support|doesn't support|不支持|未知",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model_?not_?found|deployment_?not_?found|unknown_?model|invalid_?model"
    r"|\bmodels?\b.{0,120}?(does ?n[o']t exist|not exist|not found|not available|unavailable"
    r"|is not supported|not valid|no access)"
    r"|(invalid|unknown|no such|unsupported) model|not found the model|not a valid model|access to model"
    r"|deployment.{0,60}does not exist|模型.{0,60}(不存在|未找到|找不到|不支持|未开通|无权)",
    re.IGNORECASE | re.DOTALL,
)
_OUTPUT_TOO_LONG = re.compile(
    r"max_(completion_)?tokens|in the completion|completion tokens|output tokens", re.IGNORECASE
)
_PULL = re.compile(r"try pulling", re.IGNORECASE)


def is_no_model(names: str, words: str) -> bool:
    """Whether a refusal says that there is no such model (or none for this key)."""
    return _NO_MODEL.search(names) is not None or _NO_MODEL.search(words) is not None


def advise(kind: FailureKind, status: int, words: str, *, names: str, param: str, asked: Asked) -> str | None:
    """What to do about a refusal, or None where nothing is known.

    Args:
        kind: The failure's kind.
        status: Its HTTP status.
        words: What the provider said.
        names: Its `code` and `type`.
        param: The parameter that it names, or "".
        asked: What the job asks for.
    """
    match kind:
        case "quota":
            return "add credit or quota at the provider"
        case "auth":
            if status == 407:
                return PROXY_LOGIN_HINT
            if is_no_model(names, words):
                return f"check `model`: this key may not use {_model(asked)}"
            if words == PAGE_WORDS:
                # An API refuses a key in JSON; a page is somebody's who stands before it.
                return "a firewall, a proxy or a login page answers: check base_url and the network, then `api_key`"
            return "check the key in `api_key` and what it may use"
        case "too_long":
            fewer = "lower params.max_tokens or " if _output_is_too_long(words, asked) else ""
            return f"{fewer}shorten these rows; input.chunk, which will split them, is not built yet"
        case "bad_request":
            return _advise_bad_request(status, words, names=names, param=param, asked=asked)
    return None


def _advise_bad_request(status: int, words: str, *, names: str, param: str, asked: Asked) -> str | None:
    if 300 <= status < 400:
        return "the address redirects; write the final address in base_url (the key is not sent along)"
    refused = _refused_param(words, param, asked)
    if refused is not None and status != 404:
        return _advise_param(refused, f"{names} {words}")
    if is_no_model(names, words):
        pull = ", or pull it first" if _PULL.search(words) else ""
        return f"check `model`: the provider has no {_model(asked)}{pull}"
    if status in (404, 405):
        return asked.base_url_advice or "check `model`, and that base_url is the API's address, ending in /v1"
    return None


def _advise_param(name: str, words: str) -> str | None:
    if _VALUE.search(words) and not _is_renamed(name, words):
        return f"remove params.{name} or give the value it allows"
    if not _UNKNOWN.search(words):
        return f"remove params.{name} or give the value it allows"
    if name in _LIMITS:
        return f"write params.{_LIMITS[name]} instead of params.{name}"
    return f"remove params.{name}"


def _is_renamed(name: str, words: str) -> bool:
    return name in _LIMITS and re.search(rf"use\W{{1,3}}{_LIMITS[name]}\b", words, re.IGNORECASE) is not None


def _refused_param(words: str, param: str, asked: Asked) -> str | None:
    """The parameter of the job that is refused: the one that the error names, or the first in its words."""
    top = re.split(r"[.\[]", param, maxsplit=1)[0]
    if top in asked.params:
        return top
    if top and top not in ("body", "None", "null"):
        return None
    found = [
        (at.start(), name)
        for name in asked.params
        if (at := re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", words)) is not None
    ]
    return min(found)[1] if found else None


def _output_is_too_long(words: str, asked: Asked) -> bool:
    return not _LIMITS.keys().isdisjoint(asked.params) and _OUTPUT_TOO_LONG.search(words) is not None


def _model(asked: Asked) -> str:
    return "such model" if asked.model is None else f"model {asked.model!r}"

"""Why an address or a model does not answer, found out with one call where that is possible."""

import difflib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batcher.providers.probe_call import ProbeClient

if TYPE_CHECKING:
    from batcher.providers.probe import Target

_ENDPOINTS = ("/chat/completions", "/completions", "/models", "/embeddings")
MODELS_SHOWN = 5


async def diagnose_address(client: ProbeClient, target: "Target") -> str | None:
    """What to write in base_url, or None where nothing better answers."""
    written = target.base_url.rstrip("/")
    better = _likely(written)
    if better is None:
        return None
    # The same host: the key goes nowhere that it did not go before.
    heard = await client.ask(f"{better}/chat/completions", {"model": target.model, **_SHORT})
    is_api = heard.is_answer or (heard.failure is not None and heard.failure.kind == "auth")
    return f"{better} answers; write base_url: {better}" if is_api else None


def diagnose_model(model: str, models: tuple[str, ...] | None) -> str | None:
    """The nearest names of the provider's own list."""
    if not models:
        return None
    folded = {name.lower(): name for name in models}
    near = difflib.get_close_matches(model.lower(), list(folded), n=MODELS_SHOWN, cutoff=0.5)
    if near:
        return f"did you mean {', '.join(folded[name] for name in near)}?"
    more = f" and {len(models) - MODELS_SHOWN} more" if len(models) > MODELS_SHOWN else ""
    return f"the provider lists {', '.join(models[:MODELS_SHOWN])}{more}"


_SHORT = {"messages": [{"role": "user", "content": "Say OK."}]}


def _likely(written: str) -> str | None:
    for endpoint in _ENDPOINTS:
        if written.endswith(endpoint):
            return written.removesuffix(endpoint)
    path = urlsplit(written).path
    return None if path.endswith("/v1") else f"{written}/v1"

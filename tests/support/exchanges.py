"""Every exchange by a name, so that a suite can be run over each of them."""

import pytest

from batcher.providers import exchange
from batcher.providers.exchange import Exchange
from batcher.providers.pyreqwest_exchange import PyreqwestExchange

KINDS = ["fast", "pyreqwest", "sdk"]
CLIENTS = pytest.mark.parametrize("client", KINDS)


def make_exchange(kind: str, *, base_url: str, api_key: str | None, timeout_s: float) -> Exchange:
    """As the providers' `make_exchange`; `pyreqwest` for addresses that `fast` gives to the plain client."""
    if kind == "pyreqwest":
        return PyreqwestExchange(base_url=base_url, api_key=api_key, timeout_s=timeout_s)
    return exchange.make_exchange(kind, base_url=base_url, api_key=api_key, timeout_s=timeout_s)

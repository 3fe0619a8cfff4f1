"""`batcher check` and `--dry-run`: everything that can be known before a call is paid."""

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from batcher.assemble.findings import KINDS_REFUSED
from batcher.assemble.prepare import Prepared, network_of, prepare
from batcher.assemble.stack import Endpoint, endpoint_of
from batcher.clock import SystemClock
from batcher.config.load import LoadedJob, load_job
from batcher.core.contracts import CallError
from batcher.core.records import Request
from batcher.errors import ExitCode
from batcher.observe.text import clean, mask
from batcher.providers.contact import Contact
from batcher.providers.exchange import make_exchange
from batcher.providers.http import HttpCaller
from batcher.providers.structured import StructuredSupport
from batcher.providers.wire import ChatWire

ROWS_SHOWN = 3
MESSAGE_CHARS_SHOWN = 2_000
KEY_CELLS_SHOWN = 80
LIVE_TIMEOUT_S = 30.0

Echo = Callable[[str], None]


def check_job(
    path: Path,
    *,
    variables: Mapping[str, str],
    sets: Sequence[str],
    limit: int | None,
    is_live: bool,
    echo: Echo,
) -> int:
    """Check the job file, its input and its prompts; show three rendered; with `is_live` try each key.

    Raises:
        UsageError: What is wrong, in one sentence.
    """
    loaded = load_job(path, variables=variables, sets=sets, limit=limit)
    prepared = prepare(loaded).checked()
    for number, request in enumerate(islice(_requests(prepared), ROWS_SHOWN), start=1):
        name = (
            f"row {request.row}"
            if request.key is None
            else f"row {request.row} (key {clean(str(request.key), KEY_CELLS_SHOWN)})"
        )
        echo(f"--- {name}, rendered {number} of {ROWS_SHOWN}")
        for message in msgspec.json.decode(request.messages):
            echo(f"{message['role']}: {_shown(message['content'])}")
    echo("---")
    facts, job = prepared.facts, loaded.job
    rows = f"{facts.rows:,}" if facts.rows is not None else f"about {facts.rows_estimate:,}"
    echo(f"{path}: the job is right; {rows} rows, model {job.effective_model}, provider {job.sole_provider.name}")
    return int(asyncio.run(_try_keys(loaded, echo))) if is_live else int(ExitCode.OK)


def dry_run_job(
    path: Path, *, variables: Mapping[str, str], sets: Sequence[str], limit: int | None, echo: Echo
) -> None:
    """Read and render every row, send nothing, and say how much it is.

    Raises:
        UsageError: What is wrong, in one sentence.
    """
    prepared = prepare(load_job(path, variables=variables, sets=sets, limit=limit)).checked()
    rows = longest = total = 0
    for request in _requests(prepared):
        rows += 1
        total += len(request.messages)
        longest = max(longest, len(request.messages))
    echo(f"{rows:,} rows rendered, nothing sent")
    echo(f"messages: {total:,} bytes in all, {total // max(1, rows):,} a row, the longest {longest:,}")


def _requests(prepared: Prepared) -> Iterator[Request]:
    for batch in prepared.source.rows():
        for row in batch:
            yield prepared.renderer.render(row)


def _shown(content: Any) -> str:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    lines = [clean(line) for line in text[:MESSAGE_CHARS_SHOWN].split("\n")]
    more = f" … ({len(text):,} characters)" if len(text) > MESSAGE_CHARS_SHOWN else ""
    return "\n    ".join(lines) + more


async def _try_keys(loaded: LoadedJob, echo: Echo) -> ExitCode:
    """One small call by each key; a refused one is named with the provider's words."""
    job = loaded.job
    if job.sole_provider.local is not None:
        echo("the model is local: it has no key to try")
        return ExitCode.OK
    endpoint = endpoint_of(job.sole_provider, job, network_of(loaded, os.environ))
    codes = []
    for number in range(len(endpoint.keys)):
        name = f"key {number + 1} of {len(endpoint.keys)}"
        fault = await _try_key(loaded, endpoint, number)
        echo(f"{name}: {'accepted' if fault is None else fault.message}")
        if fault is not None and fault.hint:
            echo(f"hint: {fault.hint}")
        codes.append(_code_of(fault))
    # A run sets a refused key aside, and goes on with those that are accepted.
    return next(code for code in (ExitCode.OK, ExitCode.REFUSED, ExitCode.STOPPED) if code in codes)


def _code_of(fault: CallError | None) -> ExitCode:
    if fault is None:
        return ExitCode.OK
    # A bad response has a hint where it is a web page: then the address is wrong.
    is_refused = fault.kind in KINDS_REFUSED or (fault.kind == "bad_response" and fault.hint is not None)
    return ExitCode.REFUSED if is_refused else ExitCode.STOPPED


async def _try_key(loaded: LoadedJob, endpoint: Endpoint, number: int) -> CallError | None:
    job = loaded.job
    exchange = make_exchange(
        job.client,
        base_url=endpoint.base_url,
        api_key=endpoint.keys[number],
        timeout_s=min(job.timeout_s, LIVE_TIMEOUT_S),
        network=endpoint.network,
    )
    caller = HttpCaller(
        exchange,
        ChatWire(endpoint.model, {**job.params}, None),
        StructuredSupport(has_format=False),
        cost_usd=lambda _: None,
        provider=job.sole_provider.name,
        clock=SystemClock(),
        mask=endpoint.network.masked(lambda text: mask(text, loaded.secrets)),
        contact=Contact(endpoint.base_url, is_first=True),
    )
    try:
        await caller.call(Request(0, b'[{"role":"user","content":"Say OK."}]'))
    except CallError as error:
        return error
    finally:
        await exchange.close()
    return None

"""`batcher simulate`, `serve`, `models` and `prices`: providers to rehearse with, and what real ones cost."""

from pathlib import Path
from typing import Any

import click

from batcher.cli.options import say
from batcher.errors import ExitCode


@click.command(short_help="Serve a simulated provider, with limits and faults.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="A YAML file of these and more options.")
@click.option("--seed", type=int, help="Fixes faults, latencies and answers.")
@click.option("--latency", help="`50ms`, `uniform:10ms,90ms` or `lognormal:200ms,900ms` (half, 95 %).")
@click.option("--rpm", type=click.IntRange(min=1), help="Requests per minute, for each key.")
@click.option("--tpm", type=click.IntRange(min=1), help="Tokens per minute, for each key.")
@click.option("--window", type=click.Choice(["bucket", "sliding", "fixed"]), help="How the limits count.")
@click.option("--fault", "faults", multiple=True, metavar="NAME=SHARE", help="`500=5%`; see --list-faults.")
@click.option("--answer", help="`echo`, `label:a,b`, `lorem:20`, `template:…` or `truth:FILE`.")
@click.option("--structured", type=click.Choice(["taken", "refused", "ignored", "crashes"]), help="response_format.")
@click.option("--key", "keys", multiple=True, help="An API key that is taken; without any, all are.")
@click.option("--witness", type=click.Path(path_type=Path), help="Write what was served to this JSONL file.")
@click.option("--list-faults", is_flag=True, help="Show the faults there are, and stop.")
def simulate(
    port: int,
    host: str,
    config_path: Path | None,
    rpm: int | None,
    tpm: int | None,
    window: str | None,
    faults: tuple[str, ...],
    keys: tuple[str, ...],
    witness: Path | None,
    list_faults: bool,
    **plain: Any,
) -> None:
    """Serve an OpenAI-compatible API that answers by rule, with limits and faults: free rehearsals and tests."""
    from batcher.simulator.config import load_config
    from batcher.simulator.faults import FAULTS
    from batcher.simulator.serve import serve as serve_simulator

    if list_faults:
        width = max(map(len, FAULTS))
        for name, fault in FAULTS.items():
            click.echo(f"{name:{width}}  {fault.does}")
        return
    fields: dict[str, Any] = {name: value for name, value in plain.items() if value is not None}
    limits = {"requests_per_minute": rpm, "tokens_per_minute": tpm, "window": window}
    if given := {name: value for name, value in limits.items() if value is not None}:
        fields["limits"] = given
    if faults:
        fields["faults"] = dict(_pair(fault) for fault in faults)
    if keys:
        fields["keys"] = list(keys)
    config = load_config(config_path, fields)
    serve_simulator(config, host, port, witness, click.echo)


def _pair(text: str) -> tuple[str, str]:
    name, sign, share = text.partition("=")
    if not sign:
        raise click.BadParameter(f"{text}: write it as NAME=SHARE, such as 500=5%")
    return name, share


@click.command(short_help="Serve a local model on an OpenAI-compatible port.")
@click.argument("model")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="There is no authentication: keep to loopback.")
@click.option(
    "--slots", type=click.IntRange(min=1), default=8, show_default=True, help="Requests answered side by side."
)
def serve(model: str, port: int, host: str, slots: int) -> None:
    """Serve a local model behind an OpenAI-compatible port; runs on this machine share it."""
    import signal

    from batcher.local.lease import serve as serve_model

    # Also where a shell that is no terminal starts it in the background, which ignores Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    serve_model(model, host=host, port=port, slots=slots, ready=click.echo, tell=lambda text: say(text, err=True))


@click.group()
def models() -> None:
    """List the local models, or fetch one."""


@models.command("list")
def list_models() -> None:
    """Show the models that are known by name, and where they lie."""
    from batcher.local.models import KNOWN, find

    for name, model in KNOWN.items():
        path = find(name)
        megabytes = model.gguf_bytes / 1e6
        click.echo(f"{name}  {megabytes:.0f} MB  {model.license}  {path or 'not fetched yet'}")


@models.command("pull")
@click.argument("model")
def pull_model(model: str) -> None:
    """Fetch a model into the cache, and check it."""
    from batcher.local.models import pull

    click.echo(str(pull(model, lambda text: say(text, err=True))))


@click.command(short_help="Show what a model costs, and where that is from.")
@click.argument("model")
@click.option("--provider-url", help="The endpoint's base_url; without it, the model's maker.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def prices(model: str, provider_url: str | None, as_json: bool) -> int:
    """Show what a model costs, in dollars per million tokens, and where the price is from."""
    import json
    from datetime import UTC, datetime

    from batcher.ledger.describe import describe

    sheet = describe(model, at=datetime.now(UTC), base_url=provider_url)
    if as_json:
        click.echo(json.dumps(sheet.to_json(), ensure_ascii=False))
    else:
        for line in sheet.lines():
            say(line)
    return int(ExitCode.OK if sheet.price is not None else ExitCode.USAGE)

"""The job file as models: one class a section, one line of meaning a field.

The JSON Schema, the reference page and the "did you mean" of errors are all made from here. The models
check a field alone; what concerns two fields, or the input's files, is in `checks.py`. Times are in
seconds here (`timeout_s`) and written as people write them in the file (`timeout: 60s`).
"""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from batcher.config.values import (
    Cap,
    Concurrency,
    Count,
    Dollars,
    File,
    Key,
    Line,
    ListOf,
    Name,
    OneOrListOf,
    OpeningTag,
    Positive,
    Seconds,
    Share,
    Text,
    TimesAgain,
    Tries,
    TrimmedLine,
    Url,
    Words,
    fault,
    parse_duration,
    parse_share,
)

DEFAULT_BASE_URL = "https://api.openai.com/v1"


def _seconds(default: str, name: str, description: str) -> Any:
    return Field(
        default=parse_duration(default), alias=name, description=description, json_schema_extra={"default": default}
    )


def _share(default: str, description: str) -> Any:
    return Field(default=parse_share(default), description=description, json_schema_extra={"default": default})


def _from_one_percent(share: Decimal) -> Decimal:
    if share < Decimal("0.01"):
        raise fault(f"is {format((share * 100).normalize(), 'f')} %; write a share from 1% to 100%")
    return share


class Section(BaseModel):
    """What every part of a job file keeps: frozen, strict, and silent about values in errors."""

    # Deferred, so that only the job's own validator is built and not one for each section too: 10 ms of each start.
    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        hide_input_in_errors=True,
        protected_namespaces=(),
        defer_build=True,
    )


class Input(Section):
    """Where the rows come from. A path alone, or a list of them, is short for `{path: …}`."""

    path: Annotated[tuple[File, ...], Field(min_length=1), OneOrListOf, Words("path, glob or list")] = Field(
        description="File, glob or list of them: .parquet, .jsonl or .csv, also .gz and .zst.",
        examples=["data/tickets-*.parquet", ["data/a.jsonl", "data/b.jsonl.zst"]],
    )
    key: Line | None = Field(default=None, description="Column that names a row; without it, the row's position does.")
    where: Text | None = Field(
        default=None,
        description="SQL predicate over the columns; only rows it holds for are read.",
        examples=["lang = 'th'"],
    )
    limit: Count | None = Field(default=None, description="Read only the first N rows, counted after `where`.")
    carry: Annotated[tuple[Line, ...], ListOf, Words("list of text")] = Field(
        default=(), description="Input columns that are copied into the results.", examples=[["text"]]
    )


class Example(Section):
    """One question with its right answer, shown to the model before the row's own question."""

    user: Text = Field(description="What a user would ask.")
    assistant: Text = Field(description="The answer that is right.")


class Prompt(Section):
    """What is asked about each row. A text alone is short for `{user: …}`."""

    system: Text | None = Field(default=None, description="The system message; a template like `user`.")
    examples: Annotated[
        Annotated[tuple[Example, ...], ListOf, Tag("list")] | Annotated[File, Tag("path")],
        Discriminator(lambda examples: "list" if isinstance(examples, list | tuple) else "path"),
        Words("list of {user, assistant}, or path"),
    ] = Field(
        default=(),
        description="Few-shot pairs, or a .jsonl or .yaml file of them.",
        examples=[[{"user": "I was charged twice", "assistant": "billing"}], "examples.jsonl"],
    )
    user: Text | None = Field(
        default=None,
        description="The user message: a Jinja2 template, sandboxed, in which an unknown column is an error.",
        examples=["Which team should handle this ticket?\n{{ text }}"],
    )
    messages: Line | None = Field(default=None, description="Instead of `user`: the column that holds a chat history.")
    reasoning: OpeningTag | None = Field(
        default=None, description="The tag in which the model thinks; what it holds is split off.", examples=["<think>"]
    )


class Answer(Section):
    """What counts as an answer; without this section, any text."""

    labels: Annotated[tuple[Line, ...], Field(min_length=1), ListOf, Words("list of text")] | None = Field(
        default=None,
        description="The answer must be exactly one of these.",
        examples=[["billing", "technical", "other"]],
    )
    structured: Literal["auto", "off"] = Field(
        default="auto", description="Send the labels as `response_format` where the provider takes it, or never."
    )
    attempts: TimesAgain = Field(
        default=2, description="How often an invalid answer is asked again, with the fault explained; 0 is never."
    )


class Limits(Section):
    """How fast to ask; no rate means no limit."""

    concurrency: Concurrency = Field(
        default="auto", description="Calls in flight at once; `auto` finds what serves best, from 8 up to 1,024 a key."
    )
    requests_per_minute: Count | None = Field(default=None, description="Calls begun in any minute.", examples=[3000])
    tokens_per_minute: Count | None = Field(
        default=None, description="Input and output tokens in any minute.", examples=[2_000_000]
    )


class Price(Section):
    """US dollars per million tokens, instead of the price list."""

    input: Dollars = Field(description="Per million input tokens.", examples=[0.10])
    cached_input: Dollars | None = Field(
        default=None, description="Per million input tokens that the provider had cached; without it, as `input`."
    )
    output: Dollars = Field(description="Per million output tokens, reasoning included.", examples=[0.40])


class Tls(Section):
    """Certificates in PEM, for a provider behind an authority of its own or that asks who is there."""

    ca: File | None = Field(
        default=None,
        description="An authority to trust beside those of the system, or of `SSL_CERT_FILE`.",
        examples=["certs/house-ca.pem"],
    )
    cert: File | None = Field(
        default=None, description="The certificate to show, with what lies between it and its authority."
    )
    key: File | None = Field(
        default=None, description="The certificate's key, without a passphrase; without it, it is in `cert`."
    )


class Provider(Section):
    """An OpenAI-compatible endpoint with its keys, or a model served on this machine."""

    name: Name = Field(default="main", description="What results and reports call it.")
    base_url: Url | None = Field(
        default=None,
        description=f"The endpoint, up to and with /v1; without it, `OPENAI_BASE_URL` or {DEFAULT_BASE_URL}.",
        examples=["https://api.example.com/v1"],
    )
    api_key: Annotated[tuple[Key, ...], OneOrListOf, Words("`${NAME}`, or list")] = Field(
        default=(),
        description="One key, or several that share the work. Without `base_url` too, `OPENAI_API_KEY`.",
        examples=["${OPENAI_API_KEY}", ["${KEY_A}", "${KEY_B}"]],
        repr=False,
    )
    model: TrimmedLine | None = Field(default=None, description="The model to ask for here; without it, the job's.")
    weight: Positive = Field(default=1.0, description="Its part of the work beside other providers.")
    limits: Limits = Field(default=Limits(), description="Limits of each of its keys.")
    price: Price | None = Field(default=None, description="Its prices; without them, the price list's.")
    tls: Tls | None = Field(
        default=None, description="Certificates beside those of the system.", examples=[{"ca": "certs/house-ca.pem"}]
    )
    local: TrimmedLine | None = Field(
        default=None, description="Instead of an endpoint: a model served on this machine.", examples=["smollm2-135m"]
    )


class Hedge(Section):
    """A second copy of the slowest calls; whichever answers first counts, and the other may be billed too."""

    after: Literal["p50", "p75", "p90", "p95", "p99"] = Field(
        default="p95", description="Slower than this share of the latest calls, a call gets a copy."
    )
    max_extra: Share = _share("2%", "Copies sent, as a share of all calls.")


class Retry(Section):
    """How a failed call is tried again: waits that double, with jitter."""

    attempts: Tries = Field(default=5, description="Calls for one row at most; waits for 429 do not count.")
    min_wait_s: Seconds = _seconds("1s", "min_wait", "The first wait; `max_wait` where that is shorter.")
    max_wait_s: Seconds = _seconds("60s", "max_wait", "The longest wait.")
    hedge: Hedge | None = Field(
        default=None,
        description="Send a second copy of the slowest calls; without it, none.",
        examples=[{"after": "p95", "max_extra": "2%"}],
    )


class CircuitBreaker(Section):
    """When a provider counts as down, and for how long to wait for it."""

    failure_threshold: Count = Field(
        default=5,
        description="Failures after which calls are held back; where failures are usual, it takes more of them.",
    )
    recovery_time_s: Seconds = _seconds("60s", "recovery_time", "Wait before one call probes whether it is back.")
    max_outage_s: Seconds = _seconds("30m", "max_outage", "Down for longer than this, the run stops, resumable.")


class Budget(Section):
    """What a run may cost in all; without this section, there is no limit."""

    usd: Cap = Field(
        description="US dollars that the run never spends more than, resumed or not; it stops before, resumable.",
        examples=[10],
    )


class Gold(Section):
    """Rows with a known right answer, and how many of them must be right."""

    column: Line = Field(
        description="Input column that holds the right answer, empty where it is not known; never part of a prompt.",
        examples=["truth"],
    )
    min_accuracy: Share = _share("90%", "The least share of them that must be right.")


class Success(Section):
    """The shares of rows up to which a finished run counts as a success; above, exit code 3."""

    failed: Share = _share("1%", "Rows that failed.")
    invalid: Share = _share("5%", "Rows whose answer is not valid.")
    empty: Share = _share("5%", "Rows whose answer is empty, or nothing that can be seen; 100% where that is right.")
    same: Annotated[Share, AfterValidator(_from_one_percent)] = _share(
        "50%",
        "The ok rows that may have one and the same answer, without this line 10% of an error told as text; "
        "100% allows all.",
    )
    label_drift: Share | None = Field(
        default=None,
        description="With labels: how far their shares may be from those of the last good run, from 0 to 1.",
        examples=[0.2],
    )
    gold: Gold | None = Field(
        default=None,
        description="Rows whose right answer the input knows.",
        examples=[{"column": "truth", "min_accuracy": 0.9}],
    )


class Output(Section):
    """Where the results go besides the run directory."""

    path: File | None = Field(
        default=None,
        description="A .parquet, .jsonl or .csv file; without it, `results` in the run directory.",
        examples=["out/tickets.parquet"],
    )
    format: Literal["parquet", "jsonl", "csv"] | None = Field(
        default=None, description="The format; without it, as the path's ending says, else parquet."
    )


class Job(Section):
    """A batcher job: what to ask, of whom, within which limits."""

    name: Name = Field(default="", description="Names the directory of its runs; without it, the file's stem.")
    kind: Literal["chat"] = Field(default="chat", description="What kind of call to make.")
    input: Input = Field(description="Where the rows come from; a path alone is short for `{path: …}`.")
    prompt: Prompt = Field(description="What is asked about each row; a text alone is short for `{user: …}`.")
    model: TrimmedLine | None = Field(
        default=None,
        description="The model to ask for; needed unless the provider names one.",
        examples=["gpt-4.1-nano"],
    )
    params: Annotated[dict[str, Any], Words("mapping")] = Field(
        default={},
        description="Passed through to the provider untouched.",
        examples=[{"temperature": 0.1, "max_tokens": 16}],
    )
    answer: Answer = Field(default=Answer(), description="What counts as an answer.")
    provider: Provider | None = Field(
        default=None, description="Who is asked; without it, `OPENAI_API_KEY` at `OPENAI_BASE_URL`."
    )
    providers: Annotated[tuple[Provider, ...], Field(min_length=1, max_length=1), ListOf] | None = Field(
        default=None, description="The same as a list; in this version, of one."
    )
    limits: Limits = Field(default=Limits(), description="How fast to ask, over all providers and keys together.")
    timeout_s: Seconds = _seconds("60s", "timeout", "How long one call may take.")
    client: Literal["fast", "sdk"] = Field(
        default="fast", description="How calls travel: batcher's own HTTP stack, or that of the openai package."
    )
    retry: Retry = Field(default=Retry(), description="How a failed call is tried again.")
    circuit_breaker: CircuitBreaker = Field(default=CircuitBreaker(), description="When a provider counts as down.")
    budget: Budget | None = Field(default=None, description="What the run may cost.")
    success: Success = Field(default=Success(), description="When a finished run counts as a success.")
    output: Output = Field(default=Output(), description="Where the results go, and as what.")

    @property
    def sole_provider(self) -> Provider:
        """The one provider of the job; the loader makes sure that there is one."""
        provider = self.provider or (self.providers or (None,))[0]
        if provider is None:
            raise ValueError("the job names no provider; only load_job makes complete jobs")
        return provider

    @property
    def effective_model(self) -> str:
        """The model that is asked for: the provider's, else the local one's name, else the job's."""
        provider = self.sole_provider
        model = provider.model or provider.local or self.model
        if model is None:
            raise ValueError("the job names no model; only load_job makes complete jobs")
        return model

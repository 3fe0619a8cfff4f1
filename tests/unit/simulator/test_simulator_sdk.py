"""The real `openai` package against the simulator, in one process: what each fault looks like to a client."""

import asyncio
import json

import openai
import pytest
import uvloop

from batcher.clock import SystemClock
from batcher.simulator.answers import messages_digest
from batcher.simulator.config import SimulatorConfig
from batcher.simulator.faults import FAULTS
from batcher.simulator.server import Simulator

KEY = "sk-secret-0123456789-tail"
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
MESSAGES = [{"role": "user", "content": "I was charged twice"}]

ERRORS = {
    "429": openai.RateLimitError,
    "429_date": openai.RateLimitError,
    "429_ms": openai.RateLimitError,
    "429_bare": openai.RateLimitError,
    "quota": openai.RateLimitError,
    "500": openai.InternalServerError,
    "502": openai.InternalServerError,
    "503": openai.InternalServerError,
    "504": openai.InternalServerError,
    "529": openai.InternalServerError,
    "408": openai.APIStatusError,
    "409": openai.ConflictError,
    "400": openai.BadRequestError,
    "context_length": openai.BadRequestError,
    "content_filter_400": openai.BadRequestError,
    "401": openai.AuthenticationError,
    "402": openai.APIStatusError,
    "403": openai.PermissionDeniedError,
    "404": openai.NotFoundError,
    "413": openai.APIStatusError,
    "415": openai.APIStatusError,
    "422": openai.UnprocessableEntityError,
    "reset": openai.APIConnectionError,
    "close": openai.APIConnectionError,
    "hang": openai.APITimeoutError,
    "cut": openai.APIConnectionError,
    "cut_chunked": openai.APIConnectionError,
    "invalid_json": json.JSONDecodeError,
}

ANSWERS = {
    "drip": lambda a: a.choices[0].message.content == MESSAGES[0]["content"],
    "error_200": lambda a: a.choices is None and "error" in a.model_extra,
    "html_200": lambda a: isinstance(a, str) and a.startswith("<html>"),
    "no_usage": lambda a: a.usage is None and a.choices[0].message.content,
    "null_content": lambda a: a.choices[0].message.content is None and a.choices[0].message.refusal is None,
    "empty_content": lambda a: a.choices[0].message.content == "",
    "empty_choices": lambda a: a.choices == [],
    "no_choices": lambda a: a.choices is None,
    "length": lambda a: a.choices[0].finish_reason == "length" and a.choices[0].message.content == "I was cha",
    "content_filter": lambda a: a.choices[0].finish_reason == "content_filter",
    "refusal": lambda a: a.choices[0].message.content is None and a.choices[0].message.refusal,
    "off_answer": lambda a: "rather not choose" in a.choices[0].message.content,
}


def client_of(simulator, **options):
    return openai.AsyncOpenAI(base_url=simulator.base_url, api_key=KEY, max_retries=0, **options)


async def ask(client, messages=MESSAGES, **params):
    return await client.chat.completions.create(model="m", messages=messages, **params)


def test_every_fault_is_tried_here():
    assert set(FAULTS) == set(ERRORS) | set(ANSWERS)


@pytest.mark.parametrize("name", ERRORS)
async def test_each_error_fault_raises_what_one_expects(name):
    config = SimulatorConfig(faults={name: 1.0})
    async with Simulator(config) as simulator, client_of(simulator, timeout=0.3 if name == "hang" else 10) as client:
        with pytest.raises(ERRORS[name]) as raised:
            await ask(client)
    if FAULTS[name].group == "status":
        assert FAULTS[name].status == raised.value.status_code
    [served] = simulator.witness.records
    assert (name, False) == (served.fault, served.is_good)
    assert FAULTS[name].is_billed == served.is_billed
    assert (FAULTS[name].group != "connection") == served.is_written


@pytest.mark.parametrize("name", ANSWERS)
async def test_each_answer_fault_arrives_as_it_is_described(name):
    async with Simulator(SimulatorConfig(faults={name: 1.0}, drip_s=0.05)) as simulator, client_of(simulator) as client:
        answer = await ask(client)
    assert ANSWERS[name](answer)
    [served] = simulator.witness.records
    assert (True, FAULTS[name].is_good) == (served.is_written, served.is_good)
    usage = getattr(answer, "usage", None)
    if usage is not None:
        assert (usage.prompt_tokens, usage.completion_tokens) == (served.prompt_tokens, served.completion_tokens)


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_a_reset_is_a_reset_and_not_a_close(loop_factory):
    """TCP RST and FIN are different weather to a client; on both event loops the fault is what it says."""

    async def ask_raw(fault):
        async with Simulator(SimulatorConfig(faults={fault: 1.0})) as simulator:
            reader, writer = await connect(simulator)
            writer.write(request_bytes())
            try:
                return await reader.read()
            finally:
                writer.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert b"" == runner.run(ask_raw("close"))
        with pytest.raises(ConnectionResetError):
            runner.run(ask_raw("reset"))


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_written_means_that_the_kernel_has_every_byte(loop_factory):
    """While its client reads nothing, a response larger than all buffers stays unfinished in the witness."""
    size = 30_000_000

    async def slow_reader():
        async with Simulator(SimulatorConfig(faults={"500": 0.0})) as simulator:
            reader, writer = await connect(simulator)
            writer.write(request_bytes("x" * size))
            head = await reader.readuntil(b"\r\n\r\n")
            unread = simulator.witness.totals.in_flight
            body = await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
            while simulator.witness.totals.in_flight:
                await asyncio.sleep(0)
            writer.close()
            leaver, writer = await connect(simulator)
            writer.write(request_bytes("x" * size))
            await leaver.readuntil(b"\r\n\r\n")
            writer.transport.abort()
            while simulator.witness.totals.in_flight:
                await asyncio.sleep(0)
        return (
            unread,
            len(body),
            [(served.is_written, served.is_good, served.is_billed) for served in simulator.witness.records],
        )

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        unread, received, written = runner.run(slow_reader())
    assert (1, [(True, True, True), (False, False, True)]) == (unread, written)
    assert received > size


async def test_a_good_answer_and_its_record_agree():
    config = SimulatorConfig.from_mapping(
        {"price": {"input": 1, "output": 2}, "cached_share": 0.5, "reasoning_tokens": 3}
    )
    async with Simulator(config) as simulator, client_of(simulator) as client:
        answer = await ask(client)
    [served] = simulator.witness.records
    assert MESSAGES[0]["content"] == answer.choices[0].message.content
    assert messages_digest(MESSAGES) == served.digest
    assert answer.usage.prompt_tokens_details.cached_tokens == served.cached_tokens > 0
    assert 3 == answer.usage.completion_tokens_details.reasoning_tokens == served.reasoning_tokens
    assert (answer.usage.prompt_tokens + 2 * answer.usage.completion_tokens) / 1e6 == pytest.approx(
        float(served.cost_usd)
    )
    assert ("tail", 200, True, True) == (served.key, served.status, served.is_written, served.is_good)
    assert KEY.encode() not in simulator.witness.lines() + simulator.witness.summary()


async def test_models_are_listed_and_other_routes_are_404_in_openais_words():
    async with Simulator(SimulatorConfig(models=("a", "b"))) as simulator, client_of(simulator) as client:
        assert ["a", "b"] == [model.id for model in (await client.models.list()).data]
        with pytest.raises(openai.NotFoundError, match=r"Invalid URL \(POST /v1/embeddings\)"):
            await client.embeddings.create(model="a", input="x")
    assert (0, 2) == (simulator.witness.totals.requests, simulator.witness.totals.others)


async def test_rate_headers_reach_the_client_with_a_refusal():
    limits = {"limits": {"requests_per_minute": 60, "burst": "1s"}}
    async with Simulator(SimulatorConfig.from_mapping(limits)) as simulator, client_of(simulator) as client:
        good = await client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
        assert "0" == good.headers["x-ratelimit-remaining-requests"]
        with pytest.raises(openai.RateLimitError) as refused:
            await ask(client)
    assert "1" == refused.value.response.headers["retry-after"]
    assert 0 < int(refused.value.response.headers["retry-after-ms"]) <= 1000
    assert {"requests": 1} == simulator.witness.totals.refusals


async def test_a_wrong_key_is_refused_without_being_repeated():
    async with Simulator(SimulatorConfig(keys=("sk-other",))) as simulator, client_of(simulator) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            await ask(client)
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
    assert KEY not in str(refused.value)


async def test_a_body_past_the_limit_is_413():
    async with Simulator(SimulatorConfig(body_bytes_max=1000)) as simulator, client_of(simulator) as client:
        with pytest.raises(openai.APIStatusError) as refused:
            await ask(client, [{"role": "user", "content": "x" * 2000}])
        await ask(client)
    assert 413 == refused.value.status_code


async def test_a_client_that_leaves_is_in_the_witness_as_not_written():
    async with Simulator(SimulatorConfig.from_mapping({"latency": "30s"})) as simulator:
        async with client_of(simulator, timeout=0.1) as client:
            with pytest.raises(openai.APITimeoutError):
                await ask(client)
        while simulator.witness.totals.in_flight:
            await asyncio.sleep(0)
    [served] = simulator.witness.records
    assert (None, False, False, None) == (served.status, served.is_written, served.is_billed, served.fault)
    assert served.digest is not None


async def test_stopping_ends_what_hangs_and_records_it():
    simulator = Simulator(SimulatorConfig(faults={"hang": 1.0}))
    await simulator.start()
    async with client_of(simulator) as client:
        waiting = asyncio.create_task(ask(client))
        while not simulator.witness.totals.in_flight:
            await asyncio.sleep(0)
        await simulator.stop()
        with pytest.raises(openai.APIConnectionError):
            await waiting
    await simulator.stop()
    assert ["hang"] == [served.fault for served in simulator.witness.records]


async def test_hundreds_of_requests_in_flight_are_all_answered():
    """All of them wait inside the simulator at once before the first is let go."""
    clock = GateClock()
    async with Simulator(SimulatorConfig.from_mapping({"latency": "1s"}), clock=clock) as simulator:

        async def one():
            reader, writer = await connect(simulator)
            writer.write(request_bytes())
            line = await reader.readline()
            writer.close()
            return line

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one()) for _ in range(400)]
            while simulator.witness.totals.in_flight < 400:
                await asyncio.sleep(0)
            clock.gate.set()
    assert {b"HTTP/1.1 200 OK\r\n"} == {task.result() for task in tasks}
    assert 400 == simulator.witness.totals.in_flight_peak == simulator.witness.totals.good


async def test_one_connection_carries_many_requests():
    async with Simulator() as simulator:
        reader, writer = await connect(simulator)
        for _ in range(50):
            writer.write(request_bytes())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            json.loads(await reader.readexactly(length))
        writer.close()
    assert 50 == simulator.witness.totals.good


async def test_faults_are_changed_over_http_and_totals_read():
    async with Simulator() as simulator, client_of(simulator) as client:
        changed = await client.post("/../simulator/config", body={"faults": {"500": 1}}, cast_to=object)
        assert {"changed": ["faults"]} == changed
        with pytest.raises(openai.InternalServerError):
            await ask(client)
        with pytest.raises(openai.BadRequestError, match="did you mean reset"):
            await client.post("/../simulator/config", body={"faults": {"rest": 1}}, cast_to=object)
        totals = await client.get("/../simulator/witness", cast_to=object)
        records = await client.get("/../simulator/witness.jsonl", cast_to=str)
    assert (1, {"500": 1}) == (totals["requests"], totals["statuses"])
    assert "500" == json.loads(records)["fault"]


async def test_an_outage_reaches_models_too():
    outage = {"outages": [{"start": 0, "duration": "1h", "fault": "reset"}]}
    async with Simulator(SimulatorConfig.from_mapping(outage)) as simulator, client_of(simulator) as client:
        with pytest.raises(openai.APIConnectionError):
            await client.models.list()
        simulator.change({"outages": []})
        await client.models.list()


class GateClock(SystemClock):
    """Nobody who sleeps wakes before the gate opens."""

    def __init__(self):
        self.gate = asyncio.Event()

    async def sleep(self, wait_s):
        await self.gate.wait()


async def connect(simulator):
    return await asyncio.open_connection("127.0.0.1", int(simulator.base_url.split(":")[2].split("/")[0]))


def request_bytes(text="I was charged twice"):
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body

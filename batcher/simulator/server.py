"""The simulator on a port of this process.

Routes: `POST /v1/chat/completions`, `GET /v1/models`; for those who steer it `GET /simulator/witness` (totals),
`GET /simulator/witness.jsonl` (records) and `POST /simulator/config` (faults, outages, limits, latency anew).
Every other route is a 404 in OpenAI's words.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from batcher.clock import Clock, SystemClock
from batcher.errors import JobError, StorageError
from batcher.simulator import wire
from batcher.simulator.config import SimulatorConfig
from batcher.simulator.desk import Desk, Plan
from batcher.simulator.exchange import CLOSED, Exchange, close, reset
from batcher.simulator.fault_answers import FaultContext, status_answer
from batcher.simulator.faults import Fault
from batcher.simulator.slots import Slots
from batcher.simulator.wire import HttpAnswer
from batcher.simulator.witness import Served, Witness

_CHAT = "/v1/chat/completions"
_MODELS = "/v1/models"
_WITNESS = "/simulator/witness"
_RECORDS = "/simulator/witness.jsonl"
_CONFIG = "/simulator/config"
_METHODS = {_CHAT: "POST", _MODELS: "GET", _WITNESS: "GET", _RECORDS: "GET", _CONFIG: "POST"}

_BACKLOG = 4096
_SHUTDOWN_S = 0.1


class Simulator:
    """A simulator on a port of this process's event loop.

    async with Simulator(SimulatorConfig(faults={"500": 0.05}, seed=7)) as simulator:
        client = AsyncOpenAI(base_url=simulator.base_url, api_key="sk-any", max_retries=0)

    Args:
        config: What it does.
        host: Where it listens.
        port: 0 for a free one.
        witness_path: Where each record also becomes a line.
        records_max: How many records the witness keeps in memory; None for all.
        clock: Time for limits, latencies and records.
    """

    def __init__(
        self,
        config: SimulatorConfig | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        witness_path: Path | None = None,
        records_max: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._clock = clock or SystemClock()
        self._desk = Desk(config or SimulatorConfig(), self._clock)
        self._exchange = Exchange(self._clock)
        self._slots = Slots(self._desk.config.limits.slots)
        self.witness = Witness(witness_path, records_max=records_max)
        self._runner: web.ServerRunner | None = None
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._failure: StorageError | None = None

    @property
    def base_url(self) -> str:
        """What a client takes as its base URL, `/v1` included."""
        return f"{self.root_url}/v1"

    @property
    def root_url(self) -> str:
        """The URL under which `/simulator/witness` stands."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            JobError: The port is taken, or the host is not this machine's.
        """
        server = web.Server(
            self._handle,
            request_factory=self._make_request,
            # A handler whose client left is cancelled: that is how the witness learns of it.
            handler_cancellation=True,
            access_log=None,
            lingering_time=1.0,
            tcp_keepalive=False,
        )
        runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port, backlog=_BACKLOG).start()
        except OSError as error:
            await runner.cleanup()
            self.witness.close()
            reason = error.strerror or str(error)
            raise JobError(
                f"the simulator cannot listen on {self._host}:{self._port}: {reason}; give another port"
            ) from error
        self._runner = runner
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Close every connection, end every request, close the witness; a second time does nothing.

        Raises:
            StorageError: The witness could not write a record, so its file is not complete.
        """
        self._stopping.set()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
            # Cancelled requests still write their records.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout=1.0)
        self.witness.close()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def stopped(self) -> None:
        """Wait until `stop` is called, or the witness cannot go on."""
        await self._stopping.wait()

    def change(self, fields: Mapping[str, Any]) -> None:
        """Set fields at run time, as `POST /simulator/config` does.

        simulator.change({"outages": [{"start": 0, "duration": "30s", "fault": "reset"}]})

        Raises:
            JobError: A field is unknown, wrong, or fixed for the simulator's life.
        """
        self._change(dict(fields))

    def _change(self, fields: Any) -> None:
        self._desk.change(fields)
        self._slots.resize(self._desk.config.limits.slots)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        bytes_max = self._desk.config.body_bytes_max
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=bytes_max)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        try:
            if path == _CHAT and request.method == "POST":
                return await self._chat(request)
            self.witness.totals.others += 1
            fault = self._desk.outage() if path == _MODELS else None
            if fault is not None and not fault.is_billed and fault.group != "answer":
                return await self._outage(request, fault)
            return await self._exchange.send(request, await self._other(request, path))
        except ConnectionError:
            return CLOSED

    async def _chat(self, request: web.BaseRequest) -> web.StreamResponse:
        key = _bearer(request)
        arrived_s = self._clock.now()
        plan = Plan(self._desk.arrive(key), None)
        self.witness.begin()
        self._idle.clear()
        is_begun = is_written = False
        try:
            body = await _read(request)
            plan = self._plan(plan.number, key, body)
            await self._work(plan)
            is_begun = plan.answer is not None
            sent = await self._send(request, plan)
            is_written = is_begun and not _is(plan.fault, "cut", "cut_chunked")
            return sent
        finally:
            self._desk.leave(key, plan.answer if is_written else None)
            self._record(plan, key, arrived_s, is_begun=is_begun, is_written=is_written)

    async def _work(self, plan: Plan) -> None:
        """The time that an answer takes, in a slot of the server; refusals come at once and hanging takes none."""
        if plan.refused_by is not None or _is(plan.fault, "hang"):
            return
        await self._slots.take()
        try:
            if plan.latency_s > 0:
                await self._clock.sleep(plan.latency_s)
        finally:
            self._slots.leave()

    def _plan(self, number: int, key: str, body: bytes | None) -> Plan:
        if body is None:
            return Plan(number, wire.body_too_large(self._desk.config.body_bytes_max), refused_by="request")
        return self._desk.plan(number, key, body)

    async def _send(self, request: web.BaseRequest, plan: Plan) -> web.StreamResponse:
        answer, fault = plan.answer, plan.fault
        if answer is None:
            return await self._refuse_to_answer(request, fault)
        if _is(fault, "drip"):
            return await self._exchange.send_drip(request, answer, drip_s=self._desk.config.drip_s)
        if _is(fault, "cut"):
            return await self._exchange.send_cut(request, answer)
        if _is(fault, "cut_chunked"):
            return await self._exchange.send_cut_chunked(request, answer)
        return await self._exchange.send(request, answer)

    async def _refuse_to_answer(self, request: web.BaseRequest, fault: Fault | None) -> web.StreamResponse:
        if _is(fault, "hang"):
            # Ends by cancellation when the client leaves, or with the simulator.
            await self._stopping.wait()
        return reset(request) if _is(fault, "reset") else close(request)

    async def _outage(self, request: web.BaseRequest, fault: Fault) -> web.StreamResponse:
        if fault.group == "connection":
            return await self._refuse_to_answer(request, fault)
        context = FaultContext("", _bearer(request), None, 0, self._desk.config.retry_after_s, self._clock.now())
        return await self._exchange.send(request, status_answer(fault.name, context))

    def _record(self, plan: Plan, key: str, arrived_s: float, *, is_begun: bool, is_written: bool) -> None:
        answer = plan.answer if is_begun else None
        tokens = plan.tokens if is_begun else wire.NO_TOKENS
        price = self._desk.config.price
        served = Served(
            number=plan.number,
            arrived_s=arrived_s,
            finished_s=self._clock.now(),
            key=wire.key_tail(key),
            model=plan.model,
            digest=plan.digest,
            status=answer.status if answer is not None else None,
            fault=plan.fault.name if plan.fault is not None else None,
            refused_by=plan.refused_by,
            is_written=is_written,
            is_good=is_written and plan.is_good,
            is_billed=tokens != wire.NO_TOKENS,
            is_early=plan.is_early,
            prompt_tokens=tokens.prompt,
            cached_tokens=tokens.cached,
            completion_tokens=tokens.completion,
            reasoning_tokens=tokens.reasoning,
            cost_usd=price.cost_usd(tokens.prompt, tokens.cached, tokens.completion) if price is not None else None,
            body_bytes=len(answer.body) if answer is not None else 0,
        )
        try:
            self.witness.end(served)
        except StorageError as error:
            # A witness with holes is worse than none: the simulator ends, and `stop` says why.
            self._failure = self._failure or error
            self._stopping.set()
        if self.witness.totals.in_flight == 0:
            self._idle.set()

    async def _other(self, request: web.BaseRequest, path: str) -> HttpAnswer:
        method = _METHODS.get(path)
        if method is None:
            return wire.unknown_url(request.method, path)
        if method != request.method:
            return wire.wrong_method(request.method, path)
        if path == _MODELS:
            refusal = self._desk.refusal_of_key(_bearer(request))
            return refusal or HttpAnswer(200, wire.models_body(self._desk.config.models, int(self._clock.now())))
        if path == _WITNESS:
            return HttpAnswer(200, self.witness.summary())
        if path == _RECORDS:
            return HttpAnswer(200, self.witness.lines(), "application/jsonl")
        return await self._configure(request)

    async def _configure(self, request: web.BaseRequest) -> HttpAnswer:
        try:
            fields = msgspec.json.decode(await _read(request) or b"")
            self._change(fields)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return wire.not_json()
        except JobError as error:
            return wire.error_answer(400, error.message)
        return HttpAnswer(200, msgspec.json.encode({"changed": list(fields)}))


async def _read(request: web.BaseRequest) -> bytes | None:
    """The body, or None when it is larger than what is taken."""
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        return None


def _bearer(request: web.BaseRequest) -> str:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _is(fault: Fault | None, *names: str) -> bool:
    return fault is not None and fault.name in names

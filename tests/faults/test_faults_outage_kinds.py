"""P7 from outside: whatever way a provider fails, rows wait, one call at a time probes, and nothing is lost.

The provider here is a bare socket server that serves for a while, fails in one way after the other, and keeps its
own count: what was asked when, how many calls were open at once, and which rows it answered.
"""

import asyncio
import contextlib
import json
import os
import random
import ssl
import subprocess
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from raw_server import reset, response
from rig import BATCHER, KEY, results

GOOD_CALLS = 12
"""Between two outages."""

PROBE_EVERY_S = 0.25

FIRST_WAVE_S = 0.45
"""The calls on the wire when an outage begins have failed by then, those that time out too."""

BREAKER = "circuit_breaker: {recovery_time: 250ms}\n"


class Sky:
    """A provider whose weather changes: each outage begins after `GOOD_CALLS` answers and lasts `lasts_s`.

    Args:
        outages: Which ones, in order; afterwards it is well.
        lasts_s: From the first call that meets it. None for ever, until `clear` is called.
        poison: Rows whose text holds one of these words always get a 500.
    """

    def __init__(self, *outages: str, lasts_s: float | None = 0.8, poison: tuple[str, ...] = ()) -> None:
        self.outages, self.lasts_s, self.poison = list(outages), lasts_s, poison
        self.now: str | None = None
        self.answered: Counter[str] = Counter()
        self.canaries: list[str | None] = []
        self.calls: list[tuple[float, str | None]] = []
        self.began: list[tuple[str, float]] = []
        self._good = 0
        self._chance = random.Random(7)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "Sky":
        self._thread.start()
        self._do(self._listen(0))
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def clear(self) -> None:
        """Well from now on."""
        self._loop.call_soon_threadsafe(self._improve)

    def probes(self, name: str) -> list[float]:
        """When the calls of an outage came, but for those that were on their way when it began."""
        begun = next(at for outage, at in self.began if outage == name)
        return [at for at, weather in self.calls if weather == name and at - begun > FIRST_WAVE_S]

    def _do(self, work) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self, port: int) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._tasks.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            # TLS begins with this byte, HTTP with a letter.
            while (first := await reader.readexactly(1)) != b"\x16":
                head = first + await reader.readuntil(b"\r\n\r\n")
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:")
                text = json.loads(await reader.readexactly(length))["messages"][-1]["content"]
                await self._answer(writer, text)
                await writer.drain()
        self._writers.discard(writer)
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, text: str) -> None:
        if self.now is None and self._good >= GOOD_CALLS and self.outages:
            self._worsen()
        weather = self.now
        self.calls.append((time.monotonic(), weather))
        if text == "Say OK.":
            self.canaries.append(weather)
        if weather is not None:
            await self._fail(weather, writer)
            return
        await asyncio.sleep(0.02)
        if any(word in text for word in self.poison):
            writer.write(response(b'{"error": {"message": "boom"}}', status="500 Internal Server Error"))
            return
        if writer.is_closing():
            return
        self._good += 1
        self.answered[text] += 1
        writer.write(response(completion(text)))

    def _worsen(self) -> None:
        self.now = self.outages.pop(0)
        self.began.append((self.now, time.monotonic()))
        if self.now == "refused":
            self._server.close()
        if self.now in ("refused", "restart"):
            for writer in list(self._writers):
                writer.transport.abort()
        if self.lasts_s is not None:
            self._loop.call_later(self.lasts_s, self._improve)

    def _improve(self) -> None:
        self._good = 0
        if self.now == "refused":
            self._relisten = self._loop.create_task(self._listen(self.port))
        self.now = None
        if self.lasts_s is None:
            self.outages = []

    async def _fail(self, weather: str, writer: asyncio.StreamWriter) -> None:
        match weather:
            case "503":
                writer.write(
                    response(b"overloaded, th\xe1\xbb\xad l\xe1\xba\xa1i sau", status="503 Service Unavailable")
                )
            case "garbage":
                writer.write(response(self._chance.randbytes(200)))
            case "cut":
                writer.write(response(completion("x")[:40]))
            case "empty":
                writer.write(response(b""))
            case "refused" | "restart":
                reset(writer)
            case "silent":
                await asyncio.sleep(60)
            case "crawl":
                for byte in response(completion("x")):
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.1)


def completion(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    return json.dumps(
        {"id": "c", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage}
    ).encode()


def text_of(row: int) -> str:
    return f"แถว {row} dòng số {row} 第{row}行"


def write(folder: Path, base_url: str, *, rows: int, more: str = BREAKER, tries: int = 2) -> None:
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for row in range(rows):
            file.write(json.dumps({"text": text_of(row)}, ensure_ascii=False) + "\n")
    (folder / "job.yaml").write_text(
        f'input: rows.jsonl\nprompt: "{{{{ text }}}}"\nmodel: gpt-4.1-nano\n'
        f'provider: {{name: main, base_url: "{base_url}", api_key: "${{RIG_KEY}}"}}\n'
        f"limits: {{concurrency: 6}}\nretry: {{attempts: {tries}, min_wait: 20ms, max_wait: 50ms}}\n{more}",
        encoding="utf-8",
    )


def batcher(folder: Path, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "RIG_KEY": KEY}
    return subprocess.run(
        [*BATCHER, *arguments], cwd=folder, env=environ, text=True, encoding="utf-8", capture_output=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip


def frame_of(folder: Path, ended: subprocess.CompletedProcess[str]) -> pl.DataFrame:
    return results(folder / ended.stdout.strip().splitlines()[-1])


def assert_all_ok(folder: Path, ended: subprocess.CompletedProcess[str], sky: Sky, rows: int) -> None:
    assert ended.returncode == 0, ended.stderr
    frame = frame_of(folder, ended)
    assert frame["row"].to_list() == list(range(rows))
    assert frame["status"].unique().to_list() == ["ok"]
    assert frame["answer"].to_list() == [text_of(row) for row in range(rows)]
    assert sky.answered == Counter({text_of(row): 1 for row in range(rows)})


@pytest.mark.parametrize(
    ("outages", "said"),
    [
        (("503", "garbage", "empty", "cut"), "HTTP 503"),
        (("refused", "silent", "crawl", "restart"), "no answer within the timeout"),
    ],
)
def test_rows_wait_and_one_call_probes_whatever_way_it_fails(
    tmp_path: Path, outages: tuple[str, ...], said: str
) -> None:
    """Two tries a row and outages many times as long; the first of each kind comes after rows have been served."""
    with Sky(*outages, lasts_s=1.3) as sky:
        write(tmp_path, sky.base_url, rows=80, more=BREAKER + "timeout: 400ms\n")
        ended = batcher(tmp_path, "run", "job.yaml")

    assert [name for name, _ in sky.began] == list(outages)
    assert_all_ok(tmp_path, ended, sky, 80)
    assert len(outages) == ended.stderr.count("main is down"), ended.stderr
    assert len(outages) == ended.stderr.count("main is back"), ended.stderr
    assert said in ended.stderr
    assert "rows wait until it is back" in ended.stderr, "what is waited for"
    for name in outages:
        assert sky.probes(name) or name == "refused", "a server that is gone counts no calls"
        gaps = [later - earlier for earlier, later in pairwise(sky.probes(name))]
        assert all(gap > 0.9 * PROBE_EVERY_S for gap in gaps), (name, gaps)
    assert sky.canaries == [], "rows that had not failed before were there to probe with"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_minutes_of_503(tmp_path: Path) -> None:
    """With the pauses that people use: nothing fails, and the provider sees a probe every ten seconds."""
    with Sky("503", lasts_s=120.0) as sky:
        write(tmp_path, sky.base_url, rows=60, more="circuit_breaker: {recovery_time: 10s}\n")
        ended = batcher(tmp_path, "run", "job.yaml", timeout_s=200)

    assert_all_ok(tmp_path, ended, sky, 60)
    assert 11 <= len([at for at in sky.probes("503") if at - sky.began[0][1] > 1]) <= 13


def test_past_the_longest_outage_it_stops_and_a_resume_finishes(tmp_path: Path) -> None:
    """Exit code 4, the reason in the last words, and after the resume each row answered once."""
    with Sky("503", lasts_s=None) as sky:
        write(tmp_path, sky.base_url, rows=40, more=BREAKER.replace("250ms}", "250ms, max_outage: 1s}"))
        stopped = batcher(tmp_path, "run", "job.yaml")
        sky.clear()
        time.sleep(0.1)
        resumed = batcher(tmp_path, "resume", "job.yaml")

    assert 4 == stopped.returncode, stopped.stderr
    assert "max_outage" in stopped.stderr
    assert "HTTP 503" in stopped.stderr
    assert_all_ok(tmp_path, resumed, sky, 40)


def test_a_provider_that_cannot_be_reached_costs_no_row_a_try(tmp_path: Path) -> None:
    """A name that does not resolve, TLS to a plain port, a certificate that nobody signed: exit 4 each time, and with
    the right address it goes on."""
    short = BREAKER.replace("250ms}", "250ms, max_outage: 500ms}")
    with Sky() as sky, self_signed(tmp_path) as port:
        wrong = ["http://nothing.invalid/v1", sky.base_url.replace("http:", "https:"), f"https://localhost:{port}/v1"]
        for base_url in wrong:
            write(tmp_path, base_url, rows=20, more=short)
            stopped = batcher(tmp_path, "run", "job.yaml")
            assert 4 == stopped.returncode, stopped.stderr
            assert "main is down: " in stopped.stderr
        write(tmp_path, sky.base_url, rows=20, more=short)
        again = batcher(tmp_path, "run", "job.yaml")

    assert_all_ok(tmp_path, again, sky, 20)


@contextlib.contextmanager
def self_signed(folder: Path):
    """The port of a TLS server whose certificate is its own."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(
        asyncio.start_server(lambda _, writer: writer.close(), "localhost", 0, ssl=context)
    )
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


@pytest.mark.parametrize(("rows", "good"), [(30, 27), (12, 1)])
def test_rows_that_always_fail_do_not_hold_up_the_end(tmp_path: Path, rows: int, good: int) -> None:
    """The last three are poisoned, or all but one: they use up their own tries, and the run ends long before
    `max_outage`, since a small request of our own is answered."""
    poisoned = range(good, rows)
    with Sky(poison=tuple(f"第{row}行" for row in poisoned)) as sky:
        write(tmp_path, sky.base_url, rows=rows, more=BREAKER + "success: {failed: 95%}\n", tries=5)
        started = time.monotonic()
        ended = batcher(tmp_path, "run", "job.yaml")

    assert 0 == ended.returncode, ended.stderr
    assert time.monotonic() - started < 30
    frame = frame_of(tmp_path, ended)
    assert ["ok"] * good + ["failed"] * len(poisoned) == frame["status"].to_list()
    assert {"server"} == set(frame["error_kind"].drop_nulls())
    assert frame["attempts"].sum() == len(sky.calls), "each call is booked, the canaries too"

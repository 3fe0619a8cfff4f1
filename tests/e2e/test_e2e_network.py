"""Real networks, on loopback: TLS, HTTP/2, proxies, certificates, compression, and how many files may be open.

Both clients keep the same promises, but for HTTP/2 and resumed TLS sessions, which only the fast one has.
"""

import asyncio
import contextlib
import gzip
import json
import os
import resource
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import h2.errors
import hypercorn.asyncio
import hypercorn.config
import polars as pl
import pytest
import zstandard
from networks import NAME, H2Script, Http1, Http2, Pki, Proxy, completion_bytes

from batcher.core.contracts import CallError
from batcher.providers.classify import classify
from batcher.providers.exchange import Exchange, make_exchange
from batcher.providers.network import Network, Tls, network_for

KEY = "sk-network-0123456789abcdef"
TEXTS = ("ตั๋วหมดแล้ว", "tôi bị trừ tiền hai lần", "我被重复扣款了 🙂")

both = pytest.mark.parametrize("client", ["fast", "sdk"])


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@contextlib.asynccontextmanager
async def exchanging(
    client: str, base_url: str, *, network: Network | None = None, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Exchange]:
    way = network or network_for(base_url, environ or {})
    exchange = make_exchange(client, base_url=base_url, api_key=KEY, timeout_s=10, network=way)
    try:
        yield exchange
    finally:
        await exchange.close()


def trusting(pki: Pki) -> Network:
    return Network(tls=Tls(ca=pki.ca))


def body_of(text: str) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()


async def told(exchange: Exchange, text: str = TEXTS[0]) -> str | CallError:
    """The answer's text, or the failure."""
    try:
        answered = await exchange.post(body_of(text))
    except Exception as error:  # noqa: BLE001  # whatever the exchange raises is what is looked at
        return classify(error, now_s=0, mask=lambda words: words)
    return json.loads(answered.body)["choices"][0]["message"]["content"]


async def all_told(exchange: Exchange, count: int) -> Counter[str]:
    """What came of so many calls at once: "ok", or the kinds of the failures."""
    texts = [f"{TEXTS[index % 3]} {index}" for index in range(count)]
    answers = await asyncio.gather(*(told(exchange, text) for text in texts))
    return Counter(
        answer.kind if isinstance(answer, CallError) else "ok" if answer == text else "another's answer"
        for text, answer in zip(texts, answers, strict=True)
    )


# --- HTTP/2 --------------------------------------------------------------------------------------


async def test_http2_is_spoken_where_a_server_offers_it(pki: Pki) -> None:
    """Hypercorn is nobody's double: what it negotiates by ALPN is what it says in the scope."""
    versions: list[str] = []

    async def app(scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            return
        versions.append(scope["http_version"])
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": completion_bytes(TEXTS[0])})

    config = hypercorn.config.Config()
    config.certfile, config.keyfile, config.loglevel = str(pki.good.cert), str(pki.good.key), "CRITICAL"
    config.bind, config.alpn_protocols = [f"127.0.0.1:{free_port()}"], ["h2", "http/1.1"]
    over = asyncio.Event()
    serving = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=over.wait))
    try:
        async with exchanging(
            "fast", f"https://localhost:{config.bind[0].rpartition(':')[2]}/v1", network=trusting(pki)
        ) as exchange:
            answers = [await until_up(exchange), *await asyncio.gather(*(told(exchange) for _ in range(50)))]
    finally:
        over.set()
        await serving
    assert {TEXTS[0]} == set(answers)
    assert {"2"} == set(versions)


def free_port() -> int:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


async def until_up(exchange: Exchange) -> str:
    async with asyncio.timeout(10):
        while isinstance(answer := await told(exchange), CallError):
            await asyncio.sleep(0.05)
    return answer


async def test_calls_share_few_connections_and_none_waits_for_a_stream(pki: Pki) -> None:
    """300 in flight where a connection takes 100: three connections, and no call waits for another to end."""
    with Http2(pki, H2Script(streams_max=100, answer_s=1.0)) as server:
        async with exchanging("fast", server.base_url, network=trusting(pki)) as exchange:
            first = await all_told(exchange, 300)
            opened = server.seen["connections"]
            started_s = time.monotonic()
            second = await all_told(exchange, 300)
            took_s = time.monotonic() - started_s

    assert {"ok": 300} == first == second
    assert opened == server.seen["connections"], "the second wave opened none"
    assert server.most_streams <= 100
    # With one connection it takes three rounds of a second.
    assert took_s < 2.5, took_s


async def test_a_connection_that_goes_away_loses_no_call(pki: Pki) -> None:
    """GOAWAY names the last stream that was begun; those above it are asked elsewhere, and none twice."""
    with Http2(pki, H2Script(goaway_after=40, answer_s=0.05)) as server:
        async with exchanging("fast", server.base_url, network=trusting(pki)) as exchange:
            first = await told(exchange)
            rest = [await all_told(exchange, 60) for _ in range(3)]

    assert TEXTS[0] == first
    assert [{"ok": 60}] * 3 == rest
    assert 181 == server.seen["calls"] == server.seen["answered"], "each was begun with once"
    assert server.seen["goaways"] >= 4


async def test_a_call_that_was_begun_with_is_never_sent_again_unseen(pki: Pki) -> None:
    """GOAWAY covers it, and then the connection dies: it may have been paid, so it fails with an unknown bill."""
    with Http2(pki, H2Script(goaway_after=6, goaway_drops=True, answer_s=0.3)) as server:
        async with exchanging("fast", server.base_url, network=trusting(pki)) as exchange:
            assert TEXTS[0] == await told(exchange)
            answers = await asyncio.gather(*(told(exchange) for _ in range(5)))

    assert (6, 1) == (server.seen["calls"], server.seen["goaways"]), "none came twice"
    for failure in answers:
        assert isinstance(failure, CallError)
        assert ("connection", True, True) == (failure.kind, failure.reached, failure.is_billing_unknown)


async def test_a_stream_that_was_refused_unseen_is_asked_again_and_one_that_broke_is_a_failure(pki: Pki) -> None:
    """REFUSED_STREAM promises that nothing was done (RFC 9113, 8.7). After INTERNAL_ERROR nobody knows, so the
    gate decides, and the bill is unknown."""
    codes = h2.errors.ErrorCodes
    with Http2(pki, H2Script(reset_with={2: codes.REFUSED_STREAM, 4: codes.INTERNAL_ERROR})) as server:
        async with exchanging("fast", server.base_url, network=trusting(pki)) as exchange:
            answers = [await told(exchange) for _ in range(3)]

    assert [TEXTS[0]] * 2 == answers[:2]
    failure = answers[2]
    assert isinstance(failure, CallError)
    assert ("connection", True, True) == (failure.kind, failure.reached, failure.is_billing_unknown)
    assert 2 == server.seen["resets"]


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_a_connection_that_died_silently_does_not_hold_all_calls_for_good(pki: Pki) -> None:
    """A hundred calls share it, and each new one would join them: a ping finds it, and the next call has another."""
    network = trusting(pki)
    with Http2(pki, H2Script(mute_after=1)) as server:
        exchange = make_exchange("fast", base_url=server.base_url, api_key=KEY, timeout_s=90, network=network)
        try:
            first = await told(exchange)
            started_s = time.monotonic()
            lost = await told(exchange)
            took_s = time.monotonic() - started_s
            after = await told(exchange)
        finally:
            await exchange.close()

    assert TEXTS[0] == first == after
    assert isinstance(lost, CallError)
    assert took_s < 60


# --- HTTP/1.1 over TLS ---------------------------------------------------------------------------


@both
async def test_connections_are_as_many_as_calls_at_once_and_not_as_calls(pki: Pki, client: str) -> None:
    """A handshake for each call would cost more than the call."""
    with Http1(context=pki.context(), answer_s=0.02) as server:
        async with exchanging(client, server.base_url, network=trusting(pki)) as exchange:
            rounds = [await all_told(exchange, 20) for _ in range(10)]

    assert [{"ok": 20}] * 10 == rounds
    assert 200 == server.seen["calls"]
    assert server.seen["connections"] <= 24


async def test_sessions_are_resumed_where_a_connection_must_be_made_again(pki: Pki) -> None:
    """A resumed handshake has no certificates in it: a third of the work for either side."""
    with Http1(context=pki.context(), calls_max=1) as server:
        async with exchanging("fast", server.base_url, network=trusting(pki)) as exchange:
            for _ in range(5):
                assert TEXTS[0] == await told(exchange)
                await asyncio.sleep(0.05)

    assert 5 == server.seen["connections"]
    assert 4 == server.seen["resumed"]


async def test_a_connection_that_was_closed_while_idle_costs_no_call(pki: Pki) -> None:
    """Load balancers close what was idle for a minute; the next call must not be the one to find out. (The SDK's client
    does not see it, and keeps an idle connection for five seconds only.)"""
    with Http1(context=pki.context(), calls_max=3) as server:
        async with exchanging("fast", server.base_url, network=trusting(pki)) as exchange:
            answers = []
            for _ in range(9):
                answers.append(await told(exchange))
                await asyncio.sleep(0.05)

    assert [TEXTS[0]] * 9 == answers
    assert 3 == server.seen["connections"]


# --- certificates --------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        ("foreign", "TLS: the authority is unknown; name it in provider.tls.ca or SSL_CERT_FILE ("),
        ("expired", "TLS: the certificate has expired; the provider must renew it ("),
        ("misnamed", "TLS: the certificate is for another host; mend base_url ("),
    ],
)
async def test_a_certificate_that_is_not_accepted_says_why(pki: Pki, client: str, certificate: str, words: str) -> None:
    """And what to do: a library's word for it is "UnknownIssuer"."""
    with Http1(context=pki.context(getattr(pki, certificate))) as server:
        async with exchanging(client, server.base_url, network=trusting(pki)) as exchange:
            failure = await told(exchange)

    assert isinstance(failure, CallError)
    assert failure.message.startswith(words)
    assert ("connection", False, False) == (failure.kind, failure.reached, failure.is_billing_unknown)
    assert 0 == server.seen["calls"], "no key went to who could not show a certificate"


@both
async def test_a_client_certificate_is_shown_where_the_job_has_one(pki: Pki, client: str) -> None:
    """With the key in a file of its own, or in the same one."""
    together = pki.folder / f"together-{client}.pem"
    together.write_bytes(pki.client.cert.read_bytes() + pki.client.key.read_bytes())
    with Http1(context=pki.context(wants_client=True)) as server:
        ways = [Tls(pki.ca, pki.client.cert, pki.client.key), Tls(pki.ca, together), Tls(pki.ca)]
        answers = []
        for tls in ways:
            async with exchanging(client, server.base_url, network=Network(tls=tls)) as exchange:
                answers.append(await told(exchange))

    assert [TEXTS[0]] * 2 == answers[:2]
    assert isinstance(answers[2], CallError)
    assert "connection" == answers[2].kind
    assert 2 == server.seen["client certificates"]


# --- proxies -------------------------------------------------------------------------------------


@both
async def test_https_goes_through_a_tunnel_and_the_proxy_sees_only_the_host(pki: Pki, client: str) -> None:
    """The name is resolved by the proxy: this machine does not know it."""
    with Http1(context=pki.context()) as server, Proxy(login="nhân:mật/khẩu") as proxy:
        base_url = f"https://{NAME}:{server.port}/v1"
        environ = {"HTTPS_PROXY": proxy.url_with("nh%C3%A2n:m%E1%BA%ADt%2Fkh%E1%BA%A9u")}
        way = Network(network_for(base_url, environ).proxy, Tls(ca=pki.ca))
        async with exchanging(client, base_url, network=way) as exchange:
            answers = [await told(exchange) for _ in range(5)]

    assert [TEXTS[0]] * 5 == answers
    assert {f"CONNECT {NAME}:{server.port} HTTP/1.1"} == set(proxy.lines)
    assert KEY not in json.dumps(proxy.headers)
    assert all("proxy-authorization" not in headers for headers in server.headers)
    assert 1 == server.seen["connections"]


async def test_http2_goes_through_a_tunnel_too(pki: Pki) -> None:
    """One tunnel carries a hundred calls."""
    with Http2(pki) as server, Proxy() as proxy:
        base_url = f"https://{NAME}:{server.port}/v1"
        way = Network(network_for(base_url, {"HTTPS_PROXY": proxy.url}).proxy, Tls(ca=pki.ca))
        async with exchanging("fast", base_url, network=way) as exchange:
            first, rest = await told(exchange), await all_told(exchange, 50)

    assert (TEXTS[0], {"ok": 50}) == (first, rest)
    assert {"alpn h2"} == {name for name in server.seen if name.startswith("alpn")}
    assert 1 == len(proxy.lines)


@both
async def test_plain_http_goes_to_the_proxy_whole(client: str) -> None:
    """With its own login for the proxy, which the provider never sees."""
    with Http1() as server, Proxy(login="user:geheim") as proxy:
        base_url = f"http://{NAME}:{server.port}/v1"
        async with exchanging(client, base_url, environ={"HTTP_PROXY": proxy.url_with("user:geheim")}) as exchange:
            answer = await told(exchange)

    assert TEXTS[0] == answer
    assert [f"POST http://{NAME}:{server.port}/v1/chat/completions HTTP/1.1"] == proxy.lines[-1:]
    assert "proxy-authorization" not in server.headers[-1]


@both
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_wants_a_login_is_told_from_an_outage(client: str, scheme: str) -> None:
    """Waiting does not bring a password: it is refused like a key, with the variable to mend."""
    with Proxy(login="user:geheim") as proxy:
        base_url = f"{scheme}://{NAME}:9/v1"
        async with exchanging(client, base_url, environ={"ALL_PROXY": proxy.url_with("user:falsch")}) as exchange:
            failure = await told(exchange)

    assert isinstance(failure, CallError)
    assert ("auth", 407, False) == (failure.kind, failure.status, failure.is_billing_unknown)
    assert failure.hint is not None
    assert "HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT" in failure.hint


@both
async def test_a_proxy_that_does_not_let_a_host_through_says_so(client: str) -> None:
    """And nothing was sent that could be billed."""
    with Proxy(refuses=403) as proxy:
        base_url = f"https://{NAME}:9/v1"
        async with exchanging(client, base_url, environ={"HTTPS_PROXY": proxy.url}) as exchange:
            failure = await told(exchange)

    assert isinstance(failure, CallError)
    assert ("connection", False, False) == (failure.kind, failure.reached, failure.is_billing_unknown)
    assert failure.message.startswith("the proxy refuses to connect to the provider (")


# --- compression, names, addresses ---------------------------------------------------------------


def brotli(body: bytes) -> bytes:
    """One uncompressed meta-block of at most 64 KiB (RFC 7932, 9.2): window 16, then the length, then the bytes."""
    return ((len(body) - 1) << 4 | 1 << 20).to_bytes(3, "little") + body + b"\x03"


CODINGS = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.compress, "br": brotli}


@both
@pytest.mark.parametrize("coding", list(CODINGS))
async def test_a_compressed_answer_is_read_as_it_was_meant(client: str, coding: str) -> None:
    """Each coding that a client says it takes, it takes: all but Brotli; the SDK's takes two more with packages."""
    text = " ".join(TEXTS * 20)
    with Http1(coding=coding, encode=CODINGS[coding]) as server:
        async with exchanging(client, server.base_url) as exchange:
            answer = await told(exchange, text)

    assert text == answer
    if coding in (("gzip", "deflate", "zstd") if client == "fast" else ("gzip", "deflate")):
        assert {coding: 1} == server.codings


@both
async def test_an_address_of_ipv6_is_reached(client: str) -> None:
    """`http://[::1]:8000/v1` is what a server prints that listens there."""
    try:
        server = Http1(host="::1").__enter__()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    try:
        async with exchanging(client, f"http://[::1]:{server.port}/v1") as exchange:
            answer = await told(exchange)
    finally:
        server.__exit__()
    assert TEXTS[0] == answer


@both
async def test_a_name_with_a_dead_address_is_reached_by_the_other(client: str) -> None:
    """`localhost` is ::1 first on many machines, where nobody listens here."""
    with Http1() as server:
        async with exchanging(client, f"http://localhost:{server.port}/v1") as exchange:
            answer = await told(exchange)
    assert TEXTS[0] == answer


# --- whole runs ----------------------------------------------------------------------------------


def write_job(folder: Path, base_url: str, *, rows: int = 12, more: str = "", provider: str = "") -> None:
    lines = [json.dumps({"id": i, "text": f"{TEXTS[i % 3]} {i}"}, ensure_ascii=False) for i in range(rows)]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "job.yaml").write_text(
        'input: {path: rows.jsonl, carry: [text]}\nprompt: "{{ text }}"\nmodel: gpt-4.1-nano\nprovider:\n'
        f'  base_url: "{base_url}"\n  api_key: "${{NETWORK_KEY}}"\n{provider}retry: {{min_wait: 20ms}}\n{more}',
        encoding="utf-8",
    )


def environment(**more: object) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and "SSL_" not in name}
    return {**kept, "NETWORK_KEY": KEY, **{name: str(value) for name, value in more.items()}}


def batcher(
    folder: Path, *arguments: str, files: tuple[int, int] | None = None, **environ: object
) -> "subprocess.CompletedProcess[str]":
    """Run the program; `files` are the soft and the hard limit of open files."""
    limit = None if files is None else lambda: resource.setrlimit(resource.RLIMIT_NOFILE, files)
    return subprocess.run(
        [sys.executable, "-m", "batcher", *arguments], cwd=folder, capture_output=True, text=True, timeout=100,
        check=False, encoding="utf-8", preexec_fn=limit, env=environment(**environ),
    )  # fmt: skip


def assert_all_ok(folder: Path, ended: "subprocess.CompletedProcess[str]") -> None:
    assert 0 == ended.returncode, ended.stderr
    frame = pl.read_parquet(folder / ended.stdout.strip().splitlines()[-1] / "results.parquet")
    assert frame["text"].to_list() == frame["answer"].to_list()
    assert {"ok"} == set(frame["status"])


def words_in(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.read_bytes().decode("latin-1")


@both
def test_a_run_goes_through_tls_and_a_proxy_and_its_password_stays_out(pki: Pki, tmp_path: Path, client: str) -> None:
    """A house's own authority, and the proxy that every office has: nothing but the environment says so."""
    with Http1(context=pki.context()) as server, Proxy(login="user:geheim-4711") as proxy:
        write_job(tmp_path, f"https://{NAME}:{server.port}/v1", more=f"client: {client}\n")
        way = {"https_proxy": proxy.url_with("user:geheim-4711"), "NO_PROXY": "elsewhere.test,10.0.0.0/8"}
        trust = {"SSL_CERT_FILE": pki.ca} if client == "fast" else {"SSL_CERT_DIR": pki.folder}
        ended = batcher(tmp_path, "run", "job.yaml", **trust, **way)

    assert_all_ok(tmp_path, ended)
    assert 12 == server.seen["calls"]
    for words in [ended.stderr, *words_in(tmp_path)]:
        assert "geheim-4711" not in words
        assert "dXNlcjpnZWhlaW0tNDcxMQ==" not in words


def test_a_proxy_without_the_right_login_stops_the_run_at_once(tmp_path: Path) -> None:
    """Code 6 with the fix, not half an hour of an outage; and what the proxy quotes is masked."""
    with Proxy(login="user:geheim-4711") as proxy:
        # Over plain http the proxy's own page is read, which quotes what it was sent.
        write_job(tmp_path, f"http://{NAME}:9/v1")
        ended = batcher(tmp_path, "run", "job.yaml", ALL_PROXY=proxy.url_with("user:falsch-0815"))

    assert 6 == ended.returncode, ended.stderr
    assert "HTTP 407: this proxy was sent Basic ***" in ended.stderr
    assert "hint: give the proxy's login in the variable that names it: HTTPS_PROXY=" in ended.stderr
    for words in [ended.stderr, *words_in(tmp_path)]:
        assert "falsch-0815" not in words
        assert "dXNlcjpmYWxzY2gtMDgxNQ==" not in words


def test_this_machine_is_asked_directly_whatever_proxy_there_is(tmp_path: Path) -> None:
    """Every office has HTTP_PROXY set, and a model on this machine too."""
    with Http1() as server:
        write_job(tmp_path, server.base_url)
        dead = {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}
        ended = batcher(tmp_path, "run", "job.yaml", **dead)

    assert_all_ok(tmp_path, ended)


@both
def test_a_run_trusts_and_shows_what_the_job_names(pki: Pki, tmp_path: Path, client: str) -> None:
    """`provider.tls`, its paths relative to the job file; `check --live` and the doctor go the same way."""
    certs = tmp_path / "chứng chỉ"
    certs.mkdir()
    for name, source in {"ca.pem": pki.ca, "me.pem": pki.client.cert, "me.key": pki.client.key}.items():
        (certs / name).write_bytes(source.read_bytes())
    tls = "  tls: {ca: chứng chỉ/ca.pem, cert: chứng chỉ/me.pem, key: chứng chỉ/me.key}\n"
    others = (("check", "job.yaml", "--live"), ("doctor", "job.yaml")) if client == "fast" else ()
    with Http1(context=pki.context(wants_client=True)) as server:
        write_job(tmp_path, server.base_url, provider=tls, more=f"client: {client}\n")
        ended = batcher(tmp_path, "run", "job.yaml")
        tried = [batcher(tmp_path, *arguments) for arguments in others]

    assert_all_ok(tmp_path, ended)
    for one in tried:
        assert 0 == one.returncode, one.stdout + one.stderr


def test_an_unknown_authority_stops_the_run_with_the_fix(pki: Pki, tmp_path: Path) -> None:
    """It is an outage by the contract, since certificates are renewed; the reason names what to set."""
    with Http1(context=pki.context()) as server:
        write_job(tmp_path, server.base_url, more="circuit_breaker: {recovery_time: 200ms, max_outage: 500ms}\n")
        stopped = batcher(tmp_path, "run", "job.yaml")
        went_on = batcher(tmp_path, "run", "job.yaml", SSL_CERT_FILE=pki.ca)

    assert 4 == stopped.returncode, stopped.stderr
    assert "is down: TLS: the authority is unknown; name it in provider.tls.ca or SSL_CERT_FILE" in stopped.stderr
    assert_all_ok(tmp_path, went_on)


def test_an_environment_that_cannot_be_used_is_a_sentence_before_anything_is_sent(tmp_path: Path) -> None:
    """Exit code 2 and no run, for a proxy of another kind and for certificates that are gone."""
    write_job(tmp_path, "https://api.test/v1")
    for environ, words in [
        ({"SSL_CERT_FILE": "/gone/ca.pem"}, "SSL_CERT_FILE names /gone/ca.pem, which cannot be read"),
        ({"HTTPS_PROXY": "socks5://user:geheim@p:1"}, "HTTPS_PROXY names a socks5 proxy"),
    ]:
        ended = batcher(tmp_path, "run", "job.yaml", **environ)
        assert 2 == ended.returncode, (environ, ended.stderr)
        assert words in ended.stderr, ended.stderr
        assert "geheim" not in ended.stderr
    assert not (tmp_path / "runs").exists()


# --- how many files may be open ------------------------------------------------------------------


def test_more_calls_at_once_than_the_machine_has_room_for_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    """Each needs a connection; out of them, every call would fail, and the provider look dead."""
    with Http1() as server:
        write_job(tmp_path, server.base_url, more="limits: {concurrency: 500}\n")
        ended = batcher(tmp_path, "run", "job.yaml", files=(128, 256))

    assert 2 == ended.returncode, ended.stderr
    assert "500 calls in flight" in ended.stderr
    assert "open 256 files" in ended.stderr
    assert "lower limits.concurrency to 172 or less" in ended.stderr
    assert 0 == server.seen["connections"]
    assert not (tmp_path / "runs").exists()


def test_the_usual_limit_of_open_files_is_raised_to_what_the_system_allows(tmp_path: Path) -> None:
    """1,024 is the usual soft limit, and the hard one is far above it."""
    with Http1(answer_s=0.3) as server:
        write_job(tmp_path, server.base_url, rows=600, more="limits: {concurrency: 300}\n")
        ended = batcher(tmp_path, "run", "job.yaml", files=(128, 4096))

    assert_all_ok(tmp_path, ended)
    assert server.seen["connections"] > 128


def test_auto_goes_no_further_than_the_machine_has_room_for(tmp_path: Path) -> None:
    """It would double up to 1,024 calls at once, and meet the limit of files on the way."""
    with Http1(answer_s=0.1) as server:
        write_job(tmp_path, server.base_url, rows=2500)
        ended = batcher(tmp_path, "run", "job.yaml", files=(128, 192))

    assert_all_ok(tmp_path, ended)
    assert server.seen["connections"] <= 128


OUT_OF_FILES = """
import asyncio, os, resource, sys
from batcher.providers.classify import is_ours
from batcher.providers.exchange import make_exchange
async def main():
    exchange = make_exchange(sys.argv[1], base_url=sys.argv[2], api_key=None, timeout_s=10)
    body = b'{"messages": [{"role": "user", "content": "x"}]}'
    await exchange.post(body)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 2,) * 2)
    async def ours():
        try:
            await exchange.post(body)
        except Exception as error:  # noqa: BLE001  # whatever the exchange raises is what is looked at
            return is_ours(error)
        return None
    found = await asyncio.gather(*(ours() for _ in range(30)))
    print(found.count(True), found.count(False))
asyncio.run(main())
"""


@both
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts its files in /proc")
def test_running_out_of_files_is_told_from_a_provider_that_is_down(client: str) -> None:
    """In each client's own words for it: the run stops there, resumable, and waits out no outage."""
    with Http1(answer_s=0.2) as server:
        ended = subprocess.run(
            [sys.executable, "-c", OUT_OF_FILES, client, server.base_url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert 0 == ended.returncode, ended.stderr
    ours, others = map(int, ended.stdout.split())
    assert ours > 0
    assert 0 == others


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="takes files away from a process that runs")
def test_a_run_that_runs_out_of_files_stops_and_goes_on_later(tmp_path: Path) -> None:
    """Other programs may use a machine's files up: no row fails for it, none is asked twice, and the provider is not
    to blame."""
    with Http1(answer_s=0.2, calls_max=1, says_close=True) as server:
        write_job(tmp_path, server.base_url, rows=120, more="limits: {concurrency: 20}\n")
        with subprocess.Popen(
            [sys.executable, "-m", "batcher", "run", "job.yaml"], cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
        ) as run:  # fmt: skip
            while server.seen["calls"] < 30 and run.poll() is None:
                time.sleep(0.01)
            few = len(list(Path(f"/proc/{run.pid}/fd").iterdir())) - 8
            resource.prlimit(run.pid, resource.RLIMIT_NOFILE, (few, few))
            _, said = run.communicate(timeout=60)
        went_on = batcher(tmp_path, "run", "job.yaml")

    assert 4 == run.returncode, said
    assert "error: this machine lets the process open no more files and connections" in said
    assert "is down" not in said
    assert_all_ok(tmp_path, went_on)
    assert 120 == server.seen["calls"]

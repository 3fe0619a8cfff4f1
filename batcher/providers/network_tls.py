"""Whom to trust and what to show, told to each of the two clients.

`SSL_CERT_FILE` and `SSL_CERT_DIR` take the place of the system's authorities, as OpenSSL does it; the authority of a
job (`Tls.ca`) is added to either. The fast client reads the two variables itself, in the same way.
"""

import ssl
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batcher.errors import UsageError
from batcher.providers.network import CA_DIR, CA_FILE, Network

if TYPE_CHECKING:
    from pyreqwest.client import ClientBuilder

# One connection carries a hundred calls over HTTP/2: one that died silently is found by asking, as Go's client does.
_PING_S, _PONG_S = 30.0, 10.0


def ca_files(file: str, directories: str) -> tuple[Path, ...]:
    """The files with the authorities that `SSL_CERT_FILE` and `SSL_CERT_DIR` name; each may be empty.

    Every file of a directory counts, also where its name is none of the hashes that OpenSSL looks for.

    Raises:
        UsageError: There is no certificate where they say.
    """
    files = []
    if file:
        files.append(Path(file))
        if (fault := _fault(Path(file))) is not None:
            raise UsageError(f"{CA_FILE} names {file}, {fault}; mend the path, or unset it")
    for directory in filter(None, directories.split(":")):
        try:
            found = sorted(path for path in Path(directory).iterdir() if path.is_file())
        except OSError as error:
            raise UsageError(
                f"{CA_DIR} names {directory}, which cannot be read ({error.strerror}); mend the path, or unset it"
            ) from None
        files += [path for path in found if _fault(path) is None]
    if not files:
        raise UsageError(
            f"{CA_DIR} names {directories}, where no file holds a certificate in PEM; mend it, or unset it"
        )
    return tuple(files)


def _fault(path: Path) -> str | None:
    """Why a file names no authorities, to follow its name."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError:
        return "which holds no certificate in PEM"
    except OSError as error:
        return f"which cannot be read ({error.strerror})"
    return None


def sdk_options(network: Network) -> dict[str, Any]:
    """The way, as arguments of the SDK's HTTP client.

    Raises:
        OSError: A file is gone that was there when the job was checked.
    """
    import httpx2  # noqa: PLC0415  # comes with the SDK, which the fast path does without

    if network.ca_files:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for path in network.ca_files:
            context.load_verify_locations(cafile=path)
    else:
        context = httpx2.create_ssl_context(trust_env=False)
    if network.tls.ca is not None:
        context.load_verify_locations(cafile=network.tls.ca)
    if network.tls.cert is not None:
        context.load_cert_chain(network.tls.cert, network.tls.key)
    proxy = network.proxy
    # The environment was read by `network.py`, for both clients.
    options: dict[str, Any] = {"verify": context, "trust_env": False}
    if proxy is not None:
        options["proxy"] = httpx2.Proxy(
            proxy.url,
            auth=(proxy.user, proxy.password) if proxy.has_login else None,
            ssl_context=context if proxy.url.startswith("https:") else None,
        )
    return options


def with_network(builder: "ClientBuilder", network: Network, *, has_tls: bool) -> "ClientBuilder":
    """The fast client's builder, told of the way. With TLS, HTTP/2 is spoken where the provider offers it.

    Raises:
        OSError: A file is gone that was there when the job was checked.
    """
    # Else it would read the environment in its own way.
    builder = builder.no_proxy()
    if network.proxy is not None:
        from pyreqwest.proxy import ProxyBuilder  # noqa: PLC0415  # only for who goes through one

        proxy = ProxyBuilder.all(network.proxy.url)
        if network.proxy.has_login:
            proxy = proxy.basic_auth(network.proxy.user, network.proxy.password)
        builder = builder.proxy(proxy)
    if not has_tls:
        return builder
    tls = network.tls
    if tls.ca is not None:
        builder = builder.add_root_certificate_pem(tls.ca.read_bytes())
    if tls.cert is not None:
        key = b"" if tls.key is None else b"\n" + tls.key.read_bytes()
        builder = builder.identity_pem(tls.cert.read_bytes() + key)
    return (
        builder.http2(True)
        .http2_keep_alive_interval(timedelta(seconds=_PING_S))
        .http2_keep_alive_timeout(timedelta(seconds=_PONG_S))
    )

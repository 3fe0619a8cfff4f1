"""The way to a provider: through which proxy, trusting whom, as whom. The same for both clients.

Proxies are those of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, in lower case first, as curl
has it), decided here once for an address and then told to the client, so that no client reads the environment in
its own way. This machine's own addresses are never asked for through a proxy (as in Go's `httpproxy`).

Whom to trust is in `network_tls.py`, what goes wrong on the way in `network_faults.py`. Nothing heavy is imported here.
"""

import ipaddress
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from batcher.errors import UsageError

CA_FILE, CA_DIR = "SSL_CERT_FILE", "SSL_CERT_DIR"

_MASK = "***"
# Shorter ones are words like "user", and masking them would tear sentences apart.
_SECRET_LENGTH_MIN = 4
_PROXY_EXAMPLE = "write it like http://proxy.example.com:8080"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy: its address without the login, and the login."""

    url: str
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def has_login(self) -> bool:
        """Whether the environment has a login for it."""
        return bool(self.user or self.password)


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM: an authority to trust beside the others, and the certificate and key to show."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """The way to one address. `ca_files` are those that the environment names; none: the system's authorities."""

    proxy: Proxy | None = None
    tls: Tls = field(default_factory=Tls)
    ca_files: tuple[Path, ...] = ()

    def masked(self, mask: Callable[[str], str]) -> Callable[[str], str]:
        """`mask`, that hides the proxy's login too: some proxies quote what they were sent."""
        proxy = self.proxy
        if proxy is None or not proxy.password:
            return mask
        login = b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
        secrets = [login, *(s for s in (proxy.password,) if len(s) >= _SECRET_LENGTH_MIN)]

        def masking(text: str) -> str:
            for secret in secrets:
                text = text.replace(secret, _MASK)
            return mask(text)

        return masking


DIRECT = Network()
"""No proxy, and the system's authorities."""


def network_for(base_url: str, environ: Mapping[str, str], *, tls: Tls | None = None) -> Network:
    """The way to an address.

    Raises:
        UsageError: A variable of the environment names a proxy or certificates that cannot be used.
    """
    return Network(
        proxy=proxy_for(base_url, environ),
        tls=tls or Tls(),
        ca_files=_ca_files(base_url, environ),
    )


def _ca_files(base_url: str, environ: Mapping[str, str]) -> tuple[Path, ...]:
    if urlsplit(base_url).scheme != "https" or not (environ.get(CA_FILE) or environ.get(CA_DIR)):
        return ()
    from batcher.providers.network_tls import ca_files  # noqa: PLC0415  # 10 ms of ssl that few jobs need

    return ca_files(environ.get(CA_FILE, ""), environ.get(CA_DIR, ""))


def proxy_for(url: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy through which the environment wants an address to be asked, or None.

    A variable in lower case comes before the same in upper case, `HTTPS_PROXY` and `HTTP_PROXY` before `ALL_PROXY`; an
    empty one is none.

    Raises:
        UsageError: The variable holds no address, or one of a kind of proxy that batcher does not speak to.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if _is_this_machine(host) or _is_excluded(host, _port(parts), _variable(environ, "no_proxy")[1]):
        return None
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        found, value = _variable(environ, name)
        if value:
            return _parse_proxy(found, value)
    return None


def _variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """A variable as it is spelled in the environment, and what it holds."""
    for spelled in (name, name.upper()):
        if spelled in environ:
            return spelled, environ[spelled].strip()
    return name.upper(), ""


def _parse_proxy(name: str, value: str) -> Proxy:
    """The value is never quoted: it may hold a password."""
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        port = parts.port
    except ValueError:
        raise UsageError(f"{name} is no address of a proxy; {_PROXY_EXAMPLE}") from None
    if parts.scheme not in ("http", "https"):
        scheme = parts.scheme if re.fullmatch(r"[a-z0-9+.-]{1,10}", parts.scheme) else "other"
        raise UsageError(f"{name} names a {scheme} proxy, and batcher speaks to http and https ones; {_PROXY_EXAMPLE}")
    if not parts.hostname:
        raise UsageError(f"{name} names no host; {_PROXY_EXAMPLE}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Proxy(
        f"{parts.scheme}://{host}{'' if port is None else f':{port}'}",
        unquote(parts.username or ""),
        unquote(parts.password or ""),
    )


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def _is_excluded(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether `NO_PROXY` names the host: itself, a domain that it is in, a network (CIDR), with its port, or `*`."""
    address = _address(host)
    for entry in (part.strip().lower() for part in re.split(r"[,\s]+", no_proxy)):
        if entry == "*":
            return True
        named, only_port = _split_port(entry)
        if not named or only_port not in (None, port):
            continue
        if address is not None:
            if _holds(named, address):
                return True
            continue
        domain = named.removeprefix("*").removeprefix(".").rstrip(".")
        if domain and (host == domain or host.endswith(f".{domain}")):
            return True
    return False


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _holds(network: str, address: _Address) -> bool:
    try:
        return address in ipaddress.ip_network(network.strip("[]"), strict=False)
    except ValueError:
        return False


def _split_port(entry: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[^]]*\]|[^:]*):([0-9]{1,5})", entry)
    return (entry, None) if match is None else (match[1], int(match[2]))


def _port(parts: SplitResult) -> int | None:
    return parts.port or {"http": 80, "https": 443}.get(parts.scheme)

"""What stands in the way to a provider, told from a transport failure's words: a certificate, a proxy, this machine.

Both clients' words are read: those of rustls and hyper, and those of OpenSSL and httpx2.
"""

import re
from dataclasses import dataclass

from batcher.errors import FailureKind


@dataclass(frozen=True, slots=True)
class WayFault:
    """What stands in the way, before the provider: the failure's kind, its sentence with the fix, its status."""

    kind: FailureKind
    words: str
    status: int | None = None
    hint: str | None = None


PROXY_LOGIN_HINT = "give the proxy's login in the variable that names it: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"

# A display has room for 80 characters of them; the library's own words follow in brackets.
_CERTIFICATE_FAULTS = (
    (r"expired|not valid after", "TLS: the certificate has expired; the provider must renew it"),
    (r"not yet valid|not valid before", "TLS: the certificate is not valid yet; is this machine's clock right?"),
    (
        r"hostname mismatch|not valid for|certificate is only valid for",
        "TLS: the certificate is for another host; mend base_url",
    ),
    (
        # The last is rustls' word for a server that signed its own certificate.
        r"self[- ]signed|unknownissuer|unable to get (local )?issuer|unknown ca\b|causedasendentity",
        "TLS: the authority is unknown; name it in provider.tls.ca or SSL_CERT_FILE",
    ),
    (
        r"certificate[ _]?required|bad[ _]?certificate",
        "TLS: the provider wants a client certificate; write provider.tls.cert and .key",
    ),
)
_PROXY_LOGIN = re.compile(r"proxy authorization required|\b407\b.*proxy|proxy.*\b407\b", re.IGNORECASE)
_PROXY_REFUSAL = re.compile(r"tunnel error|ProxyError", re.IGNORECASE)
_OUT_OF_FILES = re.compile(r"too many open files|\b(os error|errno) (24|23)\b", re.IGNORECASE)


def way_fault(said: str) -> WayFault | None:
    """What a transport failure's words say of the way to the provider; None where they say nothing of it.

    Args:
        said: The names and the words of the whole chain of causes.
    """
    if _PROXY_LOGIN.search(said):
        return WayFault("auth", "the proxy refuses: it wants a login (HTTP 407)", 407, PROXY_LOGIN_HINT)
    if _PROXY_REFUSAL.search(said):
        return WayFault("connection", "the proxy refuses to connect to the provider")
    if "certificate" in said.lower() or "unknownissuer" in said.lower():
        for pattern, words in _CERTIFICATE_FAULTS:
            if re.search(pattern, said, re.IGNORECASE):
                return WayFault("connection", words)
    return None


def is_out_of_files(said: str) -> bool:
    """Whether a connection was not made because this process (or machine) may open no more files."""
    return _OUT_OF_FILES.search(said) is not None

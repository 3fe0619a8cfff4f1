"""Whether the certificates of a job can be used: looked at before a call needs them, so that a slip is a sentence."""

import ssl
from pathlib import Path

from batcher.config.faults import refuse
from batcher.config.files import shown
from batcher.config.model import Provider
from batcher.config.tree import Node
from batcher.config.tree import Path as FieldPath

_CERTIFICATE = "-----BEGIN CERTIFICATE-----"
_KEY = "PRIVATE KEY-----"
_BYTES_MAX = 16 << 20


def check_tls(provider: Provider, tree: Node, path: FieldPath, base: Path) -> None:
    """Check `tls` of the provider at `path`; its files' names start at `base`.

    Raises:
        JobError: A file is missing, is no PEM, or does not belong to the other.
    """
    tls, here = provider.tls, (*path, "tls")
    if tls is None:
        return
    if not any((tls.ca, tls.cert, tls.key)):
        refuse(tree, here, "is empty; name ca, or cert and key, or remove it")
    if provider.base_url is not None and not provider.base_url.startswith("https:"):
        refuse(tree, here, "is for https, and base_url begins with http:; mend one of them")
    if tls.key is not None and tls.cert is None:
        refuse(tree, (*here, "key"), "stands without cert; name the certificate that it belongs to")
    texts = {
        name: _read(tree, (*here, name), base / file)
        for name in ("ca", "cert", "key")
        if (file := getattr(tls, name)) is not None
    }
    if tls.ca is not None:
        _check_authority(tree, (*here, "ca"), base / tls.ca)
    if tls.cert is not None:
        _check_identity(tree, here, base / tls.cert, None if tls.key is None else base / tls.key, texts)


def _read(tree: Node, path: FieldPath, file: Path) -> str:
    if not file.is_file():
        refuse(tree, path, f"names {shown(file)}, which is no file; mend the path")
    try:
        with file.open("rb") as opened:
            return opened.read(_BYTES_MAX).decode("latin-1")
    except OSError as error:
        refuse(tree, path, f"names {shown(file)}, which cannot be read: {error.strerror}; change its permissions")


def _check_authority(tree: Node, path: FieldPath, file: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except (ssl.SSLError, OSError):
        refuse(tree, path, f"names {shown(file)}, which holds no certificate in PEM; convert it, or name another")


def _check_identity(tree: Node, path: FieldPath, cert: Path, key: Path | None, texts: dict[str, str]) -> None:
    if _CERTIFICATE not in texts["cert"]:
        refuse(tree, (*path, "cert"), f"names {shown(cert)}, which holds no certificate in PEM; convert it")
    key_field = (*path, "key" if key is not None else "cert")
    key_file, key_text = (cert, texts["cert"]) if key is None else (key, texts["key"])
    if _KEY not in key_text:
        wanted = "convert it" if key is not None else "name its key in provider.tls.key"
        refuse(tree, key_field, f"names {shown(key_file)}, which holds no private key in PEM; {wanted}")

    def passphrase() -> str:
        # Without this, OpenSSL would ask for it at the terminal.
        refuse(
            tree,
            key_field,
            f"names {shown(key_file)}, whose key has a passphrase; write it without one "
            "(`openssl pkey -in KEY -out KEY-PLAIN`) into a file that only you may read",
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password=passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            refuse(tree, key_field, f"names {shown(key_file)}, whose key is not the certificate's; name the right one")
        refuse(tree, (*path, "cert"), f"names {shown(cert)}, which TLS cannot use: {error.reason or 'unreadable'}")
    except OSError as error:
        refuse(tree, (*path, "cert"), f"names {shown(cert)}, which cannot be read: {error.strerror}")

"""Which proxy an address is asked through, and what is said of one that cannot be used."""

from pathlib import Path

import pytest
from networks import Pki

from batcher.errors import UsageError
from batcher.providers.network import DIRECT, Network, Proxy, network_for, proxy_for
from batcher.providers.network_faults import is_out_of_files, way_fault

OFFICE = {"HTTPS_PROXY": "http://proxy.example:3128"}
PASSWORD = "mật-khẩu-密码"


@pytest.mark.parametrize(
    ("environ", "url", "proxy"),
    [
        ({}, "https://api.example.com/v1", None),
        (OFFICE, "https://api.example.com/v1", "http://proxy.example:3128"),
        (OFFICE, "http://api.example.com/v1", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://api.example.com/v1", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "https://api.example.com/v1", None),
        ({"ALL_PROXY": "http://p:1"}, "https://api.example.com/v1", "http://p:1"),
        ({"ALL_PROXY": "http://p:1", **OFFICE}, "https://api.example.com/v1", "http://proxy.example:3128"),
        ({"https_proxy": "http://lower:1", **OFFICE}, "https://api.example.com/v1", "http://lower:1"),
        ({"https_proxy": "", **OFFICE}, "https://api.example.com/v1", None),
        ({"https_proxy": "", "ALL_PROXY": "http://p:1"}, "https://api.example.com/v1", "http://p:1"),
        ({"HTTPS_PROXY": " proxy.example:3128 "}, "https://api.example.com/v1", "http://proxy.example:3128"),
        ({"HTTPS_PROXY": "https://proxy.example"}, "https://api.example.com/v1", "https://proxy.example"),
        ({"HTTPS_PROXY": "http://[2001:db8::1]:3128"}, "https://api.example.com/v1", "http://[2001:db8::1]:3128"),
    ],
)
def test_the_variable_of_the_scheme_names_the_proxy(environ: dict[str, str], url: str, proxy: str | None) -> None:
    """As curl has it: lower case first, the scheme's own before ALL_PROXY, and an empty one is none."""
    found = proxy_for(url, environ)

    assert proxy == (None if found is None else found.url)


@pytest.mark.parametrize(
    "url",
    [
        "https://localhost:8000/v1",
        "https://LOCALHOST/v1",
        "https://model.localhost/v1",
        "https://127.0.0.1:8000/v1",
        "https://127.8.9.1/v1",
        "https://[::1]:8000/v1",
        "https://0.0.0.0:8000/v1",
    ],
)
def test_this_machine_is_never_asked_through_a_proxy(url: str) -> None:
    """A local model's prompts stay here, and no proxy could reach it."""
    assert proxy_for(url, {**OFFICE, "ALL_PROXY": "http://p:1"}) is None


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_excluded"),
    [
        ("*", "https://api.example.com/v1", True),
        ("api.example.com", "https://api.example.com/v1", True),
        ("API.Example.COM", "https://api.example.com/v1", True),
        ("example.com", "https://api.example.com/v1", True),
        (".example.com", "https://api.example.com/v1", True),
        (".example.com", "https://example.com/v1", True),
        ("*.example.com", "https://api.example.com/v1", True),
        ("ample.com", "https://api.example.com/v1", False),
        ("api.example.com.evil.test", "https://api.example.com/v1", False),
        ("other.test, example.com", "https://api.example.com/v1", True),
        ("other.test example.com", "https://api.example.com/v1", True),
        ("", "https://api.example.com/v1", False),
        (",, ,", "https://api.example.com/v1", False),
        ("example.com:443", "https://api.example.com/v1", True),
        ("example.com:8443", "https://api.example.com/v1", False),
        ("example.com:8443", "https://api.example.com:8443/v1", True),
        ("10.0.0.0/8", "https://10.20.30.40:8000/v1", True),
        ("10.0.0.0/8", "https://11.20.30.40:8000/v1", False),
        ("10.20.30.40", "https://10.20.30.40/v1", True),
        ("10.20.30.4", "https://10.20.30.40/v1", False),
        ("2001:db8::/32", "https://[2001:db8::7]:8000/v1", True),
        ("[2001:db8::7]:8000", "https://[2001:db8::7]:8000/v1", True),
        ("[2001:db8::7]:9000", "https://[2001:db8::7]:8000/v1", False),
        ("10.0.0.0/99", "https://10.20.30.40/v1", False),
        ("xn--fsqu00a.xn--0zwm56d", "https://api.xn--fsqu00a.xn--0zwm56d/v1", True),
    ],
)
def test_no_proxy_names_hosts_domains_networks_and_ports(no_proxy: str, url: str, is_excluded: bool) -> None:
    """One that names more than it says sends a key around the proxy; one that names less breaks the job."""
    assert is_excluded == (proxy_for(url, {**OFFICE, "NO_PROXY": no_proxy}) is None)


def test_a_login_is_taken_from_the_address_and_shown_nowhere() -> None:
    """Percent signs stand for what an address cannot hold."""
    login = "nh%C3%A2n%40office:m%E1%BA%ADt-kh%E1%BA%A9u-%E5%AF%86%E7%A0%81"
    proxy = proxy_for("https://api.example.com/v1", {"HTTPS_PROXY": f"http://{login}@proxy.example:3128"})

    assert proxy is not None
    assert ("http://proxy.example:3128", "nhân@office", PASSWORD) == (proxy.url, proxy.user, proxy.password)
    assert PASSWORD not in repr(proxy)
    assert PASSWORD not in repr(Network(proxy))


def test_a_login_that_a_proxy_quotes_is_masked() -> None:
    """Squid's error pages, for one, can hold the request's headers."""
    network = Network(Proxy("http://proxy.example", "user", "geheim-7"))
    mask = network.masked(lambda text: text.replace("sk-key", "KEY"))

    assert "Basic *** and *** and KEY" == mask("Basic dXNlcjpnZWhlaW0tNw== and geheim-7 and sk-key")
    assert "sk" == DIRECT.masked(lambda text: text)("sk")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("socks5://user:geheim@p:1", "HTTPS_PROXY names a socks5 proxy, and batcher speaks to http and https ones"),
        ("http://user:geheim@", "HTTPS_PROXY names no host"),
        ("http://user:geheim@p:99999", "HTTPS_PROXY is no address of a proxy"),
        ("http://user:geheim@[::1", "HTTPS_PROXY is no address of a proxy"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_a_sentence_without_its_password(value: str, sentence: str) -> None:
    """Found before anything is sent: the run would end as an outage of the provider."""
    with pytest.raises(UsageError) as caught:
        network_for("https://api.example.com/v1", {"HTTPS_PROXY": value})

    assert caught.value.message.startswith(sentence)
    assert "geheim" not in caught.value.message
    assert caught.value.message.endswith("write it like http://proxy.example.com:8080")


def test_the_failure_of_another_kind_says_nothing_of_the_way() -> None:
    """A word like "proxy" in a host's name must not make a refusal of a reset."""
    assert way_fault("ConnectError error sending request for url (https://proxy.example/v1) connection reset") is None
    assert not is_out_of_files("ConnectError error sending request; os error 241")
    assert is_out_of_files("tcp open error; Too many open files (os error 24)")


def test_variables_for_certificates_take_every_file_of_a_directory(tmp_path: Path) -> None:
    """Also those whose names are no hashes, which OpenSSL would pass over without a word."""
    pki = Pki(tmp_path / "pki")
    (tmp_path / "pki" / "README").write_text("chứng chỉ của công ty")

    found = network_for("https://api.example.com/v1", {"SSL_CERT_DIR": str(pki.folder), "SSL_CERT_FILE": str(pki.ca)})

    assert {"ca.pem", "good.pem", "client.pem", "expired.pem"} <= {path.name for path in found.ca_files}
    assert "README" not in {path.name for path in found.ca_files}
    assert () == network_for("http://api.example.com/v1", {"SSL_CERT_FILE": "/gone"}).ca_files, "no TLS, no question"


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"SSL_CERT_FILE": "gone.pem"}, "SSL_CERT_FILE names gone.pem, which cannot be read (No such file"),
        ({"SSL_CERT_FILE": "EMPTY"}, "SSL_CERT_FILE names EMPTY, which holds no certificate in PEM"),
        ({"SSL_CERT_DIR": "gone"}, "SSL_CERT_DIR names gone, which cannot be read (No such file"),
        ({"SSL_CERT_DIR": "FOLDER"}, "SSL_CERT_DIR names FOLDER, where no file holds a certificate in PEM"),
    ],
)
def test_variables_for_certificates_that_lead_nowhere_are_a_sentence(
    environ: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    """With no authority at all, every provider would look like an impostor."""
    (tmp_path / "empty.pem").write_text("")
    put = {"EMPTY": str(tmp_path / "empty.pem"), "FOLDER": str(tmp_path)}
    with pytest.raises(UsageError) as caught:
        network_for("https://api.example.com/v1", {name: put.get(value, value) for name, value in environ.items()})

    said = caught.value.message.replace(put["EMPTY"], "EMPTY").replace(put["FOLDER"], "FOLDER")
    assert said.startswith(sentence)
    assert said.endswith("or unset it")

"""`provider.tls`: certificates that cannot be used are a sentence at their line, before anything is sent."""

import pytest
from networks import Pki

from batcher.config.load import load_job
from batcher.errors import JobError


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    made = Pki(tmp_path_factory.mktemp("chứng chỉ"))
    (made.folder / "empty.pem").write_text("không có gì")
    (made.folder / "together.pem").write_bytes(made.client.cert.read_bytes() + made.client.key.read_bytes())
    made.encrypted_key()
    return made


def load(pki: Pki, tls: str, *, provider: str = "base_url: https://api.example.com/v1"):
    path = pki.folder / "job.yaml"
    path.write_text(
        f'input: rows.jsonl\nprompt: "{{{{ text }}}}"\nmodel: m\nprovider:\n  {provider}\n  tls: {tls}\n',
        encoding="utf-8",
    )
    return load_job(path, environ={})


@pytest.mark.parametrize(
    "tls", ["{ca: ca.pem}", "{cert: client.pem, key: client.key}", "{ca: ca.pem, cert: together.pem}"]
)
def test_certificates_beside_the_job_file_are_taken(pki: Pki, tls: str) -> None:
    """Their paths are relative to the job, wherever the command is typed."""
    assert load(pki, tls).job.sole_provider.tls is not None


@pytest.mark.parametrize(
    ("tls", "sentence"),
    [
        ("{ca: gone.pem}", "provider.tls.ca names FOLDER/gone.pem, which is no file; mend the path"),
        ("{ca: .}", "provider.tls.ca names FOLDER, which is no file; mend the path"),
        ("{ca: empty.pem}", "provider.tls.ca names FOLDER/empty.pem, which holds no certificate in PEM"),
        ("{ca: client.key}", "provider.tls.ca names FOLDER/client.key, which holds no certificate in PEM"),
        (
            "{cert: client.pem}",
            "provider.tls.cert names FOLDER/client.pem, which holds no private key in PEM; "
            "name its key in provider.tls.key",
        ),
        ("{key: client.key}", "provider.tls.key stands without cert; name the certificate that it belongs to"),
        (
            "{cert: client.pem, key: good.key}",
            "provider.tls.key names FOLDER/good.key, whose key is not the certificate's; name the right one",
        ),
        (
            "{cert: client.pem, key: encrypted.key}",
            "provider.tls.key names FOLDER/encrypted.key, whose key has a passphrase; write it without one",
        ),
        (
            "{cert: client.key, key: client.key}",
            "provider.tls.cert names FOLDER/client.key, which holds no certificate",
        ),
        ("{cert: client.pem, key: empty.pem}", "provider.tls.key names FOLDER/empty.pem, which holds no private key"),
        ("{}", "provider.tls is empty; name ca, or cert and key, or remove it"),
    ],
)
def test_certificates_that_cannot_be_used_are_a_sentence(pki: Pki, tls: str, sentence: str) -> None:
    """Which field, which file, what is wrong with it and what to do; a passphrase is never asked for at a terminal."""
    with pytest.raises(JobError) as caught:
        load(pki, tls)

    said = caught.value.message.replace(str(pki.folder), "FOLDER")
    assert said.startswith("FOLDER/job.yaml:6: " + sentence), said


@pytest.mark.parametrize(
    ("provider", "sentence"),
    [
        ("base_url: http://10.0.0.7:8000/v1", "provider.tls is for https, and base_url begins with http:; mend one"),
        ("local: smollm2-135m", "provider.tls stands beside local, which needs none of it"),
    ],
)
def test_certificates_where_no_tls_is_spoken_are_refused(pki: Pki, provider: str, sentence: str) -> None:
    """Who writes them believes the connection to be safe."""
    with pytest.raises(JobError, match=sentence):
        load(pki, "{ca: ca.pem}", provider=provider)


def test_certificates_are_no_part_of_what_is_asked(pki: Pki) -> None:
    """A renewed certificate must not keep a run from going on."""
    assert load(pki, "{ca: ca.pem}").fingerprint == load(pki, "{cert: together.pem}").fingerprint

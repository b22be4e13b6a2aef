"""Files that prove who somebody is: what is wrong with one is said, with its name and without what is in it."""

import ssl
import threading
from pathlib import Path

import pytest
import trustme

from loader_service.client import AccessError, ClientOptions, LoaderClient, Security, StreamSpec
from loader_service.wire.credentials import load_certificate, read_token


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a token on the first line, found none"),
        (b"\nsecond line", "expected a token on the first line, found none"),
        ("s\u00e9cret".encode(), "expected a token of printable ASCII characters, found others"),
        (b"a\x01b", "expected a token of printable ASCII characters, found others"),
        (b"\xff\xfe", "the token cannot be read"),
    ],
)
def test_what_is_no_token(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(AccessError, match=message) as caught:
        LoaderClient(["127.0.0.1:1"], ClientOptions(security=Security(token_file=path)))
    assert str(caught.value).startswith(f"{path}: ")
    assert "cret" not in str(caught.value)


def test_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"\xef\xbb\xbfa-token \r\nanother\n")
    assert read_token(path) == "a-token"


def test_a_stream_goes_on_while_the_token_is_renewed(loader_target: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("any\n")
    options = ClientOptions(security=Security(token_file=path), prefetch_steps=1, lease_steps=1)
    with (
        LoaderClient([loader_target], options) as client,
        client.stream(StreamSpec(batch_size=10)) as stream,
    ):
        batches = [next(stream)]
        path.unlink()
        renewal = threading.Timer(0.5, path.write_text, ("another\n",))
        renewal.start()
        batches.extend(stream)
        renewal.join()
    assert [batch.step for batch in batches] == list(range(10))


def test_certificate_and_key_belong_together(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        issued = trustme.CA().issue_cert("localhost")
        cert, key = tmp_path / f"{name}.crt", tmp_path / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(str(cert))
        issued.private_key_pem.write_to_path(str(key))
        files.append((cert, key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, *files[0])
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
    for key in (files[1][1], encrypted, tmp_path / "missing", tmp_path):
        with pytest.raises(AccessError, match="expected a certificate and its key, found: ") as caught:
            load_certificate(context, files[0][0], key)
        assert str(key) in str(caught.value)

"""Files that prove who somebody is: what is wrong with one is said, with its name and without what is in it."""

import ssl
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from loader_service.__main__ import main
from loader_service.client import AccessError, ClientOptions, LoaderClient, Security, StreamSpec, Transport
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


@pytest.mark.parametrize("transport", ["grpc", "grpcio"])
def test_a_token_stays_on_this_machine(
    loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], transport: Transport
) -> None:
    """In clear text it goes to no address that others can reach, unless somebody says so."""
    path = tmp_path / "token"
    path.write_text("any\n")
    elsewhere = loader_target.replace("127.0.0.1", "0.0.0.0")  # reaches this machine, and is not loopback
    for targets in ([elsewhere], [f"dns:{elsewhere}"], [loader_target, elsewhere]):
        security = Security(token_file=path)
        with LoaderClient(targets, ClientOptions(security=security, transport=transport)) as client:
            with pytest.raises(AccessError, match=r"target 0\.0\.0\.0:\d+: expected a loopback address, or TLS"):
                list(client.stream(StreamSpec(batch_size=10)))
        security = replace(security, insecure=True)
        with LoaderClient(targets, ClientOptions(security=security, transport=transport)) as client:
            assert len(list(client.stream(StreamSpec(batch_size=10)))) == 10
    command = ["digest", "--target", elsewhere, "--token-file", str(path), "--transport", transport]
    assert main(command) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--insecure" in line
    assert main([*command, "--insecure"]) == 0
    assert main(["healthcheck", "--target", elsewhere, "--token-file", str(path)]) == 1


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

"""Who is let in: certificates, tokens, addresses. Everything refused is refused before anything is read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
import trustme

from loader_service.__main__ import main
from loader_service.client import (
    AccessError,
    ClientOptions,
    LoaderClient,
    LoaderError,
    Security,
    ServiceUnavailableError,
)
from loader_service.pipeline.pipeline import Pipeline
from loader_service.server.server import LoaderServer
from loader_service.server.tokens import TokenFile
from preprocess.store import Store
from tests.conftest import LIMITS


@dataclass(frozen=True)
class Certificates:
    """PEM files of an authority, of a server and a client that it vouches for, and of an expired server."""

    ca: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]
    expired: tuple[Path, Path]
    other_ca: Path
    other_client: tuple[Path, Path]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")

    def authority(name: str) -> tuple[trustme.CA, Path]:
        ca = trustme.CA()
        path = folder / f"{name}.pem"
        ca.cert_pem.write_to_path(str(path))
        return ca, path

    def certificate(ca: trustme.CA, name: str, not_after: datetime | None = None) -> tuple[Path, Path]:
        issued = ca.issue_cert("127.0.0.1", "localhost", not_after=not_after)
        cert, key = folder / f"{name}.crt", folder / f"{name}.key"
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(str(cert), append=number > 0)
        issued.private_key_pem.write_to_path(str(key))
        return cert, key

    ca, ca_path = authority("ca")
    other, other_path = authority("other")
    return Certificates(
        ca=ca_path,
        server=certificate(ca, "server"),
        client=certificate(ca, "client"),
        expired=certificate(ca, "expired", datetime.now(UTC) - timedelta(days=1)),
        other_ca=other_path,
        other_client=certificate(other, "other-client"),
    )


@contextmanager
def secured(
    store_path: Path,
    *,
    pair: tuple[Path, Path] | None = None,
    client_ca: Path | None = None,
    tokens: TokenFile | None = None,
) -> Iterator[str]:
    credentials = None
    if pair is not None:
        cert, key = pair
        credentials = grpc.ssl_server_credentials(
            [(key.read_bytes(), cert.read_bytes())],
            root_certificates=client_ca.read_bytes() if client_ca else None,
            require_client_auth=client_ca is not None,
        )
    with (
        Store(store_path) as store,
        Pipeline(store, num_threads=1, message_bytes=100_000) as pipeline,
        LoaderServer(pipeline, "127.0.0.1:0", LIMITS, credentials=credentials, tokens=tokens) as server,
    ):
        yield f"127.0.0.1:{server.port}"


def describe(target: str, security: Security) -> int:
    """Number of classes, as seen with ``security``."""
    options = ClientOptions(unavailable_timeout_s=4.0, security=security)
    with LoaderClient([target], options) as client:
        return len(client.describe().classes)


@pytest.mark.slow
def test_tls(tiny_store: Path, certificates: Certificates) -> None:
    with secured(tiny_store, pair=certificates.server) as target:
        assert describe(target, Security(tls_ca=certificates.ca)) == 10
        with pytest.raises(ServiceUnavailableError, match=r"(?i)certificate|handshake|ssl"):
            describe(target, Security(tls_ca=certificates.other_ca))
        with pytest.raises(ServiceUnavailableError):
            describe(target, Security())  # clear text to a TLS port


@pytest.mark.slow
def test_expired_certificate(tiny_store: Path, certificates: Certificates) -> None:
    with secured(tiny_store, pair=certificates.expired) as target:
        with pytest.raises(ServiceUnavailableError, match=r"(?i)certificate|handshake|ssl"):
            describe(target, Security(tls_ca=certificates.ca))


@pytest.mark.slow
def test_mutual_tls(tiny_store: Path, certificates: Certificates) -> None:
    with secured(tiny_store, pair=certificates.server, client_ca=certificates.ca) as target:
        known = Security(tls_ca=certificates.ca, tls_cert=certificates.client[0], tls_key=certificates.client[1])
        assert describe(target, known) == 10
        with pytest.raises(ServiceUnavailableError):
            describe(target, Security(tls_ca=certificates.ca))
        cert, key = certificates.other_client
        with pytest.raises(ServiceUnavailableError):
            describe(target, Security(tls_ca=certificates.ca, tls_cert=cert, tls_key=key))


def test_tokens(tiny_store: Path, tmp_path: Path) -> None:
    accepted = tmp_path / "accepted"
    accepted.write_text("# trainers\nfirst-token\nsecond-token\n")

    def sender(token: str) -> Security:
        path = tmp_path / "own"
        path.write_text(token + "\n")
        return Security(token_file=path)

    tokens = TokenFile(accepted)
    with secured(tiny_store, tokens=tokens) as target:
        assert describe(target, sender("first-token")) == 10
        assert describe(target, sender("second-token")) == 10
        for wrong in ("first-toke", "first-token ", "# trainers", "x" * 5000):
            if wrong.strip() == "first-token":
                continue
            with pytest.raises(AccessError, match="expected a valid bearer token"):
                describe(target, sender(wrong))
        with pytest.raises(AccessError, match="expected a valid bearer token"):
            describe(target, Security())
        with grpc.insecure_channel(target) as channel:  # a token without its scheme; and a probe, which has none
            ask = channel.unary_unary("/loader_service.v1.LoaderService/Describe", bytes, bytes)
            with pytest.raises(grpc.RpcError) as caught:
                ask(b"", timeout=60, metadata=(("authorization", "first-token"),))
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            check = channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)
            assert check(b"", timeout=60) == b"\x08\x01"


def test_tokens_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("old\n")
    tokens = TokenFile(path, check_interval_s=0.0)
    assert tokens.identify("Bearer old") is not None
    path.write_text("new-token\n")
    assert tokens.identify("Bearer old") is None
    assert tokens.identify("Bearer new-token") is not None
    path.write_text("")  # a slip of the hand
    assert tokens.identify("Bearer new-token") is not None
    os.unlink(path)
    assert tokens.identify("Bearer new-token") is not None


def test_an_identity_does_not_give_the_token_away(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("a-very-secret-token\n")
    assert "secret" not in str(TokenFile(path).identify("Bearer a-very-secret-token"))


@pytest.mark.parametrize("content", ["", "\n# nothing\n"])
def test_no_tokens_at_all(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(LoaderError, match="expected at least one token"):
        TokenFile(path)
    with pytest.raises(LoaderError, match="cannot be read"):
        TokenFile(tmp_path / "missing")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--listen", "0.0.0.0:7000"], "expected a loopback address, or --tls-cert and --tls-key, or --insecure"),
        (["--listen", "[::]:7000"], "expected a loopback address"),
        (["--listen", "loader.example:7000"], "expected a loopback address"),
        (["--listen", "7000"], "expected"),
        (["--metrics-listen", "0.0.0.0:9000"], "or --metrics-insecure"),
        (["--metrics-listen", "9000"], "expected HOST:PORT"),
        (["--tls-cert", "a.pem"], "--tls-cert and --tls-key go together"),
        (["--tls-client-ca", "a.pem"], "--tls-client-ca needs"),
    ],
)
def test_unsafe_addresses_need_a_word(
    tiny_store: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["serve", "--store", str(tiny_store), *options]) == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert len(stderr.strip().splitlines()) == 1

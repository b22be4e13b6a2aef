"""Whom a client trusts and how it is refused, for questions and streams, through either HTTP/2; what both ends say."""

import logging
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from loader_service.client import ClientOptions, LoaderClient, Security, ServiceUnavailableError, StreamSpec, Transport
from loader_service.client.replica import Replica
from loader_service.server.server import LoaderServer
from loader_service.server.tokens import TokenFile
from preprocess.store import Store
from tests.conftest import LIMITS
from tests.loader_service.test_security import secured
from tests.stores import make_store

TRANSPORTS: tuple[Transport, ...] = ("grpc", "grpcio")


class Chain:
    """PEM files of a root, an authority that it signed, a server that this one signed, and the same for a client."""

    def __init__(self, folder: Path) -> None:
        root = trustme.CA()
        between = root.create_child_ca()
        self.root, self.between, self.stranger = folder / "root.pem", folder / "between.pem", folder / "stranger.pem"
        root.cert_pem.write_to_path(str(self.root))
        between.cert_pem.write_to_path(str(self.between))
        trustme.CA().cert_pem.write_to_path(str(self.stranger))
        self.server = self._pair(folder / "server", between.issue_cert("localhost", "127.0.0.1", "::1"))
        self.client = self._pair(folder / "client", between.issue_cert("client"))

    def _pair(self, path: Path, issued: trustme.LeafCert) -> tuple[Path, Path]:
        cert, key = path.with_suffix(".crt"), path.with_suffix(".key")
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(str(cert), append=number > 0)
        issued.private_key_pem.write_to_path(str(key))
        return cert, key


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain"))


def num_streamed(target: str, security: Security, transport: Transport = "grpc") -> int:
    """Images of an epoch, as asked for with ``security``."""
    options = ClientOptions(unavailable_timeout_s=4.0, security=security, transport=transport)
    with LoaderClient([target], options) as client, client.stream(StreamSpec(batch_size=10)) as stream:
        return sum(batch.num_images for batch in stream)


def check_health(target: str, security: Security) -> None:
    with Replica(target=target, security=security).connect() as connection:
        connection.check_health(10.0)


@pytest.mark.slow
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_any_authority_of_the_chain_is_trusted(tiny_store: Path, chain: Chain, transport: Transport) -> None:
    with secured(tiny_store, pair=chain.server) as target:
        for authority in (chain.root, chain.between):
            security = Security(tls_ca=authority)
            check_health(target, security)
            assert num_streamed(target, security, transport) == 100
        with pytest.raises(ServiceUnavailableError, match=r"(?i)certificate|handshake"):
            num_streamed(target, Security(tls_ca=chain.stranger), transport)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_clients_show_their_certificate(tiny_store: Path, chain: Chain, transport: Transport) -> None:
    with secured(tiny_store, pair=chain.server, client_ca=chain.root) as target:
        security = Security(tls_ca=chain.root, tls_cert=chain.client[0], tls_key=chain.client[1])
        assert num_streamed(target, security, transport) == 100


def test_a_missing_client_certificate_is_named(tiny_store: Path, chain: Chain) -> None:
    with secured(tiny_store, pair=chain.server, client_ca=chain.root) as target:
        with pytest.raises(ServiceUnavailableError, match="trusts no certificate it was shown: --tls-cert and --tls-k"):
            check_health(target, Security(tls_ca=chain.root))


def test_clear_text_against_tls_is_named(tiny_store: Path, chain: Chain, loader_target: str) -> None:
    with secured(tiny_store, pair=chain.server) as target:
        with pytest.raises(ServiceUnavailableError, match="as by a service that speaks TLS: --tls-ca"):
            check_health(target, Security())
    with pytest.raises(ServiceUnavailableError, match="the service speaks clear text: no --tls-ca"):
        check_health(loader_target, Security(tls_ca=chain.root))


def speak_tls(listener: socket.socket, context: ssl.SSLContext) -> None:
    connection, _ = listener.accept()
    with connection, context.wrap_socket(connection, server_side=True) as secured_connection:
        secured_connection.recv(1)


@pytest.mark.parametrize(("protocols", "found"), [([], "none"), (["http/1.1", "h2"], "h2")])
def test_what_tls_agreed_on_is_looked_at(chain: Chain, protocols: list[str], found: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*chain.server)
    context.set_alpn_protocols(protocols)
    message = r"ALPN h2\), found ALPN none" if found == "none" else "closed at once"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=speak_tls, args=(listener, context))
        thread.start()
        with pytest.raises(ServiceUnavailableError, match=message):
            check_health(f"127.0.0.1:{listener.getsockname()[1]}", Security(tls_ca=chain.root))
        thread.join(300)


def only_v6(real: Callable[..., Any]) -> Callable[..., Any]:
    """``getaddrinfo`` where ``localhost`` is ::1 and nothing else."""

    def look_up(host: str, *arguments: Any, **options: Any) -> Any:
        return real("::1" if host == "localhost" else host, *arguments, **options)

    return look_up


@pytest.fixture
def v6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")


@pytest.mark.usefixtures("v6")
def test_localhost_that_is_v6_alone(tiny_store: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    from loader_service.pipeline.pipeline import Pipeline

    cert, key = chain.server
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
    with Store(tiny_store) as store, Pipeline(store, num_threads=1, message_bytes=100_000) as pipeline:
        with LoaderServer(pipeline, "[::1]:0", LIMITS, credentials=credentials) as server:
            monkeypatch.setattr(socket, "getaddrinfo", only_v6(socket.getaddrinfo))
            for name in ("localhost", "[::1]"):
                assert num_streamed(f"{name}:{server.port}", Security(tls_ca=chain.root)) == 100
            with pytest.raises(ServiceUnavailableError, match=r"cannot listen there: .*in use"):
                LoaderServer(pipeline, f"localhost:{server.port}", LIMITS)


def test_every_refusal_names_the_peer_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, chain: Chain
) -> None:
    """No token, another store, a number out of range, no message: the address and port that asked."""
    tokens = tmp_path / "tokens"
    tokens.write_text("right\n")
    calls = (
        ("LoaderService/Describe", b"", ()),
        ("LoaderService/StreamBatches", b"", (("authorization", "Bearer wrong"),)),
        ("LoaderService/StreamBatches", b"", (("authorization", "Bearer right"),)),
        ("LoaderService/StreamBatches", b"\xff", (("authorization", "Bearer right"),)),
    )
    with secured(make_store(tmp_path / "store", num_train=4, num_val=1), tokens=TokenFile(tokens)) as target:
        for method, request, metadata in calls:
            caplog.clear()
            with caplog.at_level(logging.WARNING), grpc.insecure_channel(target) as channel:
                ask = channel.unary_unary(f"/loader_service.v1.{method}", bytes, bytes)
                with pytest.raises(grpc.RpcError) as failure:
                    ask(request, timeout=20, metadata=metadata)
            assert failure.value.code() in (
                grpc.StatusCode.UNAUTHENTICATED,
                grpc.StatusCode.FAILED_PRECONDITION,
                grpc.StatusCode.INTERNAL,
            )
            (line,) = [record.getMessage() for record in caplog.records]
            assert line.startswith("ipv4:127.0.0.1:")
            assert f"call ended: {failure.value.code().name}: " in line

"""The same digest through the proxies that people have: a call or a connection at a time, with limits of their own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from loader_service.client import (
    AccessError,
    ClientOptions,
    LoaderClient,
    Security,
    ServiceUnavailableError,
    StreamSpec,
    Transport,
)
from tests.loader_service.digests import epoch_digest
from tests.loader_service.test_trust import Chain
from tests.processes import loader_processes
from tests.proxies import haproxy, is_installed, nghttpx, nginx
from tests.stores import make_store

SPEC = StreamSpec(batch_size=16, seed=7, drop_last=False)
Proxy = Callable[[Path, list[str]], AbstractContextManager[str]]


def with_nginx(**options: Any) -> Proxy:
    return lambda folder, targets: nginx(folder, targets, **options)


PROXIES: dict[str, tuple[str, Proxy]] = {
    "nginx, round robin": ("nginx", with_nginx()),
    "nginx, least_conn": ("nginx", with_nginx(balance="least_conn;")),
    "nginx, keepalive 3": ("nginx", with_nginx(keepalive="keepalive 3;")),
    "nginx, 3 requests a connection": ("nginx", with_nginx(options="keepalive_requests 3;")),
    "nginx, preread 0": ("nginx", with_nginx(options="http2_body_preread_size 0;")),
    "nginx, preread 1": ("nginx", with_nginx(options="http2_body_preread_size 1;")),
    "nginx, small chunks": ("nginx", with_nginx(options="http2_chunk_size 1k; grpc_buffer_size 4k;")),
    "nginx, one stream at once": ("nginx", with_nginx(options="http2_max_concurrent_streams 1;")),
    "haproxy, TCP": ("haproxy", lambda folder, targets: haproxy(folder, targets, mode="tcp")),
    "haproxy, HTTP": ("haproxy", lambda folder, targets: haproxy(folder, targets, mode="http")),
    "nghttpx": ("nghttpx", nghttpx),
}


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    store = make_store(tmp_path_factory.mktemp("proxied") / "store", num_train=300, num_val=2)
    with loader_processes(store, 2) as replicas:
        yield [replica.target for replica in replicas]


@pytest.fixture(scope="module")
def expected(targets: list[str]) -> str:
    return digest_of(targets[0])


def digest_of(target: str, transport: Transport = "auto", security: Security | None = None) -> str:
    options = ClientOptions(transport=transport, unavailable_timeout_s=15.0, security=security or Security())
    with LoaderClient([target], options) as client:
        return epoch_digest(client, SPEC, 1)


@pytest.mark.parametrize("transport", ["auto", "grpc", "grpcio"])
@pytest.mark.parametrize("name", PROXIES)
def test_one_digest(tmp_path: Path, targets: list[str], expected: str, name: str, transport: Transport) -> None:
    program, proxy = PROXIES[name]
    if not is_installed(program):
        pytest.skip(f"needs {program}")
    with proxy(tmp_path, targets) as target:
        assert digest_of(target, transport) == expected


@pytest.mark.skipif(not is_installed("nginx"), reason="needs nginx")
@pytest.mark.parametrize("transport", ["auto", "grpcio"])
def test_tls_ends_at_the_proxy(tmp_path: Path, targets: list[str], expected: str, transport: Transport) -> None:
    chain = Chain(tmp_path)
    with nginx(tmp_path, targets, pair=chain.server) as target:
        assert digest_of(target, transport, Security(tls_ca=chain.between)) == expected
        with pytest.raises(ServiceUnavailableError, match="--tls-ca"):
            digest_of_now(target)


def digest_of_now(target: str) -> None:
    options = ClientOptions(unavailable_timeout_s=0.5)
    with LoaderClient([target], options) as client:
        client.describe()


@pytest.mark.skipif(not is_installed("nginx"), reason="needs nginx")
@pytest.mark.parametrize(
    ("answer", "error", "found"),
    [
        ("return 403;", AccessError, "expected a gRPC answer, found HTTP status 403, content type text/html"),
        ("return 401;", AccessError, "HTTP status 401"),
        ("return 200 'welcome';", ServiceUnavailableError, "found HTTP status 200, content type text/plain"),
        ("return 404;", ServiceUnavailableError, "found HTTP status 404, content type text/html.*--transport grpcio"),
    ],
)
def test_a_proxy_that_answers_by_itself_is_named(
    tmp_path: Path, targets: list[str], answer: str, error: type[Exception], found: str
) -> None:
    with nginx(tmp_path, targets, options=answer) as target:
        with pytest.raises(error, match=found):
            digest_of_now(target)

"""Addresses: what is one, and what only this machine can reach."""

import pytest

from loader_service.client import Security
from loader_service.client.discovery import resolve
from loader_service.wire.addresses import check_listen, check_target, host_and_port, is_loopback, name_and_port


def test_host_and_port() -> None:
    assert host_and_port("10.0.0.1:7000") == ("10.0.0.1", 7000)
    assert host_and_port("[::1]:7000") == ("::1", 7000)
    assert host_and_port("0.0.0.0:0", lowest_port=0) == ("0.0.0.0", 0)
    assert name_and_port("dns:loader:7000") == name_and_port("dns:///loader:7000") == ("loader", 7000)
    assert name_and_port("loader:7000") is None


@pytest.mark.parametrize(
    "address", ["", "host", ":7000", "host:", "host:x", "host:²", "host:-1", "::1:7000", "host:65536", "host:99999"]
)
def test_what_is_no_address(address: str) -> None:
    for check in (check_listen, check_target):
        with pytest.raises(ValueError, match=r"expected HOST:PORT|expected a port from"):
            check(address)
        with pytest.raises(ValueError, match=r"expected HOST:PORT|expected a port from"):
            check_target(f"dns:{address}")


def test_a_range_of_ports_is_a_target_for_each() -> None:
    found = resolve(["host-1:7000-7002", "[::1]:7-7", "dns:localhost:1-2", "unix:/a:1-2"], Security())
    assert [target for target in found if not target.startswith("[::1]:") or target == "[::1]:7"] == [
        *("host-1:7000", "host-1:7001", "host-1:7002", "[::1]:7"),
        *("127.0.0.1:1", "127.0.0.1:2", "unix:/a:1-2"),
    ]
    for address in ("host:2-1", "host:1-", "host:1-2-3", "host:1-65536", "host:a-b", "host:1-99999999999"):
        with pytest.raises(ValueError, match=f"expected HOST:PORT or HOST:FIRST-LAST, found '{address}'"):
            check_target(address)
    with pytest.raises(ValueError, match="expected a port from 1"):
        check_target("host:0-1")
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        check_listen("host:1-2")


def test_port_0_is_for_listening() -> None:
    check_listen("127.0.0.1:0")
    with pytest.raises(ValueError, match=r"expected a port from 1 to 65535, found '127\.0\.0\.1:0'"):
        check_target("127.0.0.1:0")
    for check in (check_listen, check_target):
        check("unix:/run/loader.sock")
        with pytest.raises(ValueError, match="expected unix:PATH"):
            check("unix:")


def test_loopback_is_no_prefix() -> None:
    for address in ("127.0.0.1:1", "127.8.8.8:1", "localhost:1", "[::1]:1", "unix:/x"):
        assert is_loopback(address), address
    for address in ("127.example.org:1", "localhost.example.org:1", "0.0.0.0:1", "[::]:1", "10.0.0.1:1", "loader:1"):
        assert not is_loopback(address), address

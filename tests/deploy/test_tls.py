"""deploy/tls/make: what it writes lets our clients in, and nobody else."""

import re
import shutil
import ssl
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from loader_service.__main__ import main
from tests.processes import loader_processes

COMMAND = Path(__file__).parents[2] / "deploy/tls/make"

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs the openssl command")


def make(folder: Path, *names: str) -> None:
    subprocess.run([str(COMMAND), str(folder), *names], check=True, capture_output=True)


def test_a_deployment_end_to_end(tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tls, other = tmp_path / "tls", tmp_path / "other"
    make(tls, "loader.example", "127.0.0.1", "::1")
    make(other, "127.0.0.1")
    options = ("--tls-cert", tls / "server.crt", "--tls-key", tls / "server.key", "--token-file", tls / "token")
    with loader_processes(tiny_store, 1, *map(str, options), "--tls-client-ca", str(tls / "ca.crt")) as replicas:

        def digest(folder: Path, *more: str, timeout_s: int = 60) -> int:
            credentials = ("--tls-cert", folder / "client.crt", "--tls-key", folder / "client.key")
            known = ("--tls-ca", tls / "ca.crt", "--token-file", folder / "token")
            return main(
                [
                    "digest",
                    "--target",
                    replicas[0].target,
                    *map(str, credentials + known),
                    "--service-timeout-s",
                    str(timeout_s),
                    *more,
                ]
            )

        assert digest(tls) == 0
        assert digest(tls, "--tls-server-name", "loader.example") == 0
        assert digest(tls, "--tls-server-name", "elsewhere.example", timeout_s=1) == 1
        assert digest(other, timeout_s=1) == 1
    capsys.readouterr()


def test_the_log_says_where_the_metrics_are(tiny_store: Path, tmp_path: Path) -> None:
    """An address that can be opened, with TLS as the service has it."""
    make(tmp_path, "127.0.0.1")
    command = [sys.executable, "-m", "loader_service", "serve", "--store", str(tiny_store), "--listen", "127.0.0.1:0"]
    options = ["--tls-cert", tmp_path / "server.crt", "--tls-key", tmp_path / "server.key"]
    with subprocess.Popen(
        [*command, *map(str, options), "--metrics-listen", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        try:
            told = (re.search(r"metrics at (https://127\.0\.0\.1:\d+/metrics)$", line) for line in server.stderr)
            address = next(filter(None, told))[1]
            trusting = ssl.create_default_context(cafile=tmp_path / "ca.crt")
            with urllib.request.urlopen(address, context=trusting) as answer:
                assert b"alexnet_loader_images" in answer.read()
        finally:
            server.terminate()


def test_again_renews_and_keeps(tmp_path: Path) -> None:
    make(tmp_path, "a.example")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {f"{name}.{kind}" for name in ("ca", "server", "client") for kind in ("crt", "key")} | {
        "token"
    }
    for name in ("ca.key", "server.key", "client.key", "token"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name
    make(tmp_path, "b.example")
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name for name in before if before[name] == after[name]} == {"ca.crt", "ca.key", "token"}

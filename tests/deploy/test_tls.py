"""deploy/tls/make: what it writes lets our clients in, and nobody else."""

import functools
import os
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
FILES = sorted([f"{name}.{kind}" for name in ("ca", "server", "client") for kind in ("crt", "key")] + ["token"])

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs the openssl command")


CUT = """#!/bin/bash
echo >>"$CALLS"
if [ "$(wc -l <"$CALLS")" -eq "$CUT" ]; then
  if [ -n "$HALF" ]; then "$REAL" "$@"; fi
  kill -KILL 0
fi
exec "$REAL" "$@"
"""
"""A command that ends the script, and all it has started, in place of its call number CUT, or just after it."""


def make(folder: Path, *names: str) -> None:
    subprocess.run([str(COMMAND), str(folder), *names], check=True, capture_output=True)


def make_cut(folder: Path, bin_folder: Path, cut: int, *, half: bool) -> int:
    """Runs the script until its call number ``cut`` of a program that changes files; returns its exit code."""
    bin_folder.mkdir()
    for name in ("openssl", "mv", "rm", "sync", "chmod"):
        script = CUT.replace("$REAL", shutil.which(name) or name)
        (bin_folder / name).write_text(script)
        (bin_folder / name).chmod(0o755)
    environment = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "CALLS": str(bin_folder / "calls"), "CUT": str(cut)}
    environment |= {"HALF": "1" if half else ""}
    command = [str(COMMAND), str(folder), "127.0.0.1"]
    return subprocess.run(command, env=environment, start_new_session=True, capture_output=True, check=False).returncode


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
    assert sorted(before) == FILES
    for name in ("ca.key", "server.key", "client.key", "token"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name
    make(tmp_path, "b.example")
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name for name in before if before[name] == after[name]} == {"ca.crt", "ca.key", "token"}


@pytest.mark.parametrize("half", [False, True])
def test_interrupted_anywhere_it_succeeds_when_run_again(half: bool, tmp_path: Path) -> None:
    """And an authority that was there stays."""
    cut = 1
    while make_cut(folder := tmp_path / f"tls-{cut}", tmp_path / f"bin-{cut}", cut, half=half):
        authority = folder / "ca.crt"
        before = authority.read_bytes() if authority.exists() else None
        make(folder, "127.0.0.1")
        assert before is None or authority.read_bytes() == before
        assert sorted(path.name for path in folder.iterdir()) == FILES
        verify(folder)
        cut += 1
    assert cut > 15
    verify(folder)


def verify(folder: Path) -> None:
    """The authority has signed both certificates, and each is of the key beside it."""
    for name in ("ca", "server", "client"):
        certificate, key = str(folder / f"{name}.crt"), str(folder / f"{name}.key")
        ask = functools.partial(subprocess.run, check=True, capture_output=True)
        ask(["openssl", "verify", "-CAfile", str(folder / "ca.crt"), certificate])
        public = [
            ["openssl", "x509", "-in", certificate, "-noout", "-pubkey"],
            ["openssl", "pkey", "-in", key, "-pubout"],
        ]
        assert len({ask(command).stdout for command in public}) == 1, name
    for name, purpose, code in (("server", "sslserver", 0), ("client", "sslclient", 0), ("client", "sslserver", 2)):
        command = [
            "openssl",
            "verify",
            "-purpose",
            purpose,
            "-CAfile",
            str(folder / "ca.crt"),
            str(folder / f"{name}.crt"),
        ]
        assert subprocess.run(command, check=False, capture_output=True).returncode == code, (name, purpose)
    assert re.fullmatch("[0-9a-f]{64}\n", (folder / "token").read_text())


def test_without_the_authoritys_key_it_makes_no_other(tmp_path: Path) -> None:
    make(tmp_path, "127.0.0.1")
    before = (tmp_path / "ca.crt").read_bytes()
    (tmp_path / "ca.key").unlink()
    done = subprocess.run([str(COMMAND), str(tmp_path), "127.0.0.1"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"tls: error: {tmp_path}: expected ca.key beside ca.crt, found none: run this where the authority is kept\n"
    )
    assert (tmp_path / "ca.crt").read_bytes() == before

"""A Ray cluster that asks for a token, as one does that is started where Ray has made a token before."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import free_port

_DEADLINE_S = 200.0


@pytest.mark.timeout(3 * _DEADLINE_S)
def test_a_cluster_that_asks_for_a_token(small_folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("5f" * 32)
    unset = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    address = f"127.0.0.1:{free_port()}"
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=1"]
    ray += ["--include-dashboard=false", "--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}"]
    run = [sys.executable, "-m", "preprocess", "run", "--source", str(small_folder), "--shorter-side", "32"]
    with subprocess.Popen(ray, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as head:
        try:
            assert head.stdout is not None
            lines: list[str] = []
            deadline = time.monotonic() + _DEADLINE_S
            while not any("Ray runtime started" in line for line in lines):
                assert time.monotonic() < deadline, lines
                lines.append(head.stdout.readline())
            assert any("Token authentication is enabled" in line for line in lines)
            without, shown = (
                subprocess.run(
                    [*run, "--out", str(tmp_path / "store"), "--ray-address", address],
                    env=environment | extra,
                    capture_output=True,
                    text=True,
                    timeout=_DEADLINE_S,
                    check=False,
                )
                for extra in ({}, {"RAY_AUTH_MODE": "token"})
            )
        finally:
            head.terminate()
            head.communicate(timeout=_DEADLINE_S)
    assert without.returncode == 1
    assert "set RAY_AUTH_MODE=token" in without.stderr.splitlines()[-1]
    assert shown.returncode == 0, shown.stderr
    assert (tmp_path / "store" / "manifest.json").is_file()

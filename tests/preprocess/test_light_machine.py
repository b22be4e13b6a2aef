"""``verify`` and ``info`` run where the loader's extra alone is installed: no Pillow, no Ray."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from preprocess.__main__ import main
from tests.stores import make_store

_ROOT = Path(__file__).parents[2]


def _extra(name: str) -> set[str]:
    extras = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return {re.split(r"[<>=; ]", requirement)[0].lower() for requirement in extras[name]}


def _modules_that_only_preprocess_installs() -> set[str]:
    only = _extra("preprocess") - _extra("loader")
    packages = importlib.metadata.packages_distributions()
    return {module for module, owners in packages.items() if {owner.lower() for owner in owners} <= only}


def _run_without(modules: set[str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command where importing ``modules`` fails, in the processes that it starts too."""
    (folder / "sitecustomize.py").write_text(f"import sys; sys.modules.update(dict.fromkeys({sorted(modules)!r}))\n")
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "preprocess", *arguments]
    return subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("encoding", ["jpeg", "yuv420", "raw"])
def test_a_store_is_verified_and_described(encoding: str, small_folder: Path, tmp_path: Path) -> None:
    missing = _modules_that_only_preprocess_installs()
    assert {"PIL", "ray", "pyarrow", "fsspec"} <= missing
    store = tmp_path / "store"
    options = ["--encoding", encoding, "--shorter-side", "32"]
    assert main(["run", "--source", str(small_folder), "--out", str(store), *options]) == 0
    verified = _run_without(missing, tmp_path, "verify", str(store), "--all", "--json", "--workers", "1")
    assert (verified.returncode, verified.stderr.count("error")) == (0, 0), verified.stderr
    assert json.loads(verified.stdout)["num_decoded"] == 48
    described = _run_without(missing, tmp_path, "info", str(store), "--json")
    assert json.loads(described.stdout)["splits"]["train"]["num_images"] == 36, described.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--source", "x", "--out", "y"],
        ["sample", "--out", "y"],
        ["info", "STORE", "--mean-image", "mean.png"],
    ],
)
def test_what_needs_more_says_what_to_install(arguments: list[str], tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    arguments = [str(store) if argument == "STORE" else argument for argument in arguments]
    done = _run_without(_modules_that_only_preprocess_installs(), tmp_path, *arguments)
    assert done.returncode == 1
    assert "pip install 'alexnet-pipeline[preprocess]'" in done.stderr
    assert done.stderr.count("\n") == 1

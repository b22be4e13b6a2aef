"""The Dockerfile: what it copies is there, and its images do the whole job.

The second needs root and a Debian with Python, unpacked: `debootstrap --variant=minbase
--include=ca-certificates,python3-venv,python3-dev bookworm FOLDER`, and ALEXNET_TEST_BASE=FOLDER.
"""

import importlib.metadata
import os
import re
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.dockerfile import DOCKERFILE, ROOT, Images, copies, read_stages
from tests.deploy.manifests import DEPLOY

LOCKS = ROOT / "deploy/containers/lock"
PROGRAMS = {"preprocess": "alexnet-preprocess", "loader": "alexnet-loader", "trainer": "alexnet-trainer"}


def test_all_that_is_copied_is_there() -> None:
    stages = read_stages()
    assert stages.keys() >= PROGRAMS.keys()
    shown = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text("utf-8").splitlines()
    wanted = set()
    for stage in stages.values():
        assert stage.source in stages or stage.source.startswith("python:")
        for owner, sources, _ in copies(stage):
            assert not owner or owner in stages
            wanted |= set() if owner else set(sources)
    assert all((ROOT / source).exists() for source in wanted)
    assert {f"!{source}" for source in wanted} == {line for line in shown if line.startswith("!")}


def test_nothing_comes_unasked_from_an_index() -> None:
    """Files of an index are those of the lock; our wheel, and Pillow's, are those that were just built."""
    commands = [
        command
        for stage in read_stages().values()
        for word, rest in stage.instructions
        if word == "RUN"
        for command in re.findall(r"\bpip (?:install|wheel|download) [^&;]*", rest)
    ]
    assert len(commands) >= 8
    for command in commands:
        assert ("--require-hashes" in command) != ("--no-index" in command), command
        assert "--no-deps" in command
        assert "--no-build-isolation" in command or " wheel " not in command


def locked(name: str) -> dict[str, str]:
    """Versions by name, of a lock whose every line has a hash."""
    lines = [line for line in (LOCKS / f"{name}.txt").read_text("utf-8").splitlines() if line[0] not in "#-"]
    found = [re.fullmatch(r"(\S+)==(\S+)(?: ; .*?)?((?: --hash=sha256:[0-9a-f]{64})+)", line) for line in lines]
    assert all(found), name
    return {canonicalize_name(match[1]): match[2] for match in found if match}


@pytest.mark.parametrize("name", ["build", "pillow", *PROGRAMS, "trainer-cpu"])
def test_locks_hold_what_the_projects_files_say(name: str) -> None:
    """Every requirement, and theirs, at the version of constraints.txt: otherwise run scripts/lock."""
    constraints = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line
    )
    pinned: dict[str, str] = {canonicalize_name(key): version for key, version in constraints.items()}
    found = locked(name)
    for key, version in found.items():
        assert version.partition("+")[0] == pinned.get(key, version.partition("+")[0]), key
    if (extra := name.removesuffix("-cpu")) in PROGRAMS:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        wanted = [*project["dependencies"], *project["optional-dependencies"][extra]]
        assert required(wanted) - {"pillow-simd"} <= found.keys()


def required(requirements: Sequence[str]) -> set[str]:
    """The names of requirements and of all that those need, as the distributions that are installed here say."""
    names: set[str] = set()
    todo = list(map(Requirement, requirements))
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name not in names and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            names.add(name)
            todo += map(Requirement, importlib.metadata.requires(name) or ())
    return names


def test_images_of_others_have_exact_versions() -> None:
    """A tag that moves would bring other bytes tomorrow; how to pin the digest too: docs/operations.md."""
    texts = [path.read_text("utf-8") for path in DEPLOY.rglob("*.y*ml")]
    images = {image for text in texts for image in re.findall(r"image: ([\w./-]+:\S+)", text)}
    assert {image.partition(":")[0] for image in images} >= {"prom/prometheus", "grafana/grafana"}
    images.add(f"python:{re.search(r'ARG PYTHON_TAG=(.+)', DOCKERFILE.read_text('utf-8'))[1]}")  # type: ignore[index]
    assert {i for i in images if not re.search(r":(\$\{VERSION:-)?v?\d+\.\d+\.\d+|@sha256:", i)} == set()


@pytest.mark.timeout(3600)
@pytest.mark.skipif("ALEXNET_TEST_BASE" not in os.environ, reason="needs ALEXNET_TEST_BASE, an unpacked Debian; root")
def test_the_images_do_the_whole_job(tmp_path: Path) -> None:
    images = Images(Path(os.environ["ALEXNET_TEST_BASE"]), tmp_path, {"TRAINER": "trainer-cpu"})
    for name, program in PROGRAMS.items():
        images.build(name)
        images.run(name, program, "--help")
    source, store, run = (str(images.shared / name) for name in ("images", "store", "run"))
    images.run("preprocess", "alexnet-preprocess", "sample", "--out", source, "--train-per-class", "20")
    options = ("--shorter-side", "72", "--workers", "2")
    images.run("preprocess", "alexnet-preprocess", "run", "--source", source, "--out", store, *options)
    serve = ("alexnet-loader", "serve", "--store", store, "--listen", "127.0.0.1:7000")
    network = ("--width", "0.0625", "--crop", "64", "--init", "fan_in", "--lr", "0.002", "--devices", "cpu,cpu")
    training = ("--run-dir", run, "--epochs", "2", "--batch-size", "16", "--threads", "1")
    with subprocess.Popen(images.command("loader", *serve), stdout=subprocess.PIPE, text=True) as loader:
        try:
            assert loader.stdout is not None
            assert loader.stdout.readline().startswith("serving ")
            images.run("loader", *images.stages["loader"].healthcheck)
            images.run("trainer", "alexnet-trainer", "train", "--target", "127.0.0.1:7000", *network, *training)
        finally:
            loader.terminate()
        assert loader.wait(300) == 0

"""The Dockerfile: what it copies is there, and its images do the whole job.

The second needs root and a Debian with Python, unpacked: `debootstrap --variant=minbase
--include=ca-certificates,python3-venv,python3-dev bookworm FOLDER`, and ALEXNET_TEST_BASE=FOLDER.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.deploy.dockerfile import DOCKERFILE, ROOT, Images, copies, read_stages

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


@pytest.mark.timeout(3600)
@pytest.mark.skipif("ALEXNET_TEST_BASE" not in os.environ, reason="needs ALEXNET_TEST_BASE, an unpacked Debian; root")
def test_the_images_do_the_whole_job(tmp_path: Path) -> None:
    images = Images(Path(os.environ["ALEXNET_TEST_BASE"]), tmp_path)
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
        assert loader.wait(100) == 0

"""Builds the Dockerfile's images as plain folders and runs them in a chroot: a proof for machines without an engine.

    debootstrap --variant=minbase --include=ca-certificates,python3-venv,python3-dev bookworm /var/tmp/base
    deploy/containers/replay.py --base /var/tmp/base --work /var/tmp/replay

Reads deploy/containers/Dockerfile itself: each FROM is a copy of what it names (--base stands for the Python image),
COPY, ENV, ARG, WORKDIR and USER do what they say, and every RUN is run as written, in a chroot. At the end each image
prints its program's --help, and they preprocess, serve, check health and train on a drawn data set, as their user.
Not shown: layers, the real base image, namespaces, limits. Needs root and Linux.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy/containers/Dockerfile"
IMAGES = {"preprocess": "alexnet-preprocess", "loader": "alexnet-loader", "trainer": "alexnet-trainer"}
PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT", "PIP_DEFAULT_TIMEOUT")
RUN_TIMEOUT_S = 1800
SERVE_TIMEOUT_S = 60


@dataclass(kw_only=True)
class Stage:
    """One FROM: a folder that is its file system, and what its instructions have set."""

    name: str
    path: Path
    env: dict[str, str] = field(default_factory=dict)
    args: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    healthcheck: list[str] | None = None


def instructions(dockerfile: Path) -> Iterator[tuple[str, str]]:
    """Each instruction's word and the rest of it, continued lines joined and comments left out."""
    lines = [line for line in dockerfile.read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word, rest.strip()


def substitute(text: str, values: Mapping[str, str]) -> str:
    """``$NAME`` and ``${NAME}`` replaced; unknown names by nothing, as a build does."""
    return re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda match: values.get(match[1] or match[2], ""), text)


def in_stage(stage: Stage, command: Sequence[str], **environment: str) -> list[str]:
    """The command line that runs ``command`` inside ``stage`` as its user, with its environment alone."""
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    values = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8"} | passed | stage.env | environment
    words = ["env", "-i", *(f"{name}={value}" for name, value in values.items())]
    words += ["sh", "-c", 'cd "$0" && exec "$@"', stage.workdir, *command]
    return ["chroot", f"--userspec={stage.user}", str(stage.path), *words]


def copy_tree(source: Path, target: Path) -> None:
    """As ``cp --archive``: links and modes kept, blocks shared where the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--archive", "--reflink=auto", "--no-target-directory", source, target], check=True)


class Build:
    """The stages of one Dockerfile, made in order when they are needed."""

    def __init__(self, base: Path, work: Path, binds: Sequence[Path], args: Mapping[str, str]) -> None:
        self.base, self.work, self.given = base, work, args
        self.binds = dict.fromkeys(binds, False)
        self.global_args: dict[str, str] = {}
        self.stages: dict[str, Stage] = {}
        self.num_runs = 0

    def run_all(self) -> None:
        stage: Stage | None = None
        wanted = self._needed()
        for word, rest in instructions(DOCKERFILE):
            if word == "FROM":
                source, _, name = substitute(rest, self.global_args).partition(" AS ")
                stage = self._start(name, source) if name in wanted else None
            elif word == "ARG" and not self.stages and stage is None:
                name, _, default = rest.partition("=")
                self.global_args[name] = self.given.get(name, default)
            elif stage is not None:
                self._apply(stage, word, rest)

    def _needed(self) -> set[str]:
        """The stages that the images are made from; an engine builds no others."""
        sources: dict[str, set[str]] = {}
        args: dict[str, str] = {}
        name = ""
        for word, rest in instructions(DOCKERFILE):
            if word == "ARG" and not sources:
                key, _, default = rest.partition("=")
                args[key] = self.given.get(key, default)
            elif word == "FROM":
                source, _, name = substitute(rest, args).partition(" AS ")
                sources[name] = {source}
            elif word == "COPY" and (match := re.match(r"--from=(\S+)", rest)):
                sources[name].add(match[1])
        needed: set[str] = set()
        left = list(IMAGES)
        while left:
            stage = left.pop()
            if stage in sources and stage not in needed:
                needed.add(stage)
                left += sources[stage]
        return needed

    def _start(self, name: str, source: str) -> Stage:
        print(f"== FROM {source} AS {name}", flush=True)
        parent = self.stages.get(source)
        stage = Stage(name=name, path=self.work / name)
        if parent is None:
            assert source.startswith("python:"), f"expected a stage or the Python image, found {source}"
            copy_tree(self.base, stage.path)
            (stage.path / "usr/local/bin").mkdir(parents=True, exist_ok=True)
            (stage.path / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        else:
            copy_tree(parent.path, stage.path)
            stage.env, stage.workdir, stage.user = dict(parent.env), parent.workdir, parent.user
        self.stages[name] = stage
        return stage

    def _apply(self, stage: Stage, word: str, rest: str) -> None:
        values = stage.args | stage.env
        if word == "ARG":
            name, _, default = rest.partition("=")
            stage.args[name] = self.given.get(name, default)
        elif word == "ENV":
            before = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"} | values
            for pair in shlex.split(rest):
                name, _, value = pair.partition("=")
                stage.env[name] = substitute(value, before)
        elif word == "WORKDIR":
            stage.workdir = rest
            (stage.path / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "USER":
            stage.user = rest
        elif word == "COPY":
            self._copy(stage, rest.split())
        elif word == "RUN":
            print(f"-- RUN {rest}", flush=True)
            with mounted(stage, self.binds):
                subprocess.run(in_stage(stage, ["sh", "-c", rest], **stage.args), check=True, timeout=RUN_TIMEOUT_S)
            self.num_runs += 1
        elif word == "HEALTHCHECK" and "CMD" in rest:
            stage.healthcheck = json.loads(rest.partition("CMD ")[2])
        else:
            assert word in ("LABEL", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"), f"unknown: {word}"

    def _copy(self, stage: Stage, words: list[str]) -> None:
        root, owner = ROOT, ""
        if words[0].startswith("--from="):
            owner = words.pop(0).removeprefix("--from=")
            root = self.stages[owner].path
        *sources, target = words
        place = stage.path / stage.workdir.lstrip("/") / target if not target.startswith("/") else None
        place = place or stage.path / target.lstrip("/")
        for source in sources:
            found = root / source.lstrip("/")
            if found.is_dir():
                copy_tree(found, place)
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy2(found, place / found.name)
        if not owner:
            for cache in place.rglob("__pycache__"):
                shutil.rmtree(cache)


@contextmanager
def mounted(stage: Stage, binds: Mapping[Path, bool]) -> Iterator[None]:
    """/proc, some of /dev, and ``binds`` (True: may be written) inside ``stage``, with the host's names."""
    for name in ("resolv.conf", "hosts"):
        shutil.copy(f"/etc/{name}", stage.path / "etc" / name)
    (stage.path / "dev/shm").mkdir(parents=True, exist_ok=True)
    (stage.path / "dev/shm").chmod(0o1777)
    for name, minor in (("null", 3), ("zero", 5), ("random", 8), ("urandom", 9)):
        node = stage.path / "dev" / name
        if not node.exists():
            os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
            node.chmod(0o666)
    done: list[Path] = []
    try:
        done.append(stage.path / "proc")
        subprocess.run(["mount", "-t", "proc", "proc", done[0]], check=True)
        for source, writable in binds.items():
            place = stage.path / str(source).lstrip("/")
            place.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", source, place], check=True)
            done.append(place)
            if not writable:
                subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        yield
    finally:
        for place in reversed(done):
            subprocess.run(["umount", "--lazy", place], check=True)


def remove(work: Path) -> None:
    """Removes the stages, unless something of the host is still mounted in them."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text("utf-8").splitlines()]
    still = [mount for mount in mounts if Path(mount).is_relative_to(work)]
    if still:
        raise RuntimeError(f"expected nothing mounted under {work}, found {', '.join(still)}: umount it first")
    shutil.rmtree(work)


def smoke(build: Build, shared: Path) -> None:
    """The three images do the whole job together on a small data set."""
    shared.mkdir(exist_ok=True)
    os.chown(shared, 10001, 10001)
    binds = build.binds | {shared: True}
    stages = [build.stages[name] for name in IMAGES]
    with mounted(stages[0], binds), mounted(stages[1], binds), mounted(stages[2], binds):
        for name, program in IMAGES.items():
            say(build.stages[name], program, "--help")
        preprocess, loader, trainer = stages
        say(preprocess, "alexnet-preprocess", "sample", "--out", f"{shared}/images", "--train-per-class", "20")
        options = ("--shorter-side", "72", "--workers", "2")
        say(
            preprocess,
            "alexnet-preprocess",
            "run",
            "--source",
            f"{shared}/images",
            "--out",
            f"{shared}/store",
            *options,
        )
        serve = ["alexnet-loader", "serve", "--store", f"{shared}/store", "--listen", "127.0.0.1:7000"]
        with subprocess.Popen(in_stage(loader, serve), stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line.startswith("serving "), line
                assert loader.healthcheck is not None
                say(loader, *loader.healthcheck)
                network = (
                    "--width",
                    "0.0625",
                    "--crop",
                    "64",
                    "--init",
                    "fan_in",
                    "--lr",
                    "0.002",
                    "--devices",
                    "cpu,cpu",
                )
                run = ("--run-dir", f"{shared}/run", "--epochs", "2", "--batch-size", "16", "--threads", "1")
                say(trainer, "alexnet-trainer", "train", "--target", "127.0.0.1:7000", *network, *run)
            finally:
                process.terminate()
            assert process.wait(SERVE_TIMEOUT_S) == 0


def say(stage: Stage, *command: str) -> None:
    """Runs a command in an image, as its user, and fails with it."""
    print(f"-- {stage.name}: {shlex.join(command)}", flush=True)
    subprocess.run(in_stage(stage, command), check=True, timeout=RUN_TIMEOUT_S)


def main() -> int:
    """Builds all stages under --work, then tries the images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--base", type=Path, required=True, help="an unpacked Debian with Python and its headers; copied"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the stages; emptied first, some GB")
    parser.add_argument("--bind", type=Path, action="append", default=[], help="a folder of wheels to show inside")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="as for docker build")
    parser.add_argument("--keep", action="store_true", help="leave the stages there")
    options = parser.parse_args()
    work = options.work.resolve()
    if work.exists():
        remove(work)
    work.mkdir(parents=True)
    began = time.monotonic()
    args = dict(pair.split("=", 1) for pair in options.build_arg)
    build = Build(options.base, work, options.bind, args)
    build.run_all()
    smoke(build, build.work / "shared")
    sizes = {
        name: subprocess.check_output(["du", "-sm", build.stages[name].path / "opt"], text=True) for name in IMAGES
    }
    for name, size in sizes.items():
        print(f"{name}: {size.split()[0]} MB in /opt")
    if not options.keep:
        remove(work)
    print(f"{build.num_runs} RUN instructions replayed, images tried, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

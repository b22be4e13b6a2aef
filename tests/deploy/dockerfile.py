"""The Dockerfile's stages as plain folders, each RUN in a chroot: for machines without an engine. Needs root and Linux.

Not shown: layers, the real base image, limits, and networks of their own.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy/containers/Dockerfile"
RUN_TIMEOUT_S = 1800
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# In a mount namespace of its own, so that nothing has to be unmounted, whatever happens.
ENTER = """
root=$0 user=$1 workdir=$2 && shift 2
mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" || exit
while [ "$1" != -- ]; do mount --bind "$1" "$root$1" || exit; shift; done
exec chroot --userspec="$user" "$root" sh -c 'cd "$0" && shift && exec "$@"' "$workdir" "$@"
"""


@dataclass(kw_only=True)
class Stage:
    """One FROM: the stage or image that it starts from, its instructions, and, once built, its folder and settings."""

    source: str
    instructions: list[tuple[str, str]] = field(default_factory=list)
    path: Path | None = None
    env: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    args: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    healthcheck: list[str] = field(default_factory=list)


def read_stages() -> dict[str, Stage]:
    """The Dockerfile's stages by name, continued lines joined, comments left out, the global ARGs put in."""
    text = "\n".join(line for line in DOCKERFILE.read_text("utf-8").splitlines() if not line.lstrip().startswith("#"))
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    global_args: dict[str, str] = {}
    for line in filter(str.strip, re.sub(r"\\\n", " ", text).splitlines()):
        word, rest = line.strip().split(maxsplit=1)
        if word == "FROM":
            source, _, name = substitute(rest, global_args).partition(" AS ")
            stage = stages[name] = Stage(source=source)
        elif stage is None:
            assert word == "ARG", f"expected FROM or ARG, found {word}"
            global_args |= dict([rest.split("=", 1)])
        else:
            stage.instructions.append((word, rest))
    return stages


def copies(stage: Stage) -> Iterator[tuple[str, list[str], str]]:
    """Of each COPY: the stage it copies from ("": the tree), the sources, and the target."""
    for word, rest in stage.instructions:
        if word == "COPY":
            match = re.match(r"(?:--from=(\S+) )?(.*) (\S+)$", rest)
            assert match, rest
            yield match[1] or "", match[2].split(), match[3]


def substitute(text: str, values: Mapping[str, str]) -> str:
    """``$NAME`` and ``${NAME}`` replaced; unknown names by nothing, as a build does."""
    return re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda match: values.get(match[1] or match[2], ""), text)


class Images:
    """The stages as folders below ``work``. ``base`` stands for the Python image; ``shared`` is the same in all."""

    def __init__(self, base: Path, work: Path, args: Mapping[str, str]) -> None:
        """``args`` are the build's arguments."""
        self._base, self._work, self._args = base, work, args
        self.shared = work / "shared"
        self.shared.mkdir()
        self.shared.chmod(0o777)
        self.stages = read_stages()

    def build(self, name: str) -> Stage:
        """Builds a stage and those that it needs, unless they are there."""
        stage = self.stages[name]
        if stage.path is not None:
            return stage
        path = self._work / name
        if stage.source in self.stages:
            parent = self.build(stage.source)
            assert parent.path is not None
            _copy(parent.path, path)
            stage.env, stage.workdir, stage.user = dict(parent.env), parent.workdir, parent.user
        else:
            assert stage.source.startswith("python:"), f"expected a stage or the Python image, found {stage.source}"
            _copy(self._base, path)
            (path / "usr/local/bin/python").symlink_to("/usr/bin/python3")
            shutil.copy("/etc/resolv.conf", path / "etc")
        stage.path = path
        copied = copies(stage)
        for word, rest in stage.instructions:
            if word == "COPY":
                owner, sources, target = next(copied)
                root = self.build(owner).path if owner else ROOT
                assert root is not None
                for place in sources:
                    _copy(root / place.lstrip("/"), path / os.path.join(stage.workdir, target).lstrip("/"))
            else:
                self._apply(stage, path, word, rest)
        return stage

    def command(self, name: str, *words: str) -> list[str]:
        """The command line that runs ``words`` in a stage, as its user, with its environment and pip's of here."""
        stage = self.stages[name]
        assert stage.path is not None
        pip = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
        binds = [
            self.shared,
            *(Path(value) for value in pip.values() if value.startswith("/") and Path(value).exists()),
        ]
        for bind in binds:
            place = stage.path / str(bind).lstrip("/")
            (place.parent if bind.is_file() else place).mkdir(parents=True, exist_ok=True)
            if bind.is_file():
                place.touch()
        values = {"HOME": "/root", "LANG": "C.UTF-8"} | pip | stage.env
        environment = ["env", "-i", *(f"{key}={value}" for key, value in values.items())]
        enter = ["unshare", "--mount", "sh", "-c", ENTER, str(stage.path), stage.user, stage.workdir]
        return [*enter, *map(str, binds), "--", *environment, *words]

    def run(self, name: str, *words: str) -> None:
        """Runs a command in a stage and fails with it."""
        print(f"-- {name}: {shlex.join(words)}", flush=True)
        subprocess.run(self.command(name, *words), check=True, timeout=RUN_TIMEOUT_S)

    def _apply(self, stage: Stage, path: Path, word: str, rest: str) -> None:
        if word in ("ARG", "ENV"):
            values = {"ARG": stage.args, "ENV": stage.env}[word]
            for pair in shlex.split(rest):
                name, _, value = pair.partition("=")
                values[name] = substitute(value, stage.args | stage.env)
            stage.args |= {name: self._args[name] for name in stage.args.keys() & self._args.keys()}
        elif word == "WORKDIR":
            stage.workdir = rest
            (path / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "USER":
            stage.user = rest
        elif word == "RUN":
            args = (f"{name}={value}" for name, value in stage.args.items())
            self.run(path.name, *args, "sh", "-c", rest)
        elif word == "HEALTHCHECK" and "CMD" in rest:
            stage.healthcheck = json.loads(rest.partition("CMD ")[2])
        else:
            assert word in ("LABEL", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"), f"unknown: {word}"


def _copy(source: Path, target: Path) -> None:
    """A folder becomes ``target``, a file goes into it; links and modes kept, blocks shared where possible."""
    whole = ("--no-target-directory",) if source.is_dir() else ()
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--archive", "--reflink=auto", *whole, source, target], check=True)

"""What documents show to type: Python blocks run, every command of ours is understood, the first steps are taken."""

import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import loader_service.__main__
import preprocess.__main__
import trainer.__main__
from tests.processes import free_port

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`((?:alexnet-|python -m )[^`]+)`")
PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "preprocess": preprocess.__main__.main,
    "loader_service": loader_service.__main__.main,
    "trainer": trainer.__main__.main,
}
NAMES = {"alexnet-preprocess": "preprocess", "alexnet-loader": "loader_service", "alexnet-trainer": "trainer"}


def blocks(document: Path, *languages: str) -> list[str]:
    """The document's blocks in one of these languages; ``""`` is none."""
    return [code for language, code in BLOCK.findall(document.read_text("utf-8")) if language in languages]


def python_blocks() -> Iterator[object]:
    for document in DOCUMENTS:
        for number, code in enumerate(blocks(document, "python")):
            yield pytest.param(code, id=f"{document.name}-{number}")


@pytest.mark.parametrize("code", [*python_blocks()])
def test_python_runs(code: str, loader_target: str) -> None:
    """As it stands, but for addresses, the size of a batch and the number of epochs."""
    code = code.replace('"loader-1:7000", "loader-2:7000"', f'"{loader_target}"')
    code = re.sub(r"loader-1:7000,loader-2:7000|127\.0\.0\.1:7000", loader_target, code)
    code = re.sub(r"batch_size=\d+", "batch_size=16", code)
    code = re.sub(r"range\(90\)|num_epochs=90", lambda found: found[0].replace("90", "2"), code)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pinned memory without a GPU
        exec(compile(code, "document", "exec"), {})


def commands(document: Path) -> Iterator[list[str]]:
    """Our programs' commands in a document, as words: the package, then what is passed to it."""
    text = document.read_text("utf-8").replace("--target ...", "--target loader:7000")
    lines = "\n".join(blocks(document, "sh", "")).replace("\\\n", " ").splitlines()
    for line in [*lines, *(" ".join(inline.split()) for inline in INLINE.findall(BLOCK.sub("", text)))]:
        for part in re.split(r"&&|\|| & | &$|;", line.partition(" #")[0]):
            words = shlex.split(part) if part.count('"') % 2 == part.count("'") % 2 == 0 else []
            while "..." in words:  # what the reader knows: an option's value, or more options
                place = words.index("...")
                del words[place - words[place - 1].startswith("--") : place + 1]
            if words and words[0] in NAMES:
                yield [NAMES[words[0]], *words[1:]]
            elif "-m" in words and words[words.index("-m") + 1 : words.index("-m") + 2][0] in PROGRAMS:
                yield words[words.index("-m") + 1 :]


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if any(commands(path))], ids=lambda path: path.name)
def test_commands_are_understood(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their names, options and values; whether what they name is there is for who types them."""
    for package, *words in commands(document):
        if len(words) > 1:
            assert PROGRAMS[package]([*words, "--print-config"]) == 0, (words, capsys.readouterr().err)


def test_the_first_steps_are_taken(tmp_path: Path) -> None:
    """docs/start.md, line by line, but for the port and what only makes it longer; the service in the background."""
    [code, *_] = blocks(ROOT / "docs/start.md", "sh")
    first, code = code.split("\n", 1)
    assert first == "scripts/setup && . .venv/bin/activate"
    port = free_port()
    healthy = f"until alexnet-loader healthcheck --target 127.0.0.1:{port} 2>/dev/null; do sleep 0.1; done"
    for there, here in (
        ("--listen 127.0.0.1:7000\n", f"--listen 127.0.0.1:7000 &\ntrap 'kill $!' EXIT\n{healthy}\n"),
        ("127.0.0.1:7000", f"127.0.0.1:{port}"),
        (f"bench   --target 127.0.0.1:{port}", f"bench --target 127.0.0.1:{port} --duration-s 1 --warmup-s 0"),
        ("--epochs 14 --lr-drops 10", "--epochs 1"),
    ):
        assert there in code
        code = code.replace(there, here)
    (tmp_path / "bin").mkdir()
    (tmp_path / "work").mkdir()
    for name, package in NAMES.items():
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {package} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=tmp_path / "work",
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = {path.name for path in (tmp_path / "work").iterdir()}
    assert made == {"images", "store", "sheet.png", "crops.png", "batch.png", "run"}
    assert (tmp_path / "work/run/curve.svg").exists()

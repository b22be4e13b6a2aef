"""What bash and zsh offer after TAB, with the line that docs/start.md tells to put into their start files."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINE = re.findall(r'^\s*(eval "\$\(register-.*)$', (ROOT / "docs/start.md").read_text("utf-8"), re.MULTILINE)[0]
ASK = {
    "bash": "COMP_POINT=${#COMP_LINE} COMP_TYPE=63; _python_argcomplete $1; printf '%s\\n' \"${COMPREPLY[@]}\"",
    # zsh's own _describe needs a line editor: it is asked what it was given.
    "zsh": "_describe() { print -l -- ${(P)2}; }; words=(${=COMP_LINE}) BUFFER=$COMP_LINE CURSOR=${#COMP_LINE}; "
    "_python_argcomplete $1",
}


@pytest.fixture
def path(tmp_path: Path) -> str:
    """With our commands on it, and argcomplete's."""
    pytest.importorskip("argcomplete")
    places = {f"alexnet-{name}": ("commandline.start", name) for name in ("preprocess", "loader", "trainer")}
    places["register-python-argcomplete"] = ("argcomplete.scripts.register_python_argcomplete", "main")
    for command, (module, function) in places.items():
        code = f"import sys; from {module} import {function}; sys.exit({function}())"
        (tmp_path / command).write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
        (tmp_path / command).chmod(0o755)
    return os.pathsep.join((str(tmp_path), os.environ["PATH"]))


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("alexnet-trainer wa", {"watch"}),
        ("alexnet-trainer train --resu", {"--resume"}),
        ("alexnet-trainer train --recipe ", {"convnet2012", "paper", "cifar10"}),
        ("alexnet-loader digest --vie", {"--view"}),
        ("alexnet-loader serve --processes a", {"auto"}),
        ("alexnet-preprocess run --no-cr", set()),
        ("alexnet-preprocess run --config pyproj", {"pyproject.toml"}),
    ],
)
@pytest.mark.parametrize("shell", ASK)
def test_what_comes_next(shell: str, typed: str, offered: set[str], path: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    begin = "autoload -U compinit; compinit -D; " if shell == "zsh" else ""
    program = typed.split()[0]
    done = subprocess.run(
        [shell, "-c", f"{begin}{LINE}\n{ASK[shell]}", shell, program],
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "COMP_LINE": typed},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert {re.split(r"(?<!\\):", line)[0].strip() for line in done.stdout.splitlines()} - {""} == offered, done.stderr

"""Files of all three programs are whole after a power cut at any moment: shown on the system calls of real commands."""

import ast
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from commandline.folder_lock import LOCK_NAME
from tests.cuts import Call, Disk, traced
from tests.preprocess.conftest import make_folder
from tests.trainer.runs import train_command
from trainer.checkpoint import folder

ROOT = Path(__file__).parents[1]
PACKAGES = ("commandline", "loader_service", "preprocess", "trainer")
WRITERS = {
    "commandline/files.py": "the one that does",
    "commandline/folder_lock.py": "locks, which mean nothing after a power cut",
    "preprocess/sample.py": "drawn anew from its seed",
    "trainer/experiments/runner.py": "what a run prints, for a person",
    "trainer/monitor/events.py": "made anew from metrics.jsonl",
}
CALLS = {
    "write_text",
    "write_bytes",
    "mkdir",
    "makedirs",
    "rename",
    "touch",
    "link",
    "symlink",
    "symlink_to",
    "imwrite",
}
SCRIPT = """
import os, sys
from pathlib import Path
from commandline.files import atomic_file, link_whole, make_folder, move_into, sync, write_whole
root = Path(sys.argv[1])
old, new, deep = root / "old", root / "new", root / "deep"

def refuse(*_):
    raise OSError(1, "no hard links")

"""
PREPROCESS = """
import sys
from preprocess.job import run
from preprocess.__main__ import main

class InThisProcess:  # Ray's processes would be traced too
    num_cpus, map = 1, staticmethod(map)
    __enter__ = lambda self: self
    __exit__ = lambda *_: None

run.Cluster = lambda **_: InThisProcess()
sys.exit(main(sys.argv[1:]))
"""


def calls_of(command: Sequence[str], folder: Path) -> list[Call]:
    """What Python does to files below ``folder`` when it runs ``command``."""
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    return traced([sys.executable, *command], folder, folder.with_name("strace.log"))


def assert_whole(command: Sequence[str], folder: Path, *, but: frozenset[str] = frozenset()) -> list[Call]:
    """Runs a command: each file was the old or the new one at each moment, and is the new one for good at the end."""
    disk = Disk(folder)
    calls = calls_of(command, folder)
    disk.play(calls)
    assert disk.torn() <= but
    assert disk.unsettled() <= but
    return calls


def writes(call: ast.Call) -> bool:
    """Whether a call makes, changes or moves a file, but for a temporary one of :func:`atomic_file`."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
    words = {ast.unparse(argument) for argument in call.args}
    if "temporary" in (owner, *words):
        return False
    if any("os.O_CREAT" in word for word in words):
        return True
    if name == "open":
        modes = [
            each.value for each in (*call.args, *(k.value for k in call.keywords)) if isinstance(each, ast.Constant)
        ]
        return any(
            isinstance(mode, str) and re.fullmatch("[rwabx+]+", mode) and set(mode) & set("wax+") for mode in modes
        )
    if name == "replace":  # of a path or of os; that of text takes two
        return owner == "os" or (len(call.args) == 1 and not call.keywords and owner != "dataclasses")
    return name in CALLS or (owner == "shutil" and name.startswith(("copy", "move")))


def test_nobody_else_writes() -> None:
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
            if any(map(writes, calls)):
                found.add(path.relative_to(ROOT).as_posix())
    assert found == WRITERS.keys()


@pytest.mark.parametrize(
    ("script", "torn", "unsettled"),
    [
        ("old.write_text('x')", {"old"}, set()),
        ("new.write_text('x'); os.replace(new, old); sync(root)", {"old", "new"}, set()),
        ("new.write_text('x'); sync(new); os.replace(new, old)", {"new"}, {"old"}),
        ("write_whole(old, 'x'); old.open('r+').write('y'); sync(old)", {"old"}, set()),
        ("write_whole(new, 'x'); old.unlink(); os.rename(new, old); sync(root)", {"old"}, set()),
        ("deep.mkdir(); write_whole(deep / 'file', 'x')", set(), {"deep"}),
    ],
)
def test_mistakes_are_seen(script: str, torn: set[str], unsettled: set[str], tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/old").write_text("before")
    disk = Disk(tmp_path / "root")
    disk.play(calls_of(["-c", SCRIPT + script, str(tmp_path / "root")], tmp_path / "root"))
    assert (disk.torn(), disk.unsettled()) == (torn, unsettled)


@pytest.mark.parametrize(
    "script",
    [
        "write_whole(old, 'x'); write_whole(deep / 'deeper' / 'file', 'y')",
        "write_whole(new, 'x'); link_whole(new, old); link_whole(new, old); write_whole(new, 'y')",
        "os.link = refuse; write_whole(new, 'x'); link_whole(new, old); write_whole(new, 'y')",
        "move_into(deep, [old])",
        "with atomic_file(old) as file: file.write_text('x')",
    ],
)
def test_one_module_writes_them(script: str, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/old").write_text("before")
    assert_whole(["-c", SCRIPT + script, str(tmp_path / "root")], tmp_path / "root")
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_store(tmp_path: Path) -> None:
    source, out = make_folder(tmp_path / "source"), tmp_path / "out"
    out.mkdir()
    options = ["--source", str(source), "--out", str(out / "store"), "--shorter-side", "64", "--images-per-shard", "20"]
    but = frozenset((f"store/{LOCK_NAME}",))
    assert_whole(["-c", PREPROCESS, "run", *options], out, but=but)
    assert (out / "store/manifest.json").exists()
    # As after a kill, with files that are there already.
    (out / "store/manifest.json").unlink()
    (out / "store/shards/train-00000.json").write_text("damaged")
    assert_whole(["-c", PREPROCESS, "run", *options], out, but=but)


def test_pictures(tiny_store: Path, loader_target: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    pictures = [out / f"{name}.png" for name in ("sheet", "mean", "colours", "crops", "batch")]
    for picture in pictures:
        picture.write_bytes(b"before")
    drawn = ("--contact-sheet", str(pictures[0]), "--mean-image", str(pictures[1]), "--colour-plot", str(pictures[2]))
    assert_whole(["-m", "preprocess", "info", str(tiny_store), *drawn], out)
    assert_whole(["-m", "loader_service", "preview", "--target", loader_target, "--out", str(pictures[3])], out)
    assert_whole(["-m", "loader_service", "show", "--target", loader_target, "--out", str(pictures[4])], out)
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_a_run(loader_target: str, tmp_path: Path) -> None:
    """Train, go back, train again; export and report."""
    out = tmp_path / "out"
    out.mkdir()
    run = out / "run"
    saving = ("--epochs", "2", "--checkpoint-steps", "2", "--keep", "3")
    but = frozenset((f"run/{LOCK_NAME}",))
    calls = assert_whole(["-m", "trainer", *train_command(loader_target, run, *saving)], out, but=but)
    assert_metrics_come_first(calls, run)
    back = folder.numbered(run)[-1]
    again = train_command(loader_target, run, *saving, "--lr", "0.001", "--resume", str(back))
    # Checkpoints of the branch that was given up are moved, and made again under the same names.
    moved = but | {str(path.relative_to(out)) for path in (*folder.numbered(run)[:-1], folder.best_of(run))}
    assert_whole(["-m", "trainer", *again], out, but=moved)
    exported = ("export", "--checkpoint", str(run), "--out", str(out / "exports/weights.safetensors"))
    assert_whole(["-m", "trainer", *exported], out)
    assert_whole(["-m", "trainer", "report", str(run)], out)


def assert_metrics_come_first(calls: Sequence[Call], run: Path) -> None:
    """A checkpoint has its name only once all points until its step are on the disk."""
    content = (run / "metrics.jsonl").read_bytes()
    written = synced = num_checkpoints = 0
    for call in calls:
        if call.name == "write" and call.paths[0] == run / "metrics.jsonl":
            written += call.result
        elif call.name == "fsync" and call.paths[0] == run / "metrics.jsonl":
            synced = written
        elif call.name.startswith("rename") and call.paths[1].name.startswith("step-"):
            num_checkpoints += 1
            later = [json.loads(line)["global_step"] for line in content[synced:].splitlines()]
            assert min(later, default=10**9) > int(call.paths[1].stem[5:])
    assert num_checkpoints >= 3
    assert written == len(content)

"""examples/quickstart.ipynb runs from its first cell to its last, and is kept without outputs."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = json.loads((ROOT / "examples/quickstart.ipynb").read_text("utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_it_is_kept_without_outputs() -> None:
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short name: Ray makes sockets there."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_it_runs_from_start_to_end(folder: Path) -> None:
    """Each cell after the other in one process, as a kernel would."""
    done = subprocess.run(
        [sys.executable, "-c", "import json, sys\nfor code in json.load(sys.stdin): exec(code, globals())"],
        input=json.dumps(CODE),
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "(16, 112, 112, 3) uint8" in done.stdout
    assert any(line.startswith("validation: top-1 error") for line in lines)
    classes = {path.name for path in folder.glob("alexnet-quickstart-*/images/val/*")}
    assert len(classes) == 8
    assert {line.split(":")[0] for line in lines[-8:]} == classes

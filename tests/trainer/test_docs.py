"""The example in docs/training.md runs as it stands."""

import re
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "training.md"


def test_the_example_of_another_model_runs(loader_target: str, capsys: pytest.CaptureFixture[str]) -> None:
    [example] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), flags=re.DOTALL)
    assert example.count("\n") <= 23
    exec(compile(example.replace("127.0.0.1:7000", loader_target), str(DOCUMENT), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [[str(e), str(s)] for e in range(2) for s in range(3)]

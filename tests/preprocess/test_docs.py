"""docs/preprocess.md speaks in the words of the messages."""

import re
from pathlib import Path

import pytest

from preprocess.sources import ledger

_ROOT = Path(__file__).parents[2]
_DOCS = (_ROOT / "docs/preprocess.md").read_text("utf-8")


def _rows(heading: str) -> list[str]:
    """The first cells of the table that begins with a heading."""
    table = _DOCS[_DOCS.index(f"| {heading} |") :].split("\n\n")[0]
    return [line.split("|")[1].strip() for line in table.splitlines()[2:]]


def test_every_reason_for_passing_over_is_in_the_table() -> None:
    reasons = {value for name, value in vars(ledger).items() if name.isupper() and isinstance(value, str)}
    assert set(_rows("passed over")) == reasons


def _sources() -> str:
    """The program's text, with literals that go on over lines joined."""
    text = "\n".join(path.read_text("utf-8") for path in sorted((_ROOT / "preprocess").rglob("*.py")))
    return re.sub(r'"\s*\n\s*f?"', "", text)


@pytest.mark.parametrize("fragment", [f for row in _rows("refused with") for f in re.findall("`([^`]+)`", row)])
def test_every_refusal_is_in_the_programs_words(fragment: str) -> None:
    assert fragment in _sources()

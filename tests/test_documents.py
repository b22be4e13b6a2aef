"""What documents name exists: files, functions and classes of the architecture, targets of links."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text("utf-8")
# `loader_service/pipeline/order.py` `epoch_order`
FILE_AND_NAME = re.compile(r"`([\w/]+\.py)`(?: `(\w+)`)?")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#([\w-]+))?\)")


@pytest.mark.parametrize(("file", "name"), sorted(set(FILE_AND_NAME.findall(ARCHITECTURE))))
def test_the_architecture_names_what_there_is(file: str, name: str) -> None:
    text = (ROOT / file).read_text("utf-8")
    assert not name or re.search(rf"^(?:class|def) {name}\b", text, re.MULTILINE), f"{file} has no {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target, anchor in LINK.findall(document.read_text("utf-8")):
        path = document.parent / target
        assert path.exists(), f"{document.name} links to {target}"
        if anchor and path.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{document.name} links to {target}#{anchor}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_modules_that_documents_tell_to_run_exist(document: Path) -> None:
    for module in re.findall(r"python -m ((?:benchmarks|tests)[\w.]*)", document.read_text("utf-8")):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists(), f"{document.name} runs {module}"


def test_pictures_are_shown() -> None:
    """Nothing is left in docs/ that no document shows or links to."""
    shown = "\n".join(document.read_text("utf-8") for document in DOCUMENTS)
    pictures = [path.name for path in (ROOT / "docs").iterdir() if path.suffix != ".md"]
    assert [name for name in pictures if name not in shown] == []

"""What documents name exists: files, their functions and classes, modules to run, targets of links, pictures."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
# `loader_service/pipeline/order.py` `epoch_order`, or `View` in `loader_service/wire/types.py`
FILE_AND_NAME = re.compile(r"(?:`(\w+)` in )?`((?:\w+/)+[\w.]*)`(?: `(\w+)`)?")
GUIDES = [ROOT / "CONTRIBUTING.md", ROOT / "docs/architecture.md", ROOT / "docs/security.md"]
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#([\w-]+))?\)")


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_guides_name_what_there_is(guide: Path) -> None:
    found = FILE_AND_NAME.findall(guide.read_text("utf-8"))
    assert len(found) >= 10
    for before, place, after in found:
        path = ROOT / place
        assert path.exists(), f"{guide.name} names {place}"
        for name in filter(None, (before, after)):
            defined = re.search(rf"^(?:class|def) {name}\b|^{name} = ", path.read_text("utf-8"), re.MULTILINE)
            assert defined, f"{guide.name} names {name} in {place}"


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


@pytest.mark.parametrize("document", [*DOCUMENTS, *ROOT.glob("examples/*.py")], ids=lambda path: path.name)
def test_users_import_the_public_faces_alone(document: Path) -> None:
    found = re.findall(r"^(?:from|import) (loader_service[\w.]*)", document.read_text("utf-8"), re.MULTILINE)
    assert set(found) <= {"loader_service.client", "loader_service.torch_adapter"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_section_stands_twice(document: Path) -> None:
    headings = re.findall(r"^#+ .+$", document.read_text("utf-8"), re.MULTILINE)
    assert sorted(set(headings)) == sorted(headings)


def test_pictures_are_shown() -> None:
    """Nothing is left in docs/ that no document shows or links to."""
    shown = "\n".join(document.read_text("utf-8") for document in DOCUMENTS)
    pictures = [path.name for path in (ROOT / "docs").iterdir() if path.suffix != ".md"]
    assert [name for name in pictures if name not in shown] == []

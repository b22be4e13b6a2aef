"""The documents as a site: scripts/docs builds it without a warning, and it is read offline at any width."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from loader_service import client
from preprocess import store
from tests.browser import DESKTOP, PHONE, Browser, browser
from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]
pytest.importorskip("mkdocs")
if not (ROOT / ".venv/.setup").exists():
    pytest.skip("needs the environment that scripts/setup makes", allow_module_level=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "out"
    done = subprocess.run([ROOT / "scripts/docs", out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return out


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= len([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
    for page in pages:
        text = page.read_text("utf-8")
        assert re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="?(?:https?:)?//', text) == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\"?(?:https?:)?//", sheet.read_text("utf-8")), sheet


def test_every_public_name_is_explained(site: Path) -> None:
    text = (site / "docs/api.html").read_text("utf-8")
    for module in (client, store):
        for name in module.__all__:
            assert f'id="{module.__name__}.{name}"' in text, name
    assert 'id="loader_service.torch_adapter.RemoteLoader.load_state_dict"' in text


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_every_page_is_read_without_moving_it_sideways(site: Path, shown: Browser, width: int) -> None:
    for page in sorted(site.rglob("*.html")):
        if page.name == "404.html":  # for servers
            continue
        shown.open(page.as_uri(), width=width)
        assert not shown.is_too_wide(), page.name
        assert shown.run("document.querySelector('h1').innerText"), page.name
        assert all(address.startswith("file:") for address in shown.requested())
        assert shown.problems() == [], page.name


def test_search_works_from_a_file(site: Path, shown: Browser) -> None:
    shown.open((site / "docs/api.html").as_uri(), width=DESKTOP)
    shown.run("Object.assign(document.querySelector('.md-search__input'), {value: 'quarantine'}).focus()")
    shown.run("document.querySelector('.md-search__input').dispatchEvent(new Event('input', {bubbles: true}))")
    found = "[...document.querySelectorAll('.md-search-result__item a')].map(link => link.pathname)"
    wait_until(lambda: any(path.endswith("docs/preprocess.html") for path in shown.run(found)), "search to find a page")

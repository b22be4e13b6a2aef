"""Headless Chromium for tests, driven over WebDriver; what needs it is skipped where it is not installed."""

import base64
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.processes import free_port
from tests.waiting import wait_until

DESKTOP, PHONE = 1200, 390
"""Widths in CSS pixels."""
_QUIET = ("disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync")


class Browser:
    """One page of a browser."""

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, url: str, *, width: int) -> None:
        """Shows ``url`` in a window of that width and returns when it has been loaded."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._cdp("Emulation.setDeviceMetricsOverride", metrics)
        _ask(f"{self._session}/url", {"url": url})

    def run(self, script: str) -> Any:
        """What a script returns, as JSON has it."""
        return _ask(f"{self._session}/execute/sync", {"script": f"return {script}", "args": []})

    def problems(self) -> list[str]:
        """What the page wrote to its console as errors since this was last asked."""
        return [entry["message"] for entry in _ask(f"{self._session}/se/log", {"type": "browser"})]

    def is_too_wide(self) -> bool:
        """Whether the page must be moved sideways to be read."""
        return bool(self.run("document.documentElement.scrollWidth > document.documentElement.clientWidth"))

    def requested(self) -> list[str]:
        """The addresses that the page has loaded something from."""
        found = self.run("performance.getEntriesByType('resource').map(entry => entry.name)")
        return [str(name) for name in found]

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG file."""
        width, height = self.run("[innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self._cdp("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        path.write_bytes(base64.b64decode(shot["data"]))

    def _cdp(self, command: str, parameters: dict[str, Any]) -> Any:
        return _ask(f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with ``profile`` as its folder; closed at the end."""
    driver = shutil.which("chromedriver")
    if driver is None or shutil.which("chromium") is None:
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    port = free_port()
    options = [f"--user-data-dir={profile}", *(f"--{name}" for name in ("headless=new", "no-sandbox", *_QUIET))]
    wanted = {"goog:chromeOptions": {"args": options}, "goog:loggingPrefs": {"browser": "SEVERE"}}
    with subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL) as process:
        try:
            root = f"http://127.0.0.1:{port}"
            wait_until(lambda: _answers(f"{root}/status"), "chromedriver")
            session = _ask(f"{root}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            yield Browser(f"{root}/session/{session}")
            _ask(f"{root}/session/{session}", method="DELETE")
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        _ask(url, method="GET")
    except OSError:
        return False
    return True


def _ask(url: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=100) as answer:
        return json.load(answer)["value"]

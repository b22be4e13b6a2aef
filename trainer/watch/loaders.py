"""What the loaders' metrics tell: a table, with rates since they were last asked."""

import html
import ssl
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from commandline import one_line

_TIMEOUT_S = 2.0
_RATES = {
    "images/s": "alexnet_loader_images_total",
    "cores": "process_cpu_seconds_total",
    "waiting for disk, s/s": "alexnet_loader_disk_wait_seconds_total",
    "failed requests/s": "alexnet_loader_errors_total",
}
"""Columns that are a counter's growth in a second."""
_STREAMS = "alexnet_loader_active_streams"


@dataclass(frozen=True)
class _Reading:
    time_s: float
    values: Mapping[str, float]
    """By metric, summed over its labels."""


class LoaderTable:
    """Asks each address when it is drawn. ``tls_ca`` is whom https is trusted by, if not the system's authorities."""

    def __init__(self, urls: Sequence[str], tls_ca: Path | None) -> None:
        self._context = ssl.create_default_context(cafile=tls_ca)
        self._last: dict[str, _Reading | None] = dict.fromkeys(urls)

    def draw(self) -> str:
        """The table as HTML, a row for each address; a loader that does not answer has its reason in its row."""
        if not self._last:
            return (
                "<p class=soft>To see them, give <code>--metrics http://HOST:PORT/metrics,...</code>: what they serve "
                "with <code>--metrics-listen</code>.</p>"
            )
        columns = ["requests", *_RATES]
        head = "".join(f"<th>{column}</th>" for column in ("loader", *columns))
        rows = "".join(
            f"<tr><th>{html.escape(url.split('/')[2])}</th>{self._cells(url, len(columns))}</tr>" for url in self._last
        )
        return f"<div class=wide><table><tr>{head}</tr>{rows}</table></div>"

    def _cells(self, url: str, count: int) -> str:
        try:
            found = self._read(url)
        except (OSError, HTTPException, ValueError) as error:
            self._last[url] = None
            return f"<td colspan={count}>no answer: {html.escape(one_line(error))}</td>"
        before, self._last[url] = self._last[url], found
        texts = [f"{found.values.get(_STREAMS, 0):.0f}"]
        for name in _RATES.values():
            if before is None:
                texts.append("–")
            else:
                grown = found.values.get(name, 0.0) - before.values.get(name, 0.0)
                texts.append(f"{max(grown, 0.0) / (found.time_s - before.time_s):,.3g}")
        return "".join(f"<td>{text}</td>" for text in texts)

    def _read(self, url: str) -> _Reading:
        from prometheus_client.parser import text_string_to_metric_families

        with urllib.request.urlopen(url, timeout=_TIMEOUT_S, context=self._context) as answer:
            text = answer.read().decode("utf-8")
        values: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                values[sample.name] = values.get(sample.name, 0.0) + sample.value
        return _Reading(time.monotonic(), values)

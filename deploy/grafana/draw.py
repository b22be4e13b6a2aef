"""Draws the dashboard's panels as one SVG from what a Prometheus has scraped: for documents, and without Grafana.

deploy/grafana/draw.py --prometheus http://127.0.0.1:7130 --minutes 5 --out dashboard.svg
"""

import argparse
import json
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

DASHBOARD = Path(__file__).with_name("dashboard.json")
NUM_COLUMNS = 3
WIDTH, HEIGHT, GAP = 380, 170, 24
# Of one panel, in pixels: room for the title above, for numbers at the left, for the legend below.
TOP, LEFT, BOTTOM = 24, 52, 30
COLOURS = ("#1f6fb4", "#e07b00", "#2e8b57", "#b03060", "#7059b0", "#8c6d31", "#4a8fa8", "#888888")
MAX_LEGEND = 3


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: its label in the legend, and (Unix time, value) pairs in order."""

    label: str
    points: tuple[tuple[float, float], ...]


def fetch(url: str, expression: str, legend: str, begin: float, end: float) -> list[Series]:
    """What Prometheus answers for ``[begin, end]``, at about 120 points."""
    step = max((end - begin) / 120, 1.0)
    parameters = {"query": expression, "start": begin, "end": end, "step": step}
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{urllib.parse.urlencode(parameters)}", timeout=30) as answer:
        results: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    series = []
    for result in results:
        points = tuple((float(at), float(value)) for at, value in result["values"] if value not in ("NaN", "+Inf"))
        if points:
            series.append(Series(label=label_of(legend, result["metric"]), points=points))
    return series


def label_of(legend: str, labels: dict[str, str]) -> str:
    """``legend`` with each ``{{name}}`` replaced by that label; fingerprints are cut to eight characters."""
    for name, value in labels.items():
        legend = legend.replace(f"{{{{{name}}}}}", value[:8] if len(value) > 24 else value)
    return legend


def number(value: float, unit: str) -> str:
    """``value`` with at most three digits and the unit's own sign."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {sign}"
    return f"{value:.3g}"


def panel(title: str, unit: str, series: list[Series], begin: float, end: float) -> str:
    """The SVG elements of one panel whose top left corner is (0, 0)."""
    highest = max((value for one in series for _, value in one.points), default=1.0) or 1.0
    width, height = WIDTH - LEFT, HEIGHT - TOP - BOTTOM

    def place(at: float, value: float) -> str:
        return f"{LEFT + width * (at - begin) / (end - begin):.1f},{TOP + height * (1 - value / highest):.1f}"

    parts = [f'<text x="0" y="14" font-weight="bold">{escape(title)}</text>']
    for share in (0.0, 0.5, 1.0):
        y = TOP + height * (1 - share)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        text = number(share * highest, unit)
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end" fill="#666">{text}</text>')
    for colour, one in zip(COLOURS, series, strict=False):
        points = " ".join(place(at, max(value, 0.0)) for at, value in one.points)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    labels = [(colour, one.label) for colour, one in zip(COLOURS, series, strict=False)][:MAX_LEGEND]
    words = "".join(f'<tspan fill="{colour}" dx="8">{escape(label)}</tspan>' for colour, label in labels)
    parts.append(f'<text x="{LEFT - 8}" y="{HEIGHT - 10}">{words or "no data"}</text>')
    return "\n".join(parts)


def draw(url: str, begin: float, end: float) -> str:
    """All panels, in rows of three, as one document."""
    panels = [one for one in json.loads(DASHBOARD.read_text("utf-8"))["panels"] if one["type"] == "timeseries"]
    num_rows = -(-len(panels) // NUM_COLUMNS)
    width, height = NUM_COLUMNS * (WIDTH + GAP) + GAP, num_rows * (HEIGHT + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
    ]
    for place, one in enumerate(panels):
        series: list[Series] = []
        for target in one["targets"]:
            expression = target["expr"].replace("$__rate_interval", "15s")
            series += fetch(url, expression, target["legendFormat"], begin, end)
        x, y = GAP + place % NUM_COLUMNS * (WIDTH + GAP), GAP + place // NUM_COLUMNS * (HEIGHT + GAP)
        body = panel(one["title"], one["fieldConfig"]["defaults"]["unit"], series, begin, end)
        parts.append(f'<g transform="translate({x} {y})">\n{body}\n</g>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> int:
    """Reads the command line and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", required=True, metavar="URL", help="where Prometheus answers")
    parser.add_argument("--minutes", type=float, default=5.0, help="how far back (default: 5)")
    parser.add_argument("--out", type=Path, required=True, help="SVG file to write")
    options = parser.parse_args()
    end = time.time()
    options.out.write_text(draw(options.prometheus.rstrip("/"), end - 60 * options.minutes, end), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

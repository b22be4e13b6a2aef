"""A horizontal bar chart as SVG text, drawn without any plotting library."""

from html import escape
from typing import Any

from benchmarks.comparison.entries import PARTS

_WIDTH, _LABELS, _BAR, _STEP, _TOP = 900, 350, 18, 28, 52
_COLOURS = {"ours": "#2563a8", "peer": "#9aa5b1", "limit": "#d9a441"}


def bar_chart(document: dict[str, Any]) -> str:
    """Median images a second of each row, fastest first, with least and most as a line; in the table's parts."""
    measured = [row for row in document["rows"] if "images_per_s" in row]
    machine = document["machine"]
    subtitle = f"{document['date']}, {machine['cores']} cores of {machine['processor']}; line: least to most"
    y, parts = _TOP, []
    for part, title in PARTS.items():
        rows = [row for row in measured if row["part"] == part]
        if not rows:
            continue
        rows.sort(key=lambda row: -float(row["images_per_s"]["median"]))
        # Each part has its own scale: decoded images come several times faster.
        most = max(float(row["images_per_s"]["most"]) for row in rows)
        parts.append(f'<text x="12" y="{y + 14}" font-weight="600">{title}</text>')
        y += _STEP
        for row in rows:
            parts += _bar(row, y, (_WIDTH - _LABELS - 80) / most)
            y += _STEP
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 12}" role="img" '
        f'aria-label="Images a second" font-family="system-ui, sans-serif" font-size="12" fill="#222">',
        f'<rect width="{_WIDTH}" height="{y + 12}" fill="#ffffff"/>',
        '<text x="12" y="22" font-size="15" font-weight="600">Images a second: 224 x 224 crops, batches of 128</text>',
        f'<text x="12" y="40" fill="#666">{escape(subtitle)}</text>',
    ]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"


def _bar(row: dict[str, Any], y: int, scale: float) -> list[str]:
    rate = row["images_per_s"]
    length, least, most = (round(rate[name] * scale, 1) for name in ("median", "least", "most"))
    weight = ' font-weight="600"' if row["kind"] == "ours" else ""
    middle, base = y + _BAR / 2, y + _BAR - 5
    title = escape(row["title"])
    return [
        f'<text x="{_LABELS - 8}" y="{base}" text-anchor="end"{weight}>{title}</text>',
        f'<rect x="{_LABELS}" y="{y}" width="{length}" height="{_BAR}" rx="2" fill="{_COLOURS[row["kind"]]}"/>',
        f'<line x1="{_LABELS + least}" x2="{_LABELS + most}" y1="{middle}" y2="{middle}" stroke="#222"/>',
        f'<text x="{_LABELS + max(length, most) + 6}" y="{base}">{rate["median"]:,.0f}</text>',
    ]

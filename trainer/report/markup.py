"""What our HTML pages are made of: the page itself, its sections, tables and tiles."""

import html
from collections.abc import Iterable, Sequence

from trainer.report.style import STYLE


def html_page(title: str, about: str, sections: Sequence[str], *, head: str = "", style: str = "") -> str:
    """A whole page: its title with ``about`` below it, then the sections; ``head`` and ``style`` are this page's own.

    All but the title is HTML, or CSS.
    """
    title = html.escape(title)
    body = "\n".join([f"<header><h1>{title}</h1>{about}</header>", *sections])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{head}<title>{title}</title><style>{STYLE}{style}</style></head>\n<body>{body}</body></html>\n"
    )


def section(title: str, body: str) -> str:
    """``body``, which is HTML, under a heading."""
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text."""
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in header)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def tiles(figures: Iterable[tuple[str, str]]) -> str:
    """Boxes, each with a figure and what it is."""
    texts = ((html.escape(figure), html.escape(of)) for figure, of in figures)
    boxes = "".join(f"<div class=tile><b>{figure}</b><span>{of}</span></div>" for figure, of in texts)
    return f"<div class=tiles>{boxes}</div>"

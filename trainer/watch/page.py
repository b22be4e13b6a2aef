"""The page that follows a run: sections that are asked for again and again, and shown anew when they have changed."""

import html
from collections.abc import Sequence
from pathlib import Path

from trainer.report.style import STYLE
from trainer.watch.view import Section

_STYLE = """
#lost { display: none; background: #fdf1ee; color: var(--red); border: 1px solid var(--red); border-radius: 8px;
  padding: .5rem .8rem; margin: 0 0 1rem; }
.lost #lost { display: block; }
.batch { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .5rem; }
.batch img { width: 100%; display: block; border-radius: 4px; }
.batch figcaption { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.wide { overflow-x: auto; }
.wide th, .wide td { width: auto; white-space: nowrap; overflow-wrap: normal; }
.wide td, .wide th + th { text-align: right; }
.soft { color: var(--soft); margin: 0 0 .6rem; }
"""

_SCRIPT = """
for (const place of document.querySelectorAll("[data-every]")) {
  let shown = "";
  const follow = async () => {
    try {
      if (!document.hidden) {
        const answer = await fetch(place.id);
        const text = await answer.text();
        if (answer.ok && text !== shown) place.innerHTML = shown = text;
        document.body.classList.toggle("lost", !answer.ok);
      }
    } catch {
      document.body.classList.add("lost");
    }
    setTimeout(follow, 1000 * place.dataset.every);
  };
  follow();
}
"""


def page(run_dir: Path, sections: Sequence[Section]) -> str:
    """The whole page as HTML text, its sections still empty."""
    title = f"AlexNet, {html.escape(run_dir.resolve().name)}"
    places = "".join(
        f"<section><h2>{section.heading}</h2><div id={section.name} data-every={section.every_s}></div></section>\n"
        for section in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{STYLE}{_STYLE}</style></head>\n'
        f"<body><header><h1>{title}</h1></header>\n"
        "<p id=lost role=status>No answer from <code>alexnet-trainer watch</code>: this is what was last known.</p>\n"
        f"{places}<script>{_SCRIPT}</script></body></html>\n"
    )

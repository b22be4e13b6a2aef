"""The page that follows a run: sections that are asked for again and again, and shown anew when they have changed."""

from collections.abc import Sequence
from pathlib import Path

from trainer.report.markup import html_page, section
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
    lost = "No answer from <code>alexnet-trainer watch</code>: this is what was last known."
    parts = [
        f"<p id=lost role=status>{lost}</p>",
        *(section(each.heading, f"<div id={each.name} data-every={each.every_s}></div>") for each in sections),
        f"<script>{_SCRIPT}</script>",
    ]
    title, icon = f"AlexNet, {run_dir.resolve().name}", '<link rel="icon" href="data:,">'
    return html_page(title, "", parts, head=icon, style=_STYLE)

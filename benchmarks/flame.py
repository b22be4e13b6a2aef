"""A flame graph as a still SVG, from collapsed stacks: where a profile's samples fell, drawn without any library.

py-spy record --rate 200 --duration 10 --format raw --output stacks.txt --pid PID
python -m benchmarks.flame stacks.txt > flame.svg
"""

import argparse
import zlib
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

_WIDTH, _ROW, _LETTER = 1100, 17, 6.4
_LEAST_SHARE = 0.003


@dataclass
class Frame:
    """A function as it was called from its parent."""

    samples: int = 0
    callees: dict[str, "Frame"] = field(default_factory=dict)

    def add(self, stack: list[str], samples: int) -> None:
        self.samples += samples
        if stack:
            self.callees.setdefault(stack[0], Frame()).add(stack[1:], samples)


def flame_graph(stacks: str, *, skip: tuple[str, ...] = ()) -> str:
    """An SVG of lines ``outer;inner;innermost COUNT``; the outermost is on top. Frames of 0.3 % and less, and those
    whose name starts with one of ``skip``, are left out."""
    root = Frame()
    for line in stacks.splitlines():
        names, _, count = line.rpartition(" ")
        root.add([name for name in names.split(";") if not name.startswith(skip)], int(count))
    parts: list[str] = []
    depth = _draw(root, 0.0, 0, root.samples, parts)
    height = (depth + 1) * _ROW
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="Flame graph of {root.samples} samples" font-family="ui-monospace, monospace" font-size="10.5">'
    )
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>', *parts, "</svg>"]) + "\n"


def _draw(frame: Frame, left: float, depth: int, total: int, parts: list[str]) -> int:
    """Draws what ``frame`` called, below it; the depth that was reached."""
    deepest = depth
    for name, callee in sorted(frame.callees.items()):
        width = _WIDTH * callee.samples / total
        if callee.samples > _LEAST_SHARE * total:
            hue = 200 + zlib.crc32(name.partition(":")[0].encode()) % 160
            share = f"{100 * callee.samples / total:.1f} %"
            letters = int(width / _LETTER) - 1
            shown = f"{name} {share}"[:letters] if letters > 3 else ""
            x, y = round(left, 1), depth * _ROW
            parts.append(
                f'<g><title>{escape(name)}: {share}</title><rect x="{x}" y="{y}" width="{width - 0.5:.1f}" '
                f'height="{_ROW - 1}" fill="hsl({hue} 55% 82%)"/>'
                f'<text x="{x + 3}" y="{y + 12}">{escape(shown)}</text></g>'
            )
            deepest = max(deepest, _draw(callee, left, depth + 1, total, parts))
        left += width
    return deepest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stacks", type=Path)
    options = parser.parse_args()
    # What every thread of Python begins with says nothing.
    skip = ("Thread._bootstrap", "Thread._bootstrap_inner", "Thread.run", "_WorkItem.run", "<module>", "_run_")
    print(flame_graph(options.stacks.read_text(), skip=skip), end="")


if __name__ == "__main__":
    main()

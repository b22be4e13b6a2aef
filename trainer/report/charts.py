"""Charts of lines and of intervals as SVG text, drawn without any plotting library."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from trainer.monitor.metrics import EpochPoint, TrainPoint

WIDTH, HEIGHT = 520, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 40, 44
_TITLE_Y, _LEGEND_GAP = 20, 18
# More than the mean widths of a letter of 12 px and of a bold one of 14 px.
_LETTER_WIDTH, _TITLE_LETTER_WIDTH = 6.4, 8.0
MAX_POINTS = 250
COLOURS = ("#2563a8", "#c2572b", "#3a7d44", "#7a4fa3")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve: its name in the legend and its points (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


def line_chart(title: str, x_label: str, lines: Sequence[Line], *, marks: Sequence[tuple[float, str]] = ()) -> str:
    """An SVG picture of ``lines`` with linear axes from 0; ``marks`` are labelled vertical lines (x, text).

    Long lines are thinned. The last line lies on top. A pointer over a point is shown its values.
    """
    lines = [Line(name=line.name, points=thinned(line.points)) for line in lines]
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_step, y_step = _tick_step(max(xs, default=1.0)), _tick_step(max(ys, default=1.0))
    x_top = max(xs, default=1.0) or 1.0
    y_top = y_step * math.ceil((max(ys, default=1.0) or 1.0) / y_step)
    # The legend runs leftwards along the title's line, or along one of its own where the two would meet.
    legend_width = sum(_LETTER_WIDTH * len(line.name) + _LEGEND_GAP for line in lines)
    fits = _LEFT + _TITLE_LETTER_WIDTH * len(title) + legend_width <= WIDTH - _RIGHT
    legend_y, top = (_TITLE_Y, _TOP) if fits else (_TITLE_Y + _LEGEND_GAP, _TOP + _LEGEND_GAP)

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (WIDTH - _LEFT - _RIGHT) * x / x_top
        down = HEIGHT - _BOTTOM - (HEIGHT - top - _BOTTOM) * y / y_top
        return round(across, 1), round(down, 1)

    parts = _frame(title, x_label)
    for number in range(round(y_top / y_step) + 1):
        _, y = place(0, number * y_step)
        parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="#e3e3e3"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end" fill="#555">{number * y_step:g}</text>')
    for number in range(math.floor(x_top / x_step) + 1):
        x, _ = place(number * x_step, 0)
        parts.append(
            f'<text x="{x}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle" fill="#555">{number * x_step:g}</text>'
        )
    for x, text in marks:
        across, _ = place(x, 0)
        parts.append(
            f'<line x1="{across}" x2="{across}" y1="{top}" y2="{HEIGHT - _BOTTOM}" stroke="#999" '
            f'stroke-dasharray="3 3"/>'
            f'<text x="{across - 3}" y="{top + 10}" text-anchor="end" fill="#777" '
            f'font-size="10">{escape(text)}</text>'
        )
    coloured = list(zip(lines, COLOURS, strict=False))
    for line, colour in coloured:  # the first at the bottom
        places = [place(x, y) for x, y in line.points]
        path = " ".join(f"{x},{y}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        if len(places) == 1:
            parts.append(f'<circle cx="{places[0][0]}" cy="{places[0][1]}" r="3" fill="{colour}"/>')
    for line, _ in coloured:  # what a pointer over a point is shown, above all lines
        parts.append('<g fill="transparent">')
        for x, y in line.points:
            across, down = place(x, y)
            text = escape(f"{line.name} {y:.4g}, {x_label} {x:.4g}")
            parts.append(f'<circle cx="{across}" cy="{down}" r="4"><title>{text}</title></circle>')
        parts.append("</g>")
    across = float(WIDTH - _RIGHT)
    for line, colour in reversed(coloured):
        parts.append(f'<text x="{across}" y="{legend_y}" text-anchor="end" fill="{colour}">{escape(line.name)}</text>')
        across -= _LETTER_WIDTH * len(line.name) + _LEGEND_GAP
    return "\n".join([*parts, "</svg>"]) + "\n"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A row of a chart of intervals: what was found, between what bounds, and what was published."""

    name: str
    found: tuple[float, float, float] | None
    """The figure and its bounds; None: not measured."""
    published: float | None = None


def interval_chart(title: str, x_label: str, rows: Sequence[Interval]) -> str:
    """An SVG picture of ``rows``, one below the other, on one linear axis that has 0: a dot with its interval, and a
    bar across where a figure was published.
    """
    bounds = [0.0, *(x for row in rows for x in row.found or ())]
    bounds += [row.published for row in rows if row.published is not None]
    step = _tick_step(max(bounds) - min(bounds))
    first, last = math.floor(min(bounds) / step), math.ceil(max(bounds) / step)
    left = 12 + _LETTER_WIDTH * max((len(row.name) for row in rows), default=0)
    top, bottom = _TOP, HEIGHT - _BOTTOM

    def place(x: float) -> float:
        return round(left + (WIDTH - _RIGHT - left) * (x / step - first) / max(last - first, 1), 1)

    parts = _frame(title, x_label)
    for number in range(first, last + 1):
        across, stroke = place(number * step), "#e3e3e3" if number else "#777"
        parts.append(f'<line x1="{across}" x2="{across}" y1="{top}" y2="{bottom}" stroke="{stroke}"/>')
        parts.append(f'<text x="{across}" y="{bottom + 16}" text-anchor="middle" fill="#555">{number * step:g}</text>')
    ours, theirs = COLOURS[:2]
    for number, row in enumerate(rows):
        down = round(top + (bottom - top) * (number + 0.5) / len(rows), 1)
        parts.append(f'<text x="{left - 8}" y="{down + 4}" text-anchor="end" fill="#222">{escape(row.name)}</text>')
        if row.published is not None:
            across = place(row.published)
            parts.append(
                f'<line x1="{across}" x2="{across}" y1="{down - 6}" y2="{down + 6}" stroke="{theirs}" '
                f'stroke-width="2.5"><title>{escape(row.name)}: published {row.published:g}</title></line>'
            )
        if row.found is None:
            parts.append(f'<text x="{place(0) + 6}" y="{down + 4}" fill="#777" font-size="10">not measured</text>')
            continue
        value, low, high = row.found
        text = escape(f"{row.name}: {value:.2f}, {low:.2f} to {high:.2f}")
        parts.append(
            f'<line x1="{place(low)}" x2="{place(high)}" y1="{down}" y2="{down}" stroke="{ours}" '
            f'stroke-width="1.8"/><circle cx="{place(value)}" cy="{down}" r="3.5" fill="{ours}">'
            f"<title>{text}</title></circle>"
        )
    parts.append(f'<text x="12" y="{HEIGHT - 8}" fill="{ours}">dot: ours, with its interval</text>')
    if any(row.published is not None for row in rows):
        parts.append(f'<text x="190" y="{HEIGHT - 8}" fill="{theirs}">bar: published</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _frame(title: str, x_label: str) -> list[str]:
    """The beginning of a picture: its ground, its title and what its axis counts."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="{_TITLE_Y}" font-size="14" font-weight="600" fill="#222">{escape(title)}</text>',
        f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 8}" text-anchor="end" fill="#555">{escape(x_label)}</text>',
    ]


def thinned(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most ``limit`` points: means over neighbours, in order. What is not finite is left out."""
    sound = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = -(-len(sound) // limit) or 1
    groups = (sound[begin : begin + size] for begin in range(0, len(sound), size))
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def stacked(charts: Sequence[str]) -> str:
    """SVG pictures of this file's size as one, below each other."""
    placed = "".join(
        chart.replace("<svg ", f'<svg y="{HEIGHT * row}" height="{HEIGHT}" ', 1) for row, chart in enumerate(charts)
    )
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT * len(charts)}">\n{placed}</svg>\n'


def loss_chart(train: Sequence[TrainPoint], epochs: Sequence[EpochPoint]) -> str:
    """Training and validation loss over the epochs of a run, with its rate drops."""
    position = _epoch_position(train)
    return line_chart(
        "Loss",
        "epoch",
        [
            Line(name="training", points=[(position(p), p.loss) for p in train]),
            Line(
                name="validation",
                points=[(p.epoch + 1.0, p.validation_loss) for p in epochs if p.validation_loss is not None],
            ),
        ],
        marks=rate_marks(epochs),
    )


def error_chart(epochs: Sequence[EpochPoint]) -> str:
    """Top-1 and top-5 errors in per cent over the epochs of a run, with its rate drops."""

    def series(name: str, field: str) -> Line:
        found = [(p.epoch + 1.0, getattr(p, field)) for p in epochs]
        return Line(name=name, points=[(x, 100 * value) for x, value in found if value is not None])

    return line_chart(
        "Error, %",
        "epoch",
        [
            series("training top-1", "train_top1_error"),
            series("validation top-1", "validation_top1_error"),
            series("validation top-5", "validation_top5_error"),
        ],
        marks=rate_marks(epochs),
    )


def speed_chart(train: Sequence[TrainPoint]) -> str:
    """Images a second over the epochs of a run, and what the devices could have taken without waiting for data."""
    position = _epoch_position(train)
    return line_chart(
        "Images a second",
        "epoch",
        [
            Line(name="trained", points=[(position(p), p.images_per_s) for p in train]),
            Line(
                name="without waiting for data",
                points=[(position(p), p.images_per_s / max(1 - p.data_wait, 0.01)) for p in train],
            ),
        ],
    )


def wait_chart(train: Sequence[TrainPoint]) -> str:
    """How much of the time went into waiting for data, over the epochs of a run."""
    position = _epoch_position(train)
    points = [(position(p), 100 * p.data_wait) for p in train]
    return line_chart("Time without data, %", "epoch", [Line(name="waiting", points=points)])


def rate_marks(epochs: Sequence[EpochPoint]) -> list[tuple[float, str]]:
    """Where the learning rate changed: (epoch, ``lr 0.001``)."""
    pairs = itertools.pairwise(epochs)
    return [(float(later.epoch), f"lr {later.rate:g}") for before, later in pairs if before.rate != later.rate]


def _epoch_position(train: Sequence[TrainPoint]) -> Callable[[TrainPoint], float]:
    """Where a point lies on an axis of epochs. An epoch's last point says how many steps it had; one under way has as
    many as the one before it, or as have been taken.
    """
    num_steps: dict[int, int] = {}
    for point in train:
        num_steps[point.epoch] = max(num_steps.get(point.epoch, 1), point.step)
    last = max(num_steps, default=0)
    if last - 1 in num_steps:
        num_steps[last] = max(num_steps[last], num_steps[last - 1])
    return lambda point: point.epoch + point.step / num_steps[point.epoch]


def _tick_step(top: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that gives about five ticks up to ``top``."""
    if not (math.isfinite(top) and top > 0):
        return 1.0
    rough = top / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)

"""The ``report`` command: one HTML file that opens offline and tells all about a run."""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from commandline import write_line
from loader_service.client.client import LoaderClient
from trainer.checkpoint.saved_network import LoadedNetwork, load_network
from trainer.config import ReportConfig
from trainer.devices import devices_of_rank
from trainer.errors import TrainerError
from trainer.monitor.metrics import EpochPoint, TrainPoint, read_points
from trainer.monitor.run_record import read_record
from trainer.network.describe import describe_architecture
from trainer.report.charts import error_chart, loss_chart, speed_chart
from trainer.report.gallery import Exhibit, collect
from trainer.report.pictures import data_uri, filter_grid
from trainer.report.style import STYLE

REPORT_NAME = "report.html"


def run_report(config: ReportConfig) -> int:
    """Writes the report beside the run and prints its path."""
    if not config.run_dir.is_dir():
        raise TrainerError(f"{config.run_dir}: expected a run folder")
    train, epochs = read_points(config.run_dir)
    if not train:
        raise TrainerError(f"{config.run_dir}: expected a run's metrics, found none")
    loaded = load_network(config.run_dir, devices_of_rank(config.devices, 0))
    exhibits: list[Exhibit] = []
    if config.target:
        with LoaderClient(config.target, config.client_options) as client:
            missing = [split for split in (config.split, config.train_split) if split not in client.describe().splits]
            if missing:
                raise TrainerError(
                    f"--split: expected one of {', '.join(client.describe().splits)}, found {missing[0]!r}"
                )
            exhibits = collect(
                loaded,
                client,
                split=config.split,
                train_split=config.train_split,
                num_searched=config.neighbours_among,
            )
    else:
        write_line("no --target: the report is written without the example images")
    path = config.out or config.run_dir / REPORT_NAME
    path.write_text(page(config.run_dir, loaded, train, epochs, exhibits), encoding="utf-8")
    print(path)
    return 0


def page(
    run_dir: Path,
    loaded: LoadedNetwork,
    train: Sequence[TrainPoint],
    epochs: Sequence[EpochPoint],
    exhibits: Sequence[Exhibit],
) -> str:
    """The whole page as HTML text."""
    record = read_record(run_dir)
    title = f"AlexNet, {html.escape(run_dir.resolve().name)}"
    sections = [
        f"<header><h1>{title}</h1>{_summary(loaded, train, epochs, record)}</header>",
        _section("Loss and errors", f"<div class=charts>{loss_chart(train, epochs)}{error_chart(train, epochs)}</div>"),
        _section("The first layer's filters", _filters(loaded)),
    ]
    if exhibits:
        sections.append(_section("What it sees", _exhibits(exhibits, loaded.plan.classes)))
    sections += [
        _section("Speed", f"<div class=charts>{speed_chart(train, epochs)}</div>"),
        _section("Network", f"<pre>{html.escape(describe_architecture(loaded.plan.architecture()))}</pre>"),
        _section("Run", _record_tables(record)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>" + "\n".join(sections) + "</body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>"


def _summary(
    loaded: LoadedNetwork, train: Sequence[TrainPoint], epochs: Sequence[EpochPoint], record: dict[str, Any]
) -> str:
    speeds = sorted(point.images_per_s for point in train)
    waits = sorted(point.data_wait for point in train)
    measured = [e for e in epochs if e.validation_top1_error is not None]
    best = min(measured, key=lambda e: e.validation_top1_error or 0.0, default=None)
    tiles = []
    if best is not None and best.validation_top1_error is not None and best.validation_top5_error is not None:
        tiles += [
            (f"{100 * best.validation_top1_error:.1f} %", f"best top-1 error, centre crop (epoch {best.epoch + 1})"),
            (f"{100 * best.validation_top5_error:.1f} %", "top-5 error then"),
        ]
    tiles += [
        (f"{len(epochs)}", "epochs"),
        (f"{speeds[len(speeds) // 2]:,.0f}", "images/s (median)"),
        (f"{100 * waits[len(waits) // 2]:.0f} %", "of the time without data (median)"),
        (f"{loaded.plan.architecture().num_parameters:,}", "parameters"),
    ]
    recipe = f"Recipe {loaded.plan.recipe}, checkpoint {loaded.path.name} of step {loaded.snapshot.global_step:,}."
    store = record.get("store", {}).get("fingerprint", "")
    store_text = f" Store {html.escape(store[:12])}." if store else ""
    body = "".join(f"<div class=tile><b>{value}</b><span>{html.escape(text)}</span></div>" for value, text in tiles)
    return f"<p>{html.escape(recipe)}{store_text}</p><div class=tiles>{body}</div>"


def _filters(loaded: LoadedNetwork) -> str:
    figures = []
    for place, column in enumerate(loaded.network.columns):
        filters = column.get_submodule("conv1").get_parameter("weight")
        size = tuple(filters.shape[2:])
        figures.append(
            f'<figure><img class=filters alt="filters of column {place + 1}" src="{data_uri(filter_grid(filters))}">'
            f"<figcaption>Column {place + 1}: {len(filters)} filters of {size[0]}x{size[1]}x3</figcaption></figure>"
        )
    return "<div class=charts>" + "".join(figures) + "</div>"


def _exhibits(exhibits: Sequence[Exhibit], classes: Sequence[tuple[str, str]]) -> str:
    def name(label: int) -> str:
        return html.escape(classes[label][1])

    def picture(pixels: torch.Tensor, text: str) -> str:
        return f'<img alt="{text}" title="{text}" src="{data_uri(pixels.numpy())}">'

    cards = []
    for exhibit in exhibits:
        bars = "".join(
            f"<div class='bar{' right' if label == exhibit.label else ''}'>"
            f"<i style='width:{max(100 * probability, 0.5):.1f}%'></i><span>{name(label)}</span>"
            f"<em>{100 * probability:.0f} %</em></div>"
            for label, probability in exhibit.guesses
        )
        near = "".join(
            picture(neighbour.pixels, f"{name(neighbour.label)}, distance {neighbour.distance:.1f}")
            for neighbour in exhibit.neighbours
        )
        neighbours = f"<div class=near><small>nearest training images</small><div>{near}</div></div>" if near else ""
        cards.append(
            f"<article><div class=seen>{picture(exhibit.pixels, name(exhibit.label))}"
            f"<div class=guess><h3>{name(exhibit.label)}</h3>{bars}</div></div>{neighbours}</article>"
        )
    return "<div class=cards>" + "".join(cards) + "</div>"


def _record_tables(record: dict[str, Any]) -> str:
    parts = []
    for title in ("environment", "store", "options"):
        rows = "".join(
            f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(_text(value))}</td></tr>"
            for name, value in record.get(title, {}).items()
            if value not in (None, [], "")
        )
        if rows:
            opened = "" if title == "options" else " open"
            parts.append(f"<details{opened}><summary>{title}</summary><table>{rows}</table></details>")
    if "recipe" in record:
        text = html.escape(json.dumps(record["recipe"], indent=1))
        parts.append(f"<details><summary>recipe</summary><pre>{text}</pre></details>")
    return "".join(parts) or "<p>No run.json.</p>"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{name} {number:,}" if isinstance(number, int) else f"{name} {number}" for name, number in value.items()
        )
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

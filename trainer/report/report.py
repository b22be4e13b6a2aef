"""The ``report`` command: one HTML file that opens offline and tells all about a run."""

import html
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commandline import print_line, write_line
from commandline.files import write_whole
from loader_service.client import DataLossError, LoaderClient, ServiceUnavailableError
from trainer.checkpoint.saved_network import LoadedNetwork, load_network, refuse_others
from trainer.config import ReportConfig
from trainer.devices import devices_of_rank
from trainer.errors import TrainerError
from trainer.evaluate import CROPS_IN_WORDS, Evaluation, evaluate_loaded, require_images
from trainer.monitor.metrics import EpochPoint, TrainPoint, read_points
from trainer.monitor.run_record import read_record
from trainer.network.describe import describe_architecture
from trainer.recipes.recipe import RecipeName
from trainer.report.cards import cards
from trainer.report.charts import error_chart, loss_chart, speed_chart, wait_chart
from trainer.report.gallery import BATCH_SIZE, Exhibit, Worst, collect
from trainer.report.markup import html_page, section, tiles
from trainer.report.pictures import filter_figures

REPORT_NAME = "report.html"
PUBLISHED: Mapping[RecipeName, tuple[float, float, str]] = {
    "convnet2012": (0.40664, 0.18210, "ILSVRC-2012 validation, the authors' log of layers-145"),
    "paper": (0.407, 0.182, "ILSVRC-2012 validation, the paper's table 2"),
}
"""Top-1 and top-5 errors of the network that each recipe describes."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the loaders' images tell of a network."""

    split: str
    evaluation: Evaluation
    worst: Sequence[Exhibit]
    examples: Sequence[Exhibit]
    names: Mapping[int, str]
    """Of both, in the source, by their indices; empty when the service cannot say."""
    num_searched: int
    """Training images among which the examples' neighbours were sought."""


def run_report(config: ReportConfig) -> int:
    """Writes the report beside the run and prints its path."""
    if not config.run_dir.is_dir():
        raise TrainerError(f"{config.run_dir}: expected a run folder")
    train, epochs = read_points(config.run_dir)
    if not train:
        raise TrainerError(f"{config.run_dir}: expected a run's metrics, found none")
    loaded = load_network(config.run_dir, devices_of_rank(config.devices, 0))
    findings = None
    if config.target:
        findings = _find(config, loaded)
    else:
        write_line("no --target: the report is written without images and without ten-crop errors")
    path = config.out or config.run_dir / REPORT_NAME
    write_whole(path, page(config.run_dir, loaded, train, epochs, findings))
    print_line(str(path))
    return 0


def _find(config: ReportConfig, loaded: LoadedNetwork) -> Findings:
    client = LoaderClient(config.target, config.client_options)  # its streams are closed by who reads them
    description = client.describe()
    require_images("--split", config.split, description.splits)
    require_images("--train-split", config.train_split, description.splits)
    refuse_others([loaded], description)
    worst = Worst()
    evaluation = evaluate_loaded(
        [loaded], client, split=config.split, crops=config.crops, batch_size=BATCH_SIZE, seen=worst.see
    )
    examples, num_searched = collect(
        loaded,
        client,
        split=config.split,
        train_split=config.train_split,
        num_searched=config.neighbours_among,
    )
    return Findings(
        split=config.split,
        evaluation=evaluation,
        worst=worst.exhibits,
        examples=examples,
        names=_names(client, config.split, {exhibit.index for exhibit in (*worst.exhibits, *examples)}),
        num_searched=num_searched,
    )


def _names(client: LoaderClient, split: str, indices: Iterable[int]) -> dict[int, str]:
    wanted = sorted(indices)
    try:
        return dict(zip(wanted, client.names(split, wanted), strict=True))
    except (DataLossError, ServiceUnavailableError) as error:  # a service that is older has no such call
        write_line(f"the report is written without the images' names: {error}")
        return {}


def page(
    run_dir: Path,
    loaded: LoadedNetwork,
    train: Sequence[TrainPoint],
    epochs: Sequence[EpochPoint],
    findings: Findings | None,
) -> str:
    """The whole page as HTML text."""
    record = read_record(run_dir)
    sections = [
        section("Loss and errors", f"<div class=charts>{loss_chart(train, epochs)}{error_chart(epochs)}</div>"),
    ]
    if findings is not None:
        sections.append(section("Beside the published numbers", _beside_published(loaded, findings)))
    sections.append(section("The first layer's filters", filter_figures(loaded.snapshot.weights)))
    if findings is not None:
        classes, split, names = loaded.plan.classes, findings.split, findings.names
        searched = f"<p>Neighbours by fc7 distance, among {findings.num_searched:,} training images.</p>"
        sections += [
            section("What it sees", searched + cards(findings.examples, classes, split=split, names=names)),
            section("Where it is most wrong", cards(findings.worst, classes, split=split, names=names)),
        ]
    sections += [
        section("Speed", f"<div class=charts>{speed_chart(train)}{wait_chart(train)}</div>"),
        section("Network", f"<pre>{html.escape(describe_architecture(loaded.plan.architecture()))}</pre>"),
        section("Run", _record_tables(record)),
    ]
    return html_page(f"AlexNet, {run_dir.resolve().name}", _summary(loaded, train, epochs, record), sections)


def _beside_published(loaded: LoadedNetwork, findings: Findings) -> str:
    """A table: this network's errors, and those of the recipe's network on ImageNet."""
    found = findings.evaluation
    rows = [
        (
            f"this network, {CROPS_IN_WORDS[found.crops]}",
            found.top1_error,
            found.top5_error,
            f"{found.num_images:,} images of {findings.split}, {loaded.plan.architecture().num_classes:,} classes",
        )
    ]
    if loaded.plan.recipe in PUBLISHED:
        rows.append(("published, one network, ten crops", *PUBLISHED[loaded.plan.recipe]))
    cells = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{100 * top1:.1f} %</td><td>{100 * top5:.1f} %</td>"
        f"<td>{html.escape(of)}</td></tr>"
        for name, top1, top5, of in rows
    )
    return f"<table><tr><th></th><th>top-1 error</th><th>top-5 error</th><th>of</th></tr>{cells}</table>"


def _summary(
    loaded: LoadedNetwork, train: Sequence[TrainPoint], epochs: Sequence[EpochPoint], record: dict[str, Any]
) -> str:
    speed = statistics.median_high(point.images_per_s for point in train)
    wait = statistics.median_high(point.data_wait for point in train)
    measured = [e for e in epochs if e.validation_top1_error is not None and math.isfinite(e.validation_top1_error)]
    best = min(measured, key=lambda e: e.validation_top1_error or 0.0, default=None)
    figures = []
    for name, point in (("best", best), ("last", measured[-1] if measured else None)):
        if point is not None and point.validation_top1_error is not None and point.validation_top5_error is not None:
            text = f"{name} epoch's errors, centre crop: top-1 / top-5 (epoch {point.epoch + 1})"
            figures.append(
                (f"{100 * point.validation_top1_error:.1f} / {100 * point.validation_top5_error:.1f} %", text)
            )
    figures += [
        (f"{len(epochs)}", "epochs"),
        (f"{speed:,.0f}", "images/s (median)"),
        (f"{100 * wait:.0f} %", "of the time without data (median)"),
        (f"{loaded.plan.architecture().num_parameters:,}", "parameters"),
    ]
    recipe = f"Recipe {loaded.plan.recipe}, checkpoint {loaded.path.name} of step {loaded.snapshot.global_step:,}."
    store = record.get("store", {}).get("fingerprint", "")
    store_text = f" Store {html.escape(store[:12])}." if store else ""
    return f"<p>{html.escape(recipe)}{store_text}</p>{tiles(figures)}"


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

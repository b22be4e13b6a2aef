"""What an experiment leaves to read: page.html, table.md, table.json and picture.svg."""

import html
import json
from collections.abc import Sequence
from pathlib import Path

from commandline.files import write_whole
from trainer.experiments.experiment import Conclusion, Experiment, Outcome, Row
from trainer.report.charts import stacked
from trainer.report.markup import html_page, section, table

PAGE_NAME, TABLE_NAME, JSON_NAME, PICTURE_NAME = "page.html", "table.md", "table.json", "picture.svg"
_HEADER = ("claim", "source", "paper", "ours", "sign", "runs", "what was different")
_RUN_HEADER = ("setting", "seed", "epochs", "training error", "validation top-1 / top-5", "how it ended")


def write_page(
    out: Path, experiment: Experiment, conclusion: Conclusion, outcomes: Sequence[Outcome], notes: Sequence[str]
) -> Path:
    """Writes the four, each whole; returns the page's path. ``notes`` are sentences about how the runs were made."""
    if conclusion.charts:
        write_whole(out / PICTURE_NAME, stacked(conclusion.charts))
    rows, runs = [_cells(row) for row in conclusion.rows], [_run_cells(outcome) for outcome in outcomes]
    write_whole(
        out / TABLE_NAME, "\n".join([_markdown(_HEADER, rows), *([_markdown(_RUN_HEADER, runs)] if runs else [])])
    )
    write_whole(out / JSON_NAME, json.dumps(_document(experiment, conclusion, outcomes), indent=1))
    write_whole(out / PAGE_NAME, _page(experiment, conclusion, rows, runs, notes))
    return out / PAGE_NAME


def _cells(row: Row) -> tuple[str, ...]:
    ours = "not measured" if row.ours is None else ", ".join(filter(None, (row.ours.text(row.unit), row.ours.spread)))
    return row.claim, row.source, row.paper, ours, row.sign, row.runs, row.different


def _run_cells(outcome: Outcome) -> tuple[str, ...]:
    training = validation = "-"
    if outcome.epochs:
        last = outcome.epochs[-1]
        training = f"{100 * last.train_top1_error:.2f} %"
        if last.validation_top1_error is not None and last.validation_top5_error is not None:
            validation = f"{100 * last.validation_top1_error:.2f} / {100 * last.validation_top5_error:.2f} %"
    ended = outcome.failure or "to its end"
    return outcome.arm, str(outcome.seed), str(len(outcome.epochs)), training, validation, ended


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def _document(experiment: Experiment, conclusion: Conclusion, outcomes: Sequence[Outcome]) -> dict[str, object]:
    rows = [
        {
            "claim": row.claim,
            "source": row.source,
            "paper": row.paper,
            "ours": None if row.ours is None else row.ours.value,
            "low": None if row.ours is None else row.ours.low,
            "high": None if row.ours is None else row.ours.high,
            "spread": "" if row.ours is None else row.ours.spread,
            "unit": row.unit,
            "sign": row.sign,
            "runs": row.runs,
            "different": row.different,
        }
        for row in conclusion.rows
    ]
    runs = [
        {
            "setting": outcome.arm,
            "seed": outcome.seed,
            "failure": outcome.failure,
            "consumed": outcome.consumed[-1] if outcome.consumed else None,
            "epochs": [vars(point) for point in outcome.epochs],
        }
        for outcome in outcomes
    ]
    return {"experiment": experiment.name, "rows": rows, "runs": runs}


def _page(
    experiment: Experiment,
    conclusion: Conclusion,
    rows: Sequence[Sequence[str]],
    runs: Sequence[Sequence[str]],
    notes: Sequence[str],
) -> str:
    sections: list[str] = []
    if rows:
        sections.append(section("What was claimed, and what was found", table(_HEADER, rows)))
    if conclusion.charts:
        sections.append(section("Curves", f"<div class=charts>{''.join(conclusion.charts)}</div>"))
    sections += conclusion.sections
    if runs:
        sections.append(section("Runs", table(_RUN_HEADER, runs)))
    if notes:
        sections.append(section("How it was made", _paragraphs(notes)))
    return html_page(experiment.title, _paragraphs(experiment.about), sections)


def _paragraphs(texts: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts)

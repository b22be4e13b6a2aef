"""The results of a comparison: medians, spread and ratios, as a JSON document and as Markdown."""

import os
import platform
import statistics
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.comparison.entries import BOUNDS, PARTS, TARGETS, Entry
from benchmarks.comparison.samples import Sample

_BEGIN, _END = "<!-- table: written by scripts/bench -->", "<!-- end of table -->"
_MAX_IDLE_BUSY = 0.1
_WAYS = {"pipeline-1": "the decode pipeline alone", "shm": "shared memory", "grpc": "gRPC"}
"""In which our crops are measured, resized ones too."""


def results(entries: Sequence[Entry], samples: Sequence[Sample], skipped: dict[str, str]) -> dict[str, Any]:
    """One document: a row an entry, the ratios that the project holds itself to, and the machine."""
    rounds = {entry.name: [s for s in samples if s.entry == entry.name and s.phase == "round"] for entry in entries}
    sound = {name: [s for s in taken if s.error is None] for name, taken in rounds.items()}
    busy = statistics.median(sample.busy for sample in samples) if samples else 0.0
    return {
        "date": date.today().isoformat(),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "processor": _processor(),
            "system": platform.platform(),
            "busy_before": busy,
            "was_idle": busy < _MAX_IDLE_BUSY,
        },
        "rows": [_row(entry, rounds[entry.name], skipped.get(entry.name)) for entry in entries],
        "ratios": [
            {
                "of": target.entry,
                "to": target.against,
                "at_least": target.at_least,
                **_ratio(sound.get(target.entry, []), sound.get(target.against, [])),
            }
            for target in TARGETS
        ],
        "cpu_to_limit": {
            name: _cpu_ratio(sound, name, "limit-whole") for name in ("ours-pipeline-1", "ours-grpc", "ours-shm")
        },
        "cpu_of_resized": {way: _cpu_ratio(sound, f"ours-resized-{way}", f"ours-{way}") for way in _WAYS},
    }


def _row(entry: Entry, samples: Sequence[Sample], skipped: str | None) -> dict[str, Any]:
    sound = [sample for sample in samples if sample.error is None]
    row: dict[str, Any] = {
        "name": entry.name,
        "title": entry.title,
        "kind": entry.kind,
        "part": entry.part,
        "skipped": skipped,
        "failures": sorted({sample.error for sample in samples if sample.error is not None}),
    }
    if sound:
        rates = [sample.images_per_s for sample in sound]
        row |= {
            "workers": sound[0].workers,
            "images_per_s": {"median": statistics.median(rates), "least": min(rates), "most": max(rates)},
            "rounds": len(rates),
        }
        for name in ("cpu_s_per_1000", "consumer_cpu_s_per_1000", "first_batch_s", "memory_mb", "difference"):
            values = [sample.figures[name] for sample in sound if name in sample.figures]
            row[name] = statistics.median(values) if values else None
    return row


def _ratio(ours: Sequence[Sample], peers: Sequence[Sample]) -> dict[str, float | int | None]:
    """Median, least and most of the ratios of pairs within a round."""
    by_round = {sample.round: sample.images_per_s for sample in peers}
    ratios = [sample.images_per_s / by_round[sample.round] for sample in ours if sample.round in by_round]
    if not ratios:
        return {"median": None, "least": None, "most": None}
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def _cpu_ratio(sound: dict[str, list[Sample]], of: str, to: str) -> float | None:
    """Processor time of an entry an image, over that of another, from pairs within a round."""
    theirs = {sample.round: sample.figures["cpu_s_per_1000"] for sample in sound.get(to, [])}
    ratios = [s.figures["cpu_s_per_1000"] / theirs[s.round] for s in sound.get(of, []) if s.round in theirs]
    return statistics.median(ratios) if ratios else None


def markdown(document: dict[str, Any]) -> str:
    """The tables, for people."""
    machine, settings = document["machine"], document["settings"]
    idle = f"{machine['busy_before']:.0%} busy between measurements"
    if not machine["was_idle"]:
        idle += ": **not idle, these figures mean nothing**"
    lines = [
        f"{document['date']}; {machine['processor']}, {machine['cores']} cores, "
        f"{idle}; {settings['images']}, {settings['mean_jpeg_bytes'] / 1e3:.1f} KB a JPEG; "
        f"{settings['rounds']} rounds of {settings['seconds']:g} s.",
        "",
        "![Images a second](performance.svg)",
    ]
    for part, title in PARTS.items():
        rows = [row for row in document["rows"] if row["part"] == part]
        if rows:
            lines += ["", f"**{title}**", "", *_rows(rows)]
    lines += [
        "",
        "**Ratios** (pairs within a round)",
        "",
        "| | | at least | median | spread |",
        "|---|---|---|---|---|",
    ]
    titles = {row["name"]: row["title"] for row in document["rows"]}
    for ratio in document["ratios"]:
        if ratio["of"] not in titles or ratio["to"] not in titles:
            continue
        shown = ["not measured", ""]
        if ratio["median"] is not None:
            met = "" if ratio["median"] >= ratio["at_least"] else " (missed)"
            shown = [f"{ratio['median']:.2f}{met}", f"{ratio['least']:.2f} to {ratio['most']:.2f}"]
        lines.append(f"| {titles[ratio['of']]} | {titles[ratio['to']]} | {ratio['at_least']:g} | {' | '.join(shown)} |")
    lines += ["", "| | | at most | median |", "|---|---|---|---|"]
    rows_by_name = {row["name"]: row for row in document["rows"]}
    for bound in BOUNDS:
        if bound.entry in titles:
            row = rows_by_name[bound.entry]
            found = (
                document["cpu_to_limit"].get(bound.entry) if bound.figure == "cpu_to_limit" else row.get(bound.figure)
            )
            told = "not measured"
            if found is not None:
                told = f"{found:.3g}{'' if found <= bound.at_most else ' (missed)'}"
            lines.append(f"| {titles[bound.entry]} | {bound.title} | {bound.at_most:g} | {told} |")
    measured = {way: ratio for way, ratio in document["cpu_of_resized"].items() if ratio is not None}
    if measured:
        lines += ["", "| processor time of `resized_crop` | to that of `train` |", "|---|---|"]
        lines += [f"| {_WAYS[way]} | {ratio:.2f} |" for way, ratio in measured.items()]
    return "\n".join(lines) + "\n"


def _rows(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "| | images/s | least to most | workers | CPU s / 1,000 images | of them the consumer's "
        "| memory MB | first batch s | differs by |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: -row.get("images_per_s", {"median": 0.0})["median"]):
        title = f"**{row['title']}**" if row["kind"] == "ours" else row["title"]
        if "images_per_s" not in row:
            reason = row["skipped"] or "; ".join(row["failures"]) or "not yet measured"
            lines.append(f"| {title} | | {reason} | | | | | | |")
            continue
        rate = row["images_per_s"]
        cells = [f"{rate['median']:,.0f}", f"{rate['least']:,.0f} to {rate['most']:,.0f}", row["workers"] or "auto"]
        for name, digits in (
            ("cpu_s_per_1000", 3),
            ("consumer_cpu_s_per_1000", 3),
            ("memory_mb", 0),
            ("first_batch_s", 1),
            ("difference", 1),
        ):
            cells.append("" if row[name] is None else f"{row[name]:,.{digits}f}")
        lines.append(f"| {title} | {' | '.join(map(str, cells))} |")
    return lines


def put_into(page: Path, table: str) -> None:
    """Replaces the table of a page, between its marks; a page without any becomes the table alone."""
    text = page.read_text("utf-8") if page.exists() else f"{_BEGIN}\n{_END}\n"
    if _BEGIN not in text or _END not in text:
        raise ValueError(f"{page}: expected the marks {_BEGIN!r} and {_END!r}, found none")
    before, rest = text.split(_BEGIN, 1)
    _, after = rest.split(_END, 1)
    page.write_text(f"{before}{_BEGIN}\n{table}{_END}{after}", "utf-8")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()

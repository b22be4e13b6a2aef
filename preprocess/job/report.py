"""The report of a run: what went in, what came out, how long it took and where the time went."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from commandline.files import write_whole
from preprocess.job.resume import REPORT_NAME
from preprocess.job.shard import Seconds
from preprocess.sources.ledger import PassedOver
from preprocess.sources.member_names import printable
from preprocess.store.format import QUARANTINE_NAME
from preprocess.store.sidecar import BadImage

_NUM_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Figures of one run; those of a resumed run count what earlier ones had finished apart."""

    store: str
    fingerprint: str
    source: str
    layout: str
    num_classes: int
    num_images: dict[str, int]
    """By split."""
    num_bad_images: int
    num_members: int
    """All that the source was found to hold: images, what was read for them, and what was passed over."""
    num_ignored_files: int
    """Members that were passed over: those of ``passed_over`` together."""
    passed_over: tuple[PassedOver, ...]
    notes: tuple[str, ...]
    num_shards: int
    num_shards_resumed: int
    """Shards that an earlier run had finished."""
    source_bytes: int
    store_bytes: int
    elapsed_s: float
    """Of the tasks, without starting Ray and listing the source."""
    images_per_s: float
    """Images made by this run over ``elapsed_s``."""
    num_workers: int
    worker_seconds: Seconds
    peak_worker_memory_bytes: int

    def lines(self) -> list[str]:
        """The report for people."""
        images = ", ".join(f"{name} {count:,}" for name, count in self.num_images.items())
        total = sum(self.num_images.values())
        lines = [
            f"store        {self.store}",
            f"fingerprint  {self.fingerprint}",
            f"source       {self.source} ({self.layout})",
            f"images       {images} in {self.num_classes:,} classes, {self.num_shards:,} shards",
            f"bytes        {self.source_bytes / 1e9:.2f} GB read, {self.store_bytes / 1e9:.2f} GB written"
            f" ({self.store_bytes / max(total, 1) / 1e3:.1f} KB an image)",
        ]
        if self.num_bad_images:
            lines.append(f"quarantine   {self.num_bad_images:,} images: {self.store}/{QUARANTINE_NAME}")
        lines += [f"passed over  {describe_passed_over(entry)}" for entry in self.passed_over]
        lines += [f"note         {note}" for note in self.notes]
        if self.num_shards_resumed:
            lines.append(f"resumed      {self.num_shards_resumed:,} shards were finished before")
        if self.num_shards_resumed < self.num_shards:
            lines.append(
                f"speed        {self.images_per_s:,.0f} images/s with {self.num_workers} workers,"
                f" {self.elapsed_s:.1f} s, at most {self.peak_worker_memory_bytes / 1e6:,.0f} MB a worker"
            )
            spent = asdict(self.worker_seconds)
            whole = max(sum(spent.values()), 1e-9)
            lines.append("time         " + ", ".join(f"{name} {value / whole:.0%}" for name, value in spent.items()))
        return lines


def describe_passed_over(entry: PassedOver) -> str:
    """``1,204 not an image by its name: train/n01440764/boxes.txt, ...``."""
    named = ", ".join(printable(name) for name in entry.examples[:_NUM_NAMED])
    return f"{entry.count:,} {entry.reason}: {named}{', ...' if entry.count > _NUM_NAMED else ''}"


def write_report(store: Path, report: RunReport) -> None:
    write_whole(store / REPORT_NAME, json.dumps(asdict(report), indent=1) + "\n")


def write_quarantine(store: Path, bad_images: Sequence[BadImage]) -> None:
    """Writes a line of JSON for each image that could not be used."""
    write_whole(store / QUARANTINE_NAME, "".join(json.dumps(asdict(bad)) + "\n" for bad in bad_images))

"""Measurements as they were taken: one JSON line each, so that a run that was cut short goes on where it stopped."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Phase = Literal["search", "round"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One entry's process, from start to end."""

    phase: Phase
    entry: str
    workers: int
    round: int
    busy: float
    """Share of the processors that others used in the moment before it began, 0 to 1."""
    error: str | None = None
    figures: dict[str, float] = field(default_factory=dict)
    """As benchmarks.peers.measure reports them, and what the check found."""

    @property
    def images_per_s(self) -> float:
        return self.figures["images_per_s"]


class Journal:
    """The samples of one run, kept in a file."""

    def __init__(self, path: Path, settings: dict[str, object]) -> None:
        """Goes on with ``path`` if it was begun with the same ``settings``, and begins anew otherwise."""
        self._path = path
        self.samples: list[Sample] = []
        first = json.dumps(settings, sort_keys=True)
        lines = path.read_text().splitlines() if path.exists() else []
        if lines and lines[0] == first:
            self.samples = [Sample(**json.loads(line)) for line in lines[1:]]
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(first + "\n")

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(sample)) + "\n")

    def forget(self, entries: set[str]) -> None:
        """Drops the samples of ``entries``, so that they are taken again."""
        first = self._path.read_text().splitlines()[0]
        kept = [sample for sample in self.samples if sample.entry not in entries]
        self._path.write_text(first + "\n")
        self.samples = []
        for sample in kept:
            self.add(sample)

    def find(
        self, phase: Phase, entry: str, workers: int | None = None, round_number: int | None = None
    ) -> list[Sample]:
        return [
            sample
            for sample in self.samples
            if sample.phase == phase
            and sample.entry == entry
            and workers in (None, sample.workers)
            and round_number in (None, sample.round)
        ]

    def close(self) -> None:
        """Keeps the finished run beside the next one."""
        self._path.replace(self._path.with_name(f"last-{self._path.name}"))

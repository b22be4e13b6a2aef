"""Every peer and ours on the same images, interleaved in one run: a table, a JSON file and a bar chart.

    scripts/bench                       # builds the environments, then runs this
    python -m benchmarks.compare --bench-dir bench-envs --only ours-grpc,tf-data --rounds 3
    python -m benchmarks.compare --bench-dir bench-envs --only '*-resized*,ours-pipeline-1,ours-shm,ours-grpc'

Each measurement is a process of its own that sets up, warms up, takes batches of 128 for some seconds and ends. First
each entry is tried for a moment with each of its worker counts; then, round after round, every entry takes its turn
with its best. Ratios are of pairs within a round. Every measurement's crops are checked: a failed check is a failed
measurement. Progress is kept in BENCH_DIR/journal.jsonl: the same command goes on where it was stopped.
"""

import argparse
import fnmatch
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.comparison.chart import bar_chart
from benchmarks.comparison.crops import check
from benchmarks.comparison.entries import Entry, entries
from benchmarks.comparison.images import make_images, mean_image_bytes
from benchmarks.comparison.samples import Journal, Phase, Sample
from benchmarks.comparison.table import markdown, put_into, results

ROOT = Path(__file__).resolve().parent.parent
_TIMEOUT_S = 120.0
_PREPARE_TIMEOUT_S = 600.0
_SEARCH_S = 1.5
_LOOK_S = 0.3


class Comparison:
    """One run: where it works, what it has measured, and how an entry's process is started."""

    def __init__(self, bench_dir: Path, journal: Journal, warmup_s: float) -> None:
        self._bench_dir = bench_dir
        self._data = bench_dir / "data"
        self._journal = journal
        self._warmup_s = warmup_s
        self.skipped: dict[str, str] = {}
        """Why an entry takes no part, by its name."""

    def prepare(self, entry: Entry) -> None:
        """Makes the images' form that the entry reads, once. What fails is skipped, with the reason."""
        reason = self._missing(entry)
        done = self._data / "formats" / f".{entry.images}.done"
        if reason is None and entry.images is not None and not done.exists():
            reason = self._command(entry, "prepare", [], _PREPARE_TIMEOUT_S)[1]
            if reason is None:
                done.touch()
        if reason is not None:
            self.skipped[entry.name] = reason
            print(f"{entry.name}: skipped: {reason}", flush=True)

    def search(self, entry: Entry) -> None:
        """Tries each number of workers for a moment; what was tried before is not tried again."""
        for workers in entry.workers if len(entry.workers) > 1 else ():
            if not self._journal.find("search", entry.name, workers):
                self._measure(entry, "search", workers, 0, _SEARCH_S)

    def take_turn(self, entry: Entry, round_number: int, seconds: float) -> None:
        """One measurement with the best number of workers."""
        if self._journal.find("round", entry.name, None, round_number):
            return
        found = [sample for sample in self._journal.find("search", entry.name) if sample.error is None]
        best = max(found, key=lambda sample: sample.images_per_s).workers if found else entry.workers[0]
        self._measure(entry, "round", best, round_number, seconds)

    def _measure(self, entry: Entry, phase: Phase, workers: int, round_number: int, seconds: float) -> None:
        busy = _busy_share(_LOOK_S)
        figures: dict[str, float] = {}
        with tempfile.TemporaryDirectory(dir=self._bench_dir) as scratch:
            sample = Path(scratch) / "sample.npz"
            times = ["--seconds", f"{seconds}", "--warmup-s", f"{self._warmup_s}"]
            options = ["--workers", f"{workers}", *times, "--sample", str(sample)]
            out, error = self._command(entry, "run", options, _TIMEOUT_S)
            if error is None:
                figures = json.loads(out.splitlines()[-1])
                error = self._checked(entry, sample, figures)
        taken = Sample(
            phase=phase, entry=entry.name, workers=workers, round=round_number, busy=busy, error=error, figures=figures
        )
        self._journal.add(taken)
        told = f"failed: {error}" if error else f"{taken.images_per_s:,.0f} images/s"
        print(f"{phase} {round_number} {entry.name} ({workers} workers): {told}", flush=True)

    def _checked(self, entry: Entry, sample: Path, figures: dict[str, float]) -> str | None:
        """The reason why the delivered crops are not what they should be; what was found goes into ``figures``."""
        with np.load(sample, allow_pickle=False) as arrays:
            images, indices = arrays["images"], arrays["indices"]
        try:
            found = check(images, indices, self._data, mirrors=entry.mirrors, is_resized=entry.part == "resized")
        except ValueError as error:
            return f"wrong crops: {error}"
        figures |= {"mirrored": found.mirrored, "mean_level": found.mean_level, "difference": found.worst_difference}
        return None

    def _missing(self, entry: Entry) -> str | None:
        if entry.environment is None:
            return None
        environment = self._bench_dir / "envs" / entry.environment
        failed = environment.with_name(f"{entry.environment}.failed")
        if failed.exists():
            return f"cannot be built here: {failed.read_text().strip()}"
        return None if (environment / ".built").exists() else "its environment has not been built (scripts/bench)"

    def _command(self, entry: Entry, command: str, options: Sequence[str], timeout_s: float) -> tuple[str, str | None]:
        """Runs an entry's program: its output, and the reason if it failed."""
        python = sys.executable
        environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_WAIT_POLICY="PASSIVE")
        if entry.environment is not None:
            python = str(self._bench_dir / "envs" / entry.environment / "bin" / "python")
            unpacked = self._bench_dir / "debs" / "root" / "usr" / "lib" / f"{os.uname().machine}-linux-gnu"
            if unpacked.exists():
                environment["LD_LIBRARY_PATH"] = str(unpacked)
        arguments = [python, "-m", f"benchmarks.peers.{entry.module}", command, "--data", str(self._data)]
        log = self._bench_dir / "logs" / f"{entry.name}-{command}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as errors:
            process = subprocess.Popen(
                [*arguments, "--variant", entry.variant, *options],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
            try:
                out, _ = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                return "", f"no result in {timeout_s:g} s; see {log}"
            finally:
                _end_session(process)
        if process.returncode != 0:
            told = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            return out, f"exit code {process.returncode}: {told[-1].strip()[:200] if told else 'no message'}"
        return out, None


def _end_session(process: subprocess.Popen[str]) -> None:
    """Ends what a measurement has left behind: everything of its session, which is its own."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
                if session == process.pid:
                    os.kill(int(entry.name), 9)
            except OSError:
                continue
    process.wait()


def _busy_share(seconds: float) -> float:
    """Share of the processors' time that is used, or taken by other guests of the host, during so many seconds."""

    def read() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]  # all; idle and waiting for a disk

    total, idle = read()
    time.sleep(seconds)
    total_after, idle_after = read()
    return 1 - (idle_after - idle) / max(total_after - total, 1)


def main() -> int:
    """Runs until done, Ctrl-C or SIGTERM; the measurement under way is ended, those taken are kept."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        compare()
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except ValueError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    return 0


def compare() -> None:
    """The whole comparison, as the command line asks for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench-dir", type=Path, default=Path(os.environ.get("ALEXNET_BENCH_DIR", "bench-envs")))
    parser.add_argument("--images", type=int, default=8192, help="stored training images (default: 8192)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each entry (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each (default: 3)")
    parser.add_argument("--warmup-s", type=float, default=1.0, help="what is not counted of it (default: 1)")
    parser.add_argument("--only", default="", help="entries to run, comma-separated, * for any (default: all)")
    parser.add_argument("--again", default="", help="entries to measure again in a run that was cut short")
    parser.add_argument("--out", type=Path, default=None, help="folder for performance.json, .svg and the table")
    options = parser.parse_args()
    bench_dir = options.bench_dir.resolve()
    bench_dir.mkdir(parents=True, exist_ok=True)
    photos = os.environ.get("ALEXNET_TEST_DATA")
    all_entries = entries()
    names = [entry.name for entry in all_entries]
    wanted, again = ([each for each in text.split(",") if each] for text in (options.only, options.again))
    if unknown := [each for each in wanted + again if not fnmatch.filter(names, each)]:
        parser.error(f"expected entries out of {', '.join(names)}; found {', '.join(unknown)}")
    chosen = [e for e in all_entries if not wanted or any(fnmatch.fnmatch(e.name, each) for each in wanted)]

    print("making the stored images", flush=True)
    kind = make_images(bench_dir / "data", options.images, Path(photos) if photos else None)
    settings = {"images": kind, "seconds": options.seconds, "warmup_s": options.warmup_s}
    journal = Journal(bench_dir / "journal.jsonl", settings)
    journal.forget({name for each in again for name in fnmatch.filter(names, each)})
    comparison = Comparison(bench_dir, journal, options.warmup_s)
    started = time.time()
    for entry in chosen:
        comparison.prepare(entry)
    running = [entry for entry in chosen if entry.name not in comparison.skipped]
    for entry in running:
        comparison.search(entry)
    for number in range(options.rounds):
        # Each round starts elsewhere, so that no entry always follows the same one.
        first = number * 5 % max(len(running), 1)
        for entry in running[first:] + running[:first]:
            comparison.take_turn(entry, number, options.seconds)

    document = results(chosen, journal.samples, comparison.skipped)
    document["settings"] = {
        **settings,
        "rounds": options.rounds,
        "mean_jpeg_bytes": mean_image_bytes(bench_dir / "data"),
    }
    document["wall_minutes"] = round((time.time() - started) / 60, 1)
    out = options.out or bench_dir
    out.mkdir(parents=True, exist_ok=True)
    (out / "performance.json").write_text(json.dumps(document, indent=1) + "\n")
    (out / "performance.svg").write_text(bar_chart(document))
    put_into(out / "performance.md", markdown(document))
    print(markdown(document))
    journal.close()


if __name__ == "__main__":
    sys.exit(main())

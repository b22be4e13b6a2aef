"""A soak: three replicas are killed, stopped, restarted at random while one client reads epoch after epoch.

    python -m benchmarks.loader_soak STORE --minutes 20 --out docs/soak

Every epoch's digest is compared with that of an undisturbed service; memory, file descriptors and threads of the client
(this process) and of the replicas are sampled every two seconds. Writes OUT.json and OUT.svg; exits with 1 if a
digest differs.
"""

import argparse
import json
import os
import random
import re
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from loader_service.client import ClientOptions, LoaderClient, StreamSpec, Transport
from loader_service.commands.digest import StreamDigest
from tests.processes import LoaderProcess, free_port
from trainer.report.charts import Line, line_chart

SPEC = StreamSpec(batch_size=64, seed=5, drop_last=False)
SAMPLE_S = 2.0


@dataclass
class Samples:
    """What was seen, and what was done."""

    times_s: list[float] = field(default_factory=list)
    client_mb: list[float] = field(default_factory=list)
    client_files: list[int] = field(default_factory=list)
    client_threads: list[int] = field(default_factory=list)
    replica_mb: list[float] = field(default_factory=list)
    replica_files: list[int] = field(default_factory=list)
    replica_threads: list[int] = field(default_factory=list)
    kills: int = 0
    stalls: int = 0
    restarts: int = 0
    epochs: int = 0
    images: int = 0
    wrong_digests: list[int] = field(default_factory=list)


def watch(pid: int) -> tuple[float, int, int]:
    """Resident memory in MB, shared memory included and the mapped store not; open files and threads of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = {name: int(value) for name, value in re.findall(r"(\w+):\s+(\d+)", status)}
    return (found["RssAnon"] + found["RssShmem"]) / 1e3, len(os.listdir(f"/proc/{pid}/fd")), found["Threads"]


def disturb(replicas: list[LoaderProcess], samples: Samples, stop: threading.Event, dice: random.Random) -> None:
    """Replica 0 is left in peace, so that its memory can be watched over the whole time."""
    while not stop.wait(dice.uniform(2.0, 6.0)):
        replica = dice.choice(replicas[1:])
        what = dice.choice(["kill", "stall", "restart"])
        if what == "stall":
            samples.stalls += 1
            replica.send(signal.SIGSTOP)
            stop.wait(dice.uniform(0.5, 8.0))
            replica.send(signal.SIGCONT)
            continue
        if what == "kill":
            samples.kills += 1
            replica.send(signal.SIGKILL)
        else:
            samples.restarts += 1
            replica.send(signal.SIGTERM)
        replica.wait()
        stop.wait(dice.uniform(0.0, 3.0))
        replica.start()


def sample(replica: LoaderProcess, samples: Samples, stop: threading.Event) -> None:
    started = time.monotonic()
    while not stop.wait(SAMPLE_S):
        samples.times_s.append(time.monotonic() - started)
        for prefix, pid in (("client", os.getpid()), ("replica", replica.pid)):
            for name, value in zip(("mb", "files", "threads"), watch(pid), strict=True):
                getattr(samples, f"{prefix}_{name}").append(value)


def digest(
    targets: list[str], epoch: int, transport: Transport = "auto", images_per_s: float | None = None
) -> tuple[str, int]:
    """The digest of an epoch, read at most so fast."""
    result = StreamDigest()
    options = ClientOptions(stall_timeout_s=2.0, transport=transport)
    with LoaderClient(targets, options) as client, client.stream(SPEC, epoch=epoch) as stream:
        for batch in stream:
            result.add(batch)
            if images_per_s:
                time.sleep(batch.num_images / images_per_s)
    return result.hexdigest(), result.num_images


def draw(samples: Samples, title: str) -> str:
    minutes = [t / 60 for t in samples.times_s]
    lines = [
        Line(name=name, points=list(zip(minutes, values, strict=True)))
        for name, values in (
            ("replica MB", samples.replica_mb),
            ("client MB", samples.client_mb),
            (
                "replica files + threads",
                [a + b for a, b in zip(samples.replica_files, samples.replica_threads, strict=True)],
            ),
            (
                "client files + threads",
                [a + b for a, b in zip(samples.client_files, samples.client_threads, strict=True)],
            ),
        )
    ]
    return line_chart(title, "minutes", lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--images-per-s", type=float, default=600.0, help="how fast the client reads, at most")
    parser.add_argument("--out", type=Path, default=Path("soak"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    samples, stop = Samples(), threading.Event()
    replicas = [LoaderProcess(options.store, "--share-bytes", "0", port=free_port()) for _ in range(3)]
    threads = [
        threading.Thread(target=disturb, args=(replicas, samples, stop, random.Random(options.seed))),
        threading.Thread(target=sample, args=(replicas[0], samples, stop)),
    ]
    deadline = time.monotonic() + 60 * options.minutes
    try:
        expected = [digest([replicas[0].target], epoch)[0] for epoch in range(3)]
        for thread in threads:
            thread.start()
        while time.monotonic() < deadline:
            epoch = samples.epochs % 3
            # By turns through shared memory and through sockets.
            transport: Transport = "grpc" if samples.epochs % 2 else "auto"
            targets = [replica.target for replica in replicas]
            found, num_images = digest(targets, epoch, transport, options.images_per_s)
            if found != expected[epoch]:
                samples.wrong_digests.append(samples.epochs)
            samples.epochs += 1
            samples.images += num_images
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for replica in replicas:
            replica.end()
    title = f"Soak, {options.minutes:g} minutes"
    done = f"{samples.kills} kills, {samples.stalls} stalls, {samples.restarts} restarts"
    options.out.with_suffix(".json").write_text(json.dumps(asdict(samples)) + "\n")
    options.out.with_suffix(".svg").write_text(draw(samples, title))
    print(
        f"{title}: {done}; {samples.epochs} epochs, {samples.images:,} images, "
        f"{len(samples.wrong_digests)} wrong digests"
    )
    return 1 if samples.wrong_digests else 0


if __name__ == "__main__":
    sys.exit(main())

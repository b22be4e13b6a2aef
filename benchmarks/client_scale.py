"""One client of many replicas: interleaved rounds, medians, ratios within the run, JSON on stdout.

python -m benchmarks.client_scale window STORE    the window that finds its size, against fixed ones
python -m benchmarks.client_scale clients STORE   one client, against four that share the same processes
python -m benchmarks.client_scale copy STORE      batches of their own, against batches that are slots (shared memory)
python -m benchmarks.client_scale finish STORE    RemoteLoader: finished here, finished by the service, and uint8
python -m benchmarks.client_scale mute STORE      the first batch, when two of three addresses say nothing
"""

import argparse
import itertools
import json
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loader_service.client import ClientOptions, LoaderClient, StreamSpec
from loader_service.commands.bench import measure
from loader_service.torch_adapter import RemoteLoader
from tests.processes import loader_processes


@dataclass(frozen=True)
class Run:
    """What the command line says."""

    store: Path
    processes: int
    rounds: int
    duration_s: float


Result = dict[str, Any]


def in_turns(run: Run, entries: dict[str, Callable[[], Result]]) -> dict[str, Result]:
    """Measures each entry once a round. The median of each number, and of its ratio to the first entry's."""
    found: dict[str, list[Result]] = defaultdict(list)
    for _ in range(run.rounds):
        for name, measured in entries.items():
            found[name].append(measured())
    first = next(iter(entries))
    summary: dict[str, Result] = {}
    for name, results in found.items():
        summary[name] = {key: statistics.median(result[key] for result in results) for key in results[0]}
        pairs = zip(results, found[first], strict=True)
        summary[name]["ratio"] = statistics.median(a["images_per_s"] / b["images_per_s"] for a, b in pairs)
    return summary


def stream_rate(run: Run, targets: list[str], **options: Any) -> Result:
    with LoaderClient(targets, ClientOptions(**options)) as client:
        result = measure(client, StreamSpec(seed=1), epoch=0, duration_s=run.duration_s, warmup_s=1.0)
    return {"images_per_s": result.images_per_s, "client_us": result.client_cpu_s_per_1000_images * 1e3}


def window(run: Run) -> dict[str, Any]:
    with loader_processes(run.store, run.processes, "--threads", "1") as replicas:
        targets = [replica.target for replica in replicas]
        entries: dict[str, Callable[[], Result]] = {}
        for transport in ("grpc", "shm"):
            for steps in (None, 8, 4 * run.processes, 8 * run.processes, 16 * run.processes):
                entries[f"{transport}, {steps or 'auto'}"] = partial(
                    stream_rate, run, targets, transport=transport, prefetch_steps=steps
                )
        return in_turns(run, entries)


def clients(run: Run) -> dict[str, Any]:
    with loader_processes(run.store, run.processes, "--threads", "1") as replicas:
        targets = ",".join(replica.target for replica in replicas)

        def together(count: int) -> Result:
            command = [sys.executable, "-m", "loader_service", "bench", "--json", "--target", targets]
            command += ["--duration-s", str(run.duration_s)]
            with ExitStack() as stack:
                running = [
                    stack.enter_context(
                        subprocess.Popen([*command, "--seed", str(seed)], stdout=subprocess.PIPE, text=True)
                    )
                    for seed in range(count)
                ]
                answers = [json.loads(process.communicate()[0]) for process in running]
            return {"images_per_s": sum(answer["images_per_s"] for answer in answers)}

        return in_turns(run, {"four clients": lambda: together(4), "one client": lambda: together(1)})


def copy(run: Run) -> dict[str, Any]:
    with loader_processes(run.store, run.processes, "--threads", "1", "--message-bytes", "20MB") as replicas:
        targets = [replica.target for replica in replicas]
        return in_turns(
            run,
            {
                "copied": lambda: stream_rate(run, targets, transport="shm"),
                "slots": lambda: stream_rate(run, targets, transport="shm", copy=False),
            },
        )


def finish(run: Run) -> dict[str, Any]:
    with loader_processes(run.store, run.processes, "--threads", "1") as replicas:
        target = ",".join(replica.target for replica in replicas)

        def rate(**options: Any) -> Result:
            loader = RemoteLoader(target, seed=1, **options)
            batches = (images for _ in itertools.count() for images, _ in loader)
            next(batches)
            num_images, started = 0, time.monotonic()
            while (took_s := time.monotonic() - started) < run.duration_s:
                num_images += len(next(batches))
            batches.close()
            loader.close()
            return {"images_per_s": num_images / took_s}

        return in_turns(
            run,
            {
                "float32, finished by the service": lambda: rate(pixel_format="float32"),
                "float32, finished here (the default)": rate,
                "uint8": lambda: rate(pixel_format="uint8"),
            },
        )


def mute(run: Run) -> dict[str, Any]:
    spec = StreamSpec(seed=1)
    with ExitStack() as stack:
        (replica,) = stack.enter_context(loader_processes(run.store, 1))
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        targets = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in silent] + [replica.target]
        took: dict[str, list[float]] = {"alone": [], "behind two mute ones": []}
        for _ in range(run.rounds):
            for name, chosen in (("alone", targets[2:]), ("behind two mute ones", targets)):
                started = time.monotonic()
                with LoaderClient(chosen) as client, client.stream(spec) as stream:
                    next(stream)
                    took[name].append(time.monotonic() - started)
    return {f"first batch, {name}, s": statistics.median(values) for name, values in took.items()}


MEASURES = {"window": window, "clients": clients, "copy": copy, "finish": finish, "mute": mute}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("store", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--duration-s", type=float, default=15.0, help="long against what a window holds (default: 15)")
    options = parser.parse_args()
    run = Run(options.store, options.processes, options.rounds, options.duration_s)
    print(json.dumps(MEASURES[options.measure](run), indent=1))


if __name__ == "__main__":
    main()

"""How the service behaves under conditions: one run each, ratios within the run, JSON on stdout.

python -m benchmarks.loader_conditions stragglers STORE     one of three replicas ten times slower
python -m benchmarks.loader_conditions backpressure STORE   a client that stops reading for a minute
python -m benchmarks.loader_conditions sharing STORE        four trainers of one stream against one
python -m benchmarks.loader_conditions scale FOLDER         a store of 1.28 M tiny images, made there
"""

import argparse
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import simplejpeg

from benchmarks.drawn_store import write_drawn_store
from loader_service.client import ClientOptions, LoaderClient, StreamSpec
from loader_service.pipeline.order import epoch_order
from loader_service.pipeline.pipeline import pipeline_version
from loader_service.v1 import loader_pb2 as pb
from preprocess.store import ImageSpec, Store
from tests.processes import LoaderProcess, loader_processes


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Resident memory of a process without the mapped store."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) / 1e3


def rate(targets: list[str], seconds: float, *, batch_size: int = 64) -> float:
    """Images a second of one client that reads as fast as it can."""
    options = ClientOptions(prefetch_steps=16)
    with LoaderClient(targets, options) as client:
        with client.stream(StreamSpec(batch_size=batch_size), num_epochs=None) as stream:
            for _ in range(20):
                next(stream)
            images, started = 0, time.monotonic()
            while time.monotonic() - started < seconds:
                images += next(stream).num_images
            return images / (time.monotonic() - started)


def stragglers(store: Path) -> dict[str, Any]:
    """SIGSTOP and SIGCONT let one of three replicas run a tenth of the time."""
    with loader_processes(store, 3, "--threads", "1") as servers:
        targets = [server.target for server in servers]
        undisturbed, disturbed = [], []
        for _ in range(3):
            undisturbed.append(rate(targets, 5.0))
            stop = threading.Event()
            slowing = threading.Thread(target=_slow_down, args=(servers[0], stop))
            slowing.start()
            disturbed.append(rate(targets, 5.0))
            stop.set()
            slowing.join()
        without = [rate(targets[1:], 5.0) for _ in range(2)]
    return {
        "undisturbed_images_per_s": undisturbed,
        "one_ten_times_slower_images_per_s": disturbed,
        "two_only_images_per_s": without,
        "ratio": float(np.median(disturbed) / np.median(undisturbed)),
    }


def _slow_down(server: LoaderProcess, stop: threading.Event) -> None:
    while not stop.is_set():
        server.send(signal.SIGSTOP)
        time.sleep(0.09)
        server.send(signal.SIGCONT)
        time.sleep(0.01)


def backpressure(store: Path) -> dict[str, Any]:
    """Eight requests of 64 steps are opened, read from once, and left for a minute, while another client reads."""
    server = LoaderProcess(store, "--share-bytes", "0")
    try:
        alone = rate([server.target], 10.0)
        before = resident_mb(server.pid)
        with grpc.insecure_channel(server.target, [("grpc.max_receive_message_length", -1)]) as channel:
            with Store(store) as opened:
                request = pb.StreamBatchesRequest(
                    fingerprint=opened.fingerprint,
                    pipeline_version=pipeline_version("jpeg"),
                    split="train",
                    view=pb.VIEW_TRAIN,
                    shuffle=True,
                    seed=99,
                    batch_size=min(512, opened.split("train").num_images // 2),
                    last_step=2,
                )
            ask: Any = channel.unary_stream(
                "/loader_service.v1.LoaderService/StreamBatches",
                pb.StreamBatchesRequest.SerializeToString,
                lambda message: message,
            )
            calls = [ask(request) for _ in range(8)]
            for call in calls:
                next(call)
            stalled, most, started = [], 0.0, time.monotonic()
            while time.monotonic() - started < 60.0:
                stalled.append(rate([server.target], 8.0))
                most = max(most, resident_mb(server.pid))
            for call in calls:
                call.cancel()
        bound = 8 * 4 * 4.9  # streams * (threads + 2) * message
    finally:
        server.end()
    return {
        "stalled_streams": 8,
        "resident_mb_before": before,
        "resident_mb_most": most,
        "bound_mb_for_stalled_streams": bound,
        "other_client_images_per_s": {"alone": alone, "beside_stalled": stalled},
        "ratio": float(np.median(stalled) / alone),
    }


def sharing(store: Path) -> dict[str, Any]:
    """Server CPU seconds for one epoch read by one client, and by four at once."""
    result: dict[str, Any] = {}
    for num_clients in (1, 4, 1, 4):
        server = LoaderProcess(store)
        try:
            barrier = threading.Barrier(num_clients)
            readers = [threading.Thread(target=_read_epoch, args=(server.target, barrier)) for _ in range(num_clients)]
            before = cpu_s(server.pid)
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            result.setdefault(f"server_cpu_s_{num_clients}_clients", []).append(cpu_s(server.pid) - before)
        finally:
            server.end()
    result["ratio"] = float(np.median(result["server_cpu_s_4_clients"]) / np.median(result["server_cpu_s_1_clients"]))
    return result


def _read_epoch(target: str, barrier: threading.Barrier) -> None:
    with LoaderClient([target]) as client:
        client.describe()
        barrier.wait()
        with client.stream(StreamSpec(batch_size=128)) as stream:
            for _ in stream:
                pass


def scale(folder: Path) -> dict[str, Any]:
    """A store of as many records as ImageNet, of 8x8 pixels: opening it, first batch, and the epoch's border."""
    num_images, per_shard, side = 1_281_167, 1024, 8
    store = folder / "scale-store"
    if not (store / "manifest.json").exists():
        _write_many(store, num_images, per_shard, side)
    orders = {}
    for n in (num_images, 14_200_000):
        started = time.monotonic()
        epoch_order(n, 1, 0)
        orders[f"{n}"] = time.monotonic() - started
    started = time.monotonic()
    server = LoaderProcess(store)
    opened_s = time.monotonic() - started
    try:
        firsts = []
        spec = StreamSpec(batch_size=128)
        for epoch in (0, 0, 7):
            started = time.monotonic()
            with LoaderClient([server.target]) as client, client.stream(spec, epoch=epoch) as stream:
                next(stream)
                firsts.append(time.monotonic() - started)
        last_step = spec.num_steps(num_images) - 40
        waits = []
        with LoaderClient([server.target]) as client:
            with client.stream(spec, step=last_step, num_epochs=2) as stream:
                for _ in range(80):
                    started = time.monotonic()
                    batch = next(stream)
                    waits.append((batch.epoch, batch.step, time.monotonic() - started))
        border = max(wait for epoch, step, wait in waits if epoch == 1 and step < 4)
        server_mb = resident_mb(server.pid)
    finally:
        server.end()
    return {
        "num_images": num_images,
        "epoch_order_s": orders,
        "process_start_and_open_s": opened_s,
        "first_batch_s": {"new_process": firsts[0], "again": firsts[1], "another_epoch": firsts[2]},
        "wait_ms": {
            "median": float(np.median([w for _, _, w in waits[10:]])) * 1e3,
            "epoch_border_most": border * 1e3,
        },
        "server_resident_mb": server_mb,
    }


def _write_many(store: Path, num_images: int, per_shard: int, side: int) -> None:
    generator = np.random.default_rng(0)
    images = [
        bytes(simplejpeg.encode_jpeg(generator.integers(0, 256, (side, side, 3), np.uint8), 90, "RGB", "420"))
        for _ in range(64)
    ]
    spec = ImageSpec(side=side, quality=90)
    write_drawn_store(store, images, spec, num_images=num_images, per_shard=per_shard)


CONDITIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "stragglers": stragglers,
    "backpressure": backpressure,
    "sharing": sharing,
    "scale": scale,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("condition", choices=CONDITIONS)
    parser.add_argument("path", type=Path)
    options = parser.parse_args()
    print(json.dumps(CONDITIONS[options.condition](options.path), indent=1))


if __name__ == "__main__":
    main()

"""A guard against slowing down: processor time of our pipeline and service against a plain loop, in one process.

    scripts/bench --quick       # exits with 1 when a ratio is below its floor

The plain loop decodes and crops the same images on one thread, and nothing else. It, the pipeline and the whole service
(server and client in this process) take turns for as long as the run lasts; each ratio is the median over the turns of
(the loop's processor time an image) / (ours). Processor time, not the clock: other programs on the machine slow both
alike, and a turn that waits costs nothing. What the clock says is printed for information. The floors are a tenth below
what was seen on a busy machine (a load of four times its cores).
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from benchmarks.drawn_store import write_drawn_store
from loader_service.client import ClientOptions, Limits, LoaderClient, StreamSpec
from loader_service.pipeline.pipeline import Pipeline
from loader_service.server.server import LoaderServer
from preprocess.store import ImageSpec, Store

SIDE, CROP, BATCH_SIZE, NUM_IMAGES = 256, 224, 64, 256
NUM_TURN_IMAGES = 2 * NUM_IMAGES
MIN_TURNS = 6
MESSAGE_BYTES = 4_900_000
FLOORS = {"pipeline": 0.85, "service, gRPC": 0.6, "service, shared memory": 0.65}
_LIMITS = Limits(
    max_batch_size=1024, max_steps=64, message_bytes=MESSAGE_BYTES, max_streams_per_identity=64, max_streams=64
)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an image cost, in microseconds."""

    cpu_us: float
    clock_us: float


def draw_image(seed: int) -> npt.NDArray[np.uint8]:
    """A picture with detail at every scale, uint8 [256, 256, 3]: about as many bytes as a photograph."""
    generator = np.random.default_rng(seed)
    image = np.full((SIDE, SIDE, 3), 128, np.float32)
    for octave in range(2, 9):
        coarse = generator.normal(0, 1, (1 << octave, 1 << octave, 3)).astype(np.float32)
        grey = coarse.mean(2, keepdims=True)
        image += 90 / (octave + 1) * cv2.resize(0.5 * coarse + grey, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_store(path: Path) -> list[bytes]:
    """A store of drawn images; returns its JPEGs."""
    images = [bytes(simplejpeg.encode_jpeg(draw_image(i), 95, "RGB", "420")) for i in range(NUM_IMAGES)]
    write_drawn_store(path, images, ImageSpec(side=SIDE), num_images=NUM_IMAGES, per_shard=NUM_IMAGES)
    return images


def loop(images: list[bytes]) -> None:
    """The plain loop over NUM_TURN_IMAGES images."""
    generator = np.random.default_rng(0)
    buffer = np.empty((SIDE, SIDE, 3), np.uint8)
    order = itertools.cycle(images)
    for _ in range(NUM_TURN_IMAGES // BATCH_SIZE):
        batch = np.empty((BATCH_SIZE, CROP, CROP, 3), np.uint8)
        draws = generator.integers(0, SIDE - CROP + 1, (BATCH_SIZE, 3)).tolist()
        for out, (top, left, mirror) in zip(batch, draws, strict=True):
            pixels = simplejpeg.decode_jpeg(next(order), buffer=buffer)
            window = pixels[top : top + CROP, left : left + CROP]
            if mirror % 2:
                cv2.flip(window, 1, dst=out)
            else:
                np.copyto(out, window)


def run_pipeline(pipeline: Pipeline) -> None:
    """The decode pipeline without transport, over NUM_TURN_IMAGES images."""
    for epoch in range(NUM_TURN_IMAGES // NUM_IMAGES):
        spec = StreamSpec(crop_size=CROP, batch_size=BATCH_SIZE)
        wanted = spec.steps(0, NUM_IMAGES // BATCH_SIZE, epoch=epoch)
        for _ in pipeline.messages(wanted):
            pass


def run_service(client: LoaderClient) -> None:
    """Server and client, over NUM_TURN_IMAGES images."""
    num_epochs = NUM_TURN_IMAGES // NUM_IMAGES
    with client.stream(StreamSpec(batch_size=BATCH_SIZE), num_epochs=num_epochs) as stream:
        num_images = sum(batch.num_images for batch in stream)
    assert num_images == NUM_TURN_IMAGES, f"expected {NUM_TURN_IMAGES} images, found {num_images}"


def turn(work: Callable[[], None]) -> Cost:
    """A turn does a fixed amount of work and leaves none behind: the processor time is the whole process's."""
    cpu_from, begin = time.process_time(), time.perf_counter()
    work()
    cpu_s, clock_s = time.process_time() - cpu_from, time.perf_counter() - begin
    return Cost(cpu_us=cpu_s / NUM_TURN_IMAGES * 1e6, clock_us=clock_s / NUM_TURN_IMAGES * 1e6)


def measure(seconds: float) -> dict[str, list[Cost]]:
    """The costs of every turn, by name; the first turns, which warm up, are left out."""
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        images = write_store(path)
        store = stack.enter_context(Store(path))
        pipeline = stack.enter_context(Pipeline(store, num_threads=1, message_bytes=MESSAGE_BYTES))
        server = stack.enter_context(LoaderServer(pipeline, "127.0.0.1:0", _LIMITS))
        target = [f"127.0.0.1:{server.port}"]
        grpc = stack.enter_context(LoaderClient(target, ClientOptions(transport="grpc")))
        shm = stack.enter_context(LoaderClient(target, ClientOptions(transport="shm")))
        work: dict[str, Callable[[], None]] = {
            "loop": lambda: loop(images),
            "pipeline": lambda: run_pipeline(pipeline),
            "service, gRPC": lambda: run_service(grpc),
            "service, shared memory": lambda: run_service(shm),
        }
        costs: dict[str, list[Cost]] = {name: [] for name in work}
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds or len(costs["loop"]) < MIN_TURNS:
            for name, run in work.items():
                costs[name].append(turn(run))
    return {name: taken[1:] for name, taken in costs.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=25.0, help="how long to measure (default: 25)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    costs = measure(options.seconds)
    failed = False
    document: dict[str, dict[str, float]] = {}
    for name, floor in FLOORS.items():
        pairs = list(zip(costs["loop"], costs[name], strict=True))
        ratio = statistics.median(plain.cpu_us / ours.cpu_us for plain, ours in pairs)
        clock = statistics.median(plain.clock_us / ours.clock_us for plain, ours in pairs)
        failed |= ratio < floor
        cost = statistics.median(ours.cpu_us for ours in costs[name])
        document[name] = {"ratio": ratio, "floor": floor, "cpu_us_per_image": cost, "clock_ratio": clock}
        if not options.json:
            verdict = "BELOW THE FLOOR" if ratio < floor else "ok"
            print(f"{name:24} {ratio:5.2f} of the plain loop (floor {floor:.2f}): {verdict:16}", end="")
            print(f"{cost:6.0f} us of processor time an image; by the clock {clock:.2f}")
    plain_us = statistics.median(cost.cpu_us for cost in costs["loop"])
    if options.json:
        print(json.dumps({"turns": len(costs["loop"]), "loop_cpu_us_per_image": plain_us, "results": document}))
    else:
        print(f"{'plain loop':24} {plain_us:.0f} us; {len(costs['loop'])} turns")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

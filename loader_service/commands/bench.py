"""``bench``: what a client gets from the service, and what receiving it costs."""

import time
from dataclasses import dataclass

import numpy as np

from loader_service.client import LoaderClient, StreamSpec


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """One measurement of a stream, its warm-up left out."""

    images: int
    seconds: float
    images_per_s: float
    megabytes_per_s: float
    first_batch_s: float
    """From the request, with no connection open, to the first batch."""
    latency_p50_ms: float
    """Time between batches, median."""
    latency_p99_ms: float
    client_cpu_s_per_1000_images: float
    """User and system time of this process, spent to receive 1,000 images into batches."""
    server_cpu_s_per_1000_images: float
    """User and system time of the replicas, whoever they served meanwhile."""


def measure(client: LoaderClient, spec: StreamSpec, *, epoch: int, duration_s: float, warmup_s: float) -> BenchResult:
    """Streams without end, as fast as batches come, and measures after the warm-up."""
    started = time.monotonic()
    intervals: list[float] = []
    images = size_bytes = 0
    with client.stream(spec, epoch=epoch, num_epochs=None) as stream:
        next(stream)
        first_batch_s = time.monotonic() - started
        while time.monotonic() - started < warmup_s:
            next(stream)
        server_cpu_from = client.server_cpu_s()
        measured_from = last = time.monotonic()
        cpu_from = time.process_time()
        while last - measured_from < duration_s:
            batch = next(stream)
            now = time.monotonic()
            intervals.append(now - last)
            last = now
            images += batch.num_images
            size_bytes += batch.images.nbytes
        cpu_s = time.process_time() - cpu_from
        server_cpu_s = client.server_cpu_s() - server_cpu_from
    seconds = last - measured_from
    return BenchResult(
        images=images,
        seconds=seconds,
        images_per_s=images / seconds,
        megabytes_per_s=size_bytes / seconds / 1e6,
        first_batch_s=first_batch_s,
        latency_p50_ms=float(np.percentile(intervals, 50)) * 1e3,
        latency_p99_ms=float(np.percentile(intervals, 99)) * 1e3,
        client_cpu_s_per_1000_images=cpu_s / images * 1e3,
        server_cpu_s_per_1000_images=server_cpu_s / images * 1e3,
    )

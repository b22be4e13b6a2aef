"""Ours: loader processes and a client in this process.

--variant TRANSPORT-STORE: ``grpc-jpeg``, ``grpc-raw``, ``grpc-yuv420`` and the same with ``shm``, from ``--workers``
processes of one thread each; ``slots-raw``, where batches are the slots of shared memory; ``grpc-cached`` (JPEG,
decoded images kept in memory) from one process with ``--workers`` threads, whose cache they share. ``pipeline-jpeg`` is
the decode pipeline without transport, in ``--workers`` processes.
A view may follow: ``shm-jpeg-resized_crop``.
"""

import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from benchmarks.peers.measure import BATCH_SIZE, CROP, Run, Stream, main
from loader_service.client import ClientOptions, LoaderClient, StreamSpec
from loader_service.pipeline.pipeline import Pipeline
from loader_service.wire.codec import unpack_part
from preprocess.store import Store

START_TIMEOUT_S = 60.0


@contextmanager
def batches(run: Run) -> Iterator[Stream]:
    transport, store, spec = parts_of(run.variant)
    if transport == "pipeline":
        with pipelines(run) as stream:
            yield stream
        return
    is_cached = store == "cached"
    folder = run.data / "stores" / ("jpeg" if is_cached else store)
    processes, threads = (1, run.workers) if is_cached else (run.workers, 1)
    command = [sys.executable, "-m", "loader_service", "serve", "--store", str(folder), "--listen", "127.0.0.1:0"]
    command += ["--processes", str(processes), "--threads", str(threads), "--log-level", "error"]
    command += ["--cache-bytes", str(1 << 34)] if is_cached else []
    are_slots = transport == "slots"
    command += ["--message-bytes", "20MB"] if are_slots else []  # a batch of 128 is one message
    client_options = ClientOptions(transport="shm", copy=False) if are_slots else ClientOptions(transport=transport)
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        targets = [server.stdout.readline().split()[-1] for _ in range(processes)]
        with LoaderClient(targets, client_options) as client:
            if is_cached:
                for batch in client.stream(replace(spec, shuffle=False, drop_last=False)):
                    del batch
            with client.stream(spec, num_epochs=None) as stream:
                yield ((batch.images, batch.indices) for batch in stream)
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def parts_of(variant: str) -> tuple[str, str, StreamSpec]:
    """Transport, store, and what is asked for."""
    transport, store, *view = variant.split("-")
    return transport, store, StreamSpec(view=view[0] if view else "train", batch_size=BATCH_SIZE)


@contextmanager
def pipelines(run: Run) -> Iterator[Stream]:
    """Batches are made in other processes, and only counted here: what arrives is the first one of each, repeated."""
    context = multiprocessing.get_context("spawn")
    made = context.Semaphore(0)
    end = context.Event()
    firsts = context.Queue()
    workers = [context.Process(target=make, args=(run, n, made, end, firsts)) for n in range(run.workers)]
    for worker in workers:
        worker.start()
    try:
        first = [firsts.get(timeout=START_TIMEOUT_S) for _ in workers]
        yield counted(made, first)
    finally:
        end.set()
        for worker in workers:
            worker.join(10)
            if worker.is_alive():
                worker.kill()


def counted(made, first: list) -> Stream:
    number = 0
    while True:
        if not made.acquire(timeout=START_TIMEOUT_S):
            raise TimeoutError("the pipeline made no batch")
        yield first[number % len(first)]
        number += 1


def make(run: Run, seed: int, made, end, firsts) -> None:
    """One process: messages of endless epochs, one thread."""
    spec = replace(parts_of(run.variant)[2], crop_size=CROP, seed=seed)
    with Store(run.data / "stores" / "jpeg") as store:
        size = spec.num_steps(store.split("train").num_images)
        # One message a step, so that a message is a batch.
        with Pipeline(store, num_threads=1, message_bytes=1 << 25) as pipeline:
            for epoch in range(1 << 30):
                wanted = spec.steps(0, size, epoch=epoch)
                for message in pipeline.messages(wanted):
                    if firsts is not None:
                        part, images = unpack_part(message.body)
                        firsts.put((images[:, 0].copy(), part.indices.copy()))
                        firsts = None
                    made.release()
                    if end.is_set():
                        return


if __name__ == "__main__":
    main(batches)

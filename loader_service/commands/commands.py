"""What each of the loader's commands does with its options."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import NoReturn

import grpc

from commandline import Command, Progress, print_line, run_program
from loader_service.client import LoaderClient, LoaderError
from loader_service.client.discovery import resolve
from loader_service.commands.bench import measure
from loader_service.commands.config import BenchConfig, DigestConfig, HealthcheckConfig, ServeConfig
from loader_service.commands.digest import StreamDigest
from loader_service.commands.picture_config import PreviewConfig, ShowConfig
from loader_service.commands.sweep import sweep
from preprocess.errors import StoreError


def serve_command(config: ServeConfig) -> NoReturn:
    from loader_service.commands.serve import serve

    os._exit(serve(config))  # see ``serve``; nothing is left in a buffer


def digest_command(config: DigestConfig) -> None:
    digest = StreamDigest()
    with LoaderClient(config.target, config.client_options) as client:
        description = client.describe()
        with (
            client.stream(config.spec, epoch=config.epoch) as stream,
            Progress("digest", description.splits[config.split], "images") as progress,
        ):
            for batch in stream:
                digest.add(batch)
                progress.advance(batch.num_images)
    if config.json:
        result = {
            "sha256": digest.hexdigest(),
            "num_images": digest.num_images,
            "fingerprint": description.fingerprint,
            "pipeline_version": description.pipeline_version,
            "split": config.split,
            "seed": config.seed,
            "epoch": config.epoch,
        }
        print(json.dumps(result))
    else:
        print(digest.hexdigest())


def bench_command(config: BenchConfig) -> None:
    if config.sweep:
        sweep(config)
        return
    with LoaderClient(config.target, config.client_options) as client:
        result = measure(
            client, config.spec, epoch=config.epoch, duration_s=config.duration_s, warmup_s=config.warmup_s
        )
    if config.json:
        print(json.dumps(asdict(result)))
        return
    print(f"{result.images_per_s:,.0f} images/s, {result.megabytes_per_s:,.0f} MB/s over {result.seconds:.1f} s")
    print(f"first batch after {result.first_batch_s:.3f} s")
    print(f"time between batches: p50 {result.latency_p50_ms:.1f} ms, p99 {result.latency_p99_ms:.1f} ms")
    print(
        f"CPU per 1,000 images: client {result.client_cpu_s_per_1000_images:.3f} s, "
        f"servers {result.server_cpu_s_per_1000_images:.3f} s"
    )


def preview_command(config: PreviewConfig) -> None:
    from loader_service.commands.preview import write_preview

    with LoaderClient(config.target, config.client_options) as client:
        write_preview(client, config.spec, epoch=config.epoch, count=config.count, draws=config.draws, out=config.out)
    print_line(json.dumps({"out": str(config.out)}) if config.json else f"wrote {config.out}")


def show_command(config: ShowConfig) -> None:
    from loader_service.commands.show import write_batch

    with LoaderClient(config.target, config.client_options) as client:
        shown = write_batch(client, config.spec, epoch=config.epoch, step=config.step, out=config.out)
    if config.json:
        print(json.dumps({"out": str(config.out), "images": [asdict(image) for image in shown]}))
        return
    for image in shown:
        print_line(f"{image.index}\t{image.label}\t{image.class_name}\t{image.name}")
    print_line(f"wrote {config.out}")


def healthcheck_command(config: HealthcheckConfig) -> int:
    security = config.client_options.security
    security.check()
    failed = []
    for target in config.target:
        replicas = resolve([target], security)
        if not replicas:
            failed.append(f"{target}: expected addresses of that name, found none")
        for replica in replicas.values():
            try:
                with replica.connect() as connection:
                    connection.check_health(config.timeout_s)
            except LoaderError as error:
                failed.append(str(error))
    if config.json:
        print(json.dumps({"healthy": not failed, "failures": failed}))
    elif failed:
        raise LoaderError("; ".join(failed))
    else:
        print("serving")
    return 1 if failed else 0


COMMANDS = (
    Command("serve", ServeConfig, serve_command, "serve a store over gRPC until SIGTERM"),
    Command(
        "digest",
        DigestConfig,
        digest_command,
        "print the SHA-256 of an epoch's stream",
        "Print the SHA-256 over index, label, crop and colour shift of every image of an epoch, in order. It depends\n"
        "on the store, the seed and the epoch alone: not on replicas, threads or batch size.",
    ),
    Command("preview", PreviewConfig, preview_command, "write a picture of augmented crops beside their originals"),
    Command(
        "show",
        ShowConfig,
        show_command,
        "write a picture of one step's batch, with labels and file names",
        "Draw exactly the batch of a step, each crop with its label and the name that its image had in the source,\n"
        "and print these line by line: what the network saw.",
    ),
    Command("bench", BenchConfig, bench_command, "measure throughput, latency and the client's cost"),
    Command("healthcheck", HealthcheckConfig, healthcheck_command, "exit 0 if every target is serving: for probes"),
)


def run(argv: Sequence[str] | None) -> int:
    """Runs a command and returns its exit code."""
    return run_program(
        "alexnet-loader",
        "A deterministic image loader: the same stream, byte for byte, from any number of replicas.",
        COMMANDS,
        argv,
        user_errors=(LoaderError, StoreError, grpc.RpcError),
    )

"""``bench --sweep``: what this machine's processes deliver to one client here, over both transports."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from loader_service.client import LoaderClient, LoaderError, Transport
from loader_service.client.machine import processors
from loader_service.commands.bench import measure
from loader_service.commands.config import BenchConfig

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 30.0
_TRANSPORTS: tuple[Transport, ...] = ("grpc", "shm")
_COLUMNS = ("processes", "transport", "images/s", "of linear", "client us/image", "servers us/image")


def sweep(config: BenchConfig) -> None:
    """Prints a row for each number of processes and transport as it is measured; with ``--json``, all as one object.

    Raises LoaderError when the loaders do not start.
    """
    assert config.store is not None
    rows: list[dict[str, Any]] = []
    if not config.json:
        print("  ".join(_COLUMNS), flush=True)
    for count in _counts(processors().num_decode_threads):
        with loaders(config.store, count) as targets:
            for transport in _TRANSPORTS:
                options = replace(config.client_options, transport=transport)
                with LoaderClient(targets, options) as client:
                    result = measure(
                        client, config.spec, epoch=config.epoch, duration_s=config.duration_s, warmup_s=config.warmup_s
                    )
                rows.append({"processes": count, "transport": transport, **asdict(result)})
                one = next(row for row in rows if row["transport"] == transport)
                rows[-1]["of_linear"] = result.images_per_s / count / one["images_per_s"]
                if not config.json:
                    print(_line(rows[-1]), flush=True)
    if config.json:
        print(json.dumps({"rows": rows}))


def _counts(most: int) -> list[int]:
    """1, 2, 4, ... and ``most``."""
    powers = [2**exponent for exponent in range(most.bit_length())]
    return sorted({*powers, most})


def _line(row: dict[str, Any]) -> str:
    values = (
        f"{row['processes']}",
        row["transport"],
        f"{row['images_per_s']:,.0f}",
        f"{row['of_linear']:.2f}",
        f"{row['client_cpu_s_per_1000_images'] * 1000:.0f}",
        f"{row['server_cpu_s_per_1000_images'] * 1000:.0f}",
    )
    return "  ".join(value.rjust(len(name)) for value, name in zip(values, _COLUMNS, strict=True))


@contextmanager
def loaders(store: Path, count: int) -> Iterator[list[str]]:
    """The targets of so many loaders of one thread, on free ports; ended afterwards."""
    command = [sys.executable, "-m", "loader_service", "serve", "--store", str(store), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, "--processes", str(count), "--threads", "1", "--log-level", "warning"],
        stdout=subprocess.PIPE,
        text=True,
    ) as processes:
        late = threading.Timer(_START_TIMEOUT_S, processes.kill)
        try:
            assert processes.stdout is not None
            late.start()
            lines = [processes.stdout.readline() for _ in range(count)]
            late.cancel()
            if not all(lines):
                raise LoaderError(f"{store}: expected {count} loaders to serve it, found that they do not start")
            yield [line.split()[-1] for line in lines]
        finally:
            late.cancel()
            processes.terminate()
            try:
                processes.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                processes.kill()

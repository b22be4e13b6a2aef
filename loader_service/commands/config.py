"""The options of each command, checked once."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from commandline import check_options, option, required
from commandline.logs import LogFormat
from loader_service.client import ClientOptions, Limits, StreamSpec, View
from loader_service.client.machine import Processors
from loader_service.commands.connect import TARGET, ConnectConfig
from loader_service.commands.sizing import num_threads
from loader_service.wire.addresses import (
    MAX_PORT,
    check_guarded,
    check_listen,
    check_metrics_listen,
    host_and_port,
    named,
)
from loader_service.wire.types import DEFAULT_RATIO, DEFAULT_SCALE

_MAX_COUNT = 2**31 - 1
MAX_UINT32 = 2**32 - 1
MAX_UINT64 = 2**64 - 1
_MAX_MESSAGE_BYTES = 2**30
_MAX_SECONDS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Options of ``serve``."""

    store: Path = required("the store to serve, as preprocess wrote it")
    verify: bool = option(False, "first read all of the store, and compare its content with its digests")
    listen: str = option(
        "127.0.0.1:7000", "address to listen on; port 0 takes a free one and prints it", metavar="HOST:PORT|unix:PATH"
    )
    processes: int | Literal["auto"] = option(
        1,
        "server processes, on consecutive ports from --listen; one that dies is restarted; auto: as many as this "
        "machine is worth",
        least=1,
        most=1024,
    )
    threads: int | Literal["auto"] = option(
        "auto",
        "decode threads of each process; auto: the cores, shared among the processes, and at most 4",
        least=1,
        most=1024,
    )
    cache_bytes: int = option(0, "memory for decoded images, which are kept once decoded; 192 KB an image", least=0)
    share_bytes: int = option(
        256_000_000, "memory for recent messages, kept for slower clients while several read one stream", least=0
    )
    read_ahead_bytes: int = option(
        64_000_000,
        "most bytes of records that each process has the kernel read ahead of need, where the store is not in "
        "memory; 0: none",
        least=0,
    )
    message_bytes: int = option(4_900_000, "most bytes of images in one message", least=1, most=_MAX_MESSAGE_BYTES)
    max_batch_size: int = option(8192, "largest batch size that may be asked for", least=1, most=_MAX_COUNT)
    max_steps: int = option(64, "most steps in one request", least=1, most=_MAX_COUNT)
    max_streams: int = option(128, "most requests served at once", least=1, most=_MAX_COUNT)
    max_streams_per_identity: int = option(64, "most requests of one host at once", least=1, most=_MAX_COUNT)
    drain_s: float = option(
        10.0,
        "after SIGTERM, time for requests under way to finish",
        least=0,
        most=_MAX_SECONDS,
        formerly="drain-seconds",
    )
    max_connection_age_s: float = option(
        300.0,
        "ask clients to reconnect after about this long, without breaking requests off, so that new replicas "
        "behind a balancer get their share; 0: never",
        least=0,
        most=_MAX_SECONDS,
        formerly="max-connection-age",
    )
    tls_cert: Path | None = option(None, "PEM file of the server's certificate: turns TLS on")
    tls_key: Path | None = option(None, "PEM file of the server's private key")
    tls_client_ca: Path | None = option(
        None, "PEM file of an authority: clients must show a certificate that it signed"
    )
    token_file: Path | None = option(
        None, "file of bearer tokens, one a line: clients must send one; read again when it changes"
    )
    insecure: bool = option(False, "serve in clear text on an address that is not loopback: anyone can read")
    metrics_listen: str | None = option(
        None, "serve Prometheus metrics at http://HOST:PORT/metrics, or https with TLS", metavar="HOST:PORT"
    )
    metrics_insecure: bool = option(False, "serve metrics in clear text on an address that is not loopback")
    shared_memory: bool = option(True, "offer shared memory to clients of the same user on this machine")
    reflection: bool = option(False, "answer gRPC reflection, for tools such as grpcurl")
    log_format: LogFormat = option("text", "lines for people or JSON for machines")
    log_level: Literal["debug", "info", "warning", "error"] = option("info", "least severity to log")

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key go together: one of them is missing")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("--tls-client-ca needs --tls-cert and --tls-key")
        check_options(self)
        with named("--listen"):
            check_listen(self.listen)
        has_tls = self.tls_cert is not None
        check_guarded(
            "--listen",
            self.listen,
            is_guarded=has_tls or self.insecure,
            guards="--tls-cert and --tls-key, or --insecure to serve in clear text to whoever can connect",
        )
        if self.metrics_listen is not None:
            check_metrics_listen(self.metrics_listen, is_insecure=self.metrics_insecure, has_tls=has_tls)
        self._check_ports()

    def _check_ports(self) -> None:
        """Each process has the next port: all must exist, and be different."""
        taken: dict[int, str] = {}
        for name, address in (("--listen", self.listen), ("--metrics-listen", self.metrics_listen)):
            if address is None or address.startswith("unix:"):
                continue
            _, first = host_and_port(address, lowest_port=0)
            count = 1 if self.processes == "auto" else self.processes
            for port in range(first, first + count) if first else ():
                if port > MAX_PORT:
                    raise ValueError(f"{name} {address}: expected ports for {count} processes, found {port}")
                if port in taken:
                    raise ValueError(f"{name} {address}: port {port} is one of {taken[port]} too")
                taken[port] = name

    def decided(self, found: Processors) -> "ServeConfig":
        """These options with numbers in the place of ``auto``. Raises ValueError when there are not as many ports."""
        processes = found.num_decode_threads if self.processes == "auto" else self.processes
        threads = num_threads(found, processes) if self.threads == "auto" else self.threads
        return replace(self, processes=processes, threads=threads)

    @property
    def limits(self) -> Limits:
        return Limits(
            max_batch_size=self.max_batch_size,
            max_steps=self.max_steps,
            message_bytes=self.message_bytes,
            max_streams_per_identity=self.max_streams_per_identity,
            max_streams=self.max_streams,
        )


@dataclass(frozen=True, kw_only=True)
class AskConfig(ConnectConfig):
    """Options of every command here that asks a running service."""

    target: tuple[str, ...] = required(**TARGET)
    json: bool = option(False, "print the result as JSON")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_target()


@dataclass(frozen=True, kw_only=True)
class StreamConfig(AskConfig):
    """Options that choose a stream."""

    split: str = option("train", "split to stream")
    view: View = option("train", "which crops")
    crop_size: int | None = option(
        None, "side of a crop in pixels (default: 7/8 of the image)", least=1, most=MAX_UINT32
    )
    shuffle: bool = option(True, "the epoch's permutation, not stored order")
    seed: int = option(0, "seed of order and draws", least=0, most=MAX_UINT64)
    epoch: int = option(0, "epoch, from 0", least=0, most=MAX_UINT32)
    batch_size: int = option(128, "images a step", least=1, most=MAX_UINT32)
    colour_std: float = option(0.1, "deviation of the colour draw; 0 turns it off", least=0, most=10)

    scale: tuple[float, ...] = option(
        DEFAULT_SCALE, "view resized_crop: least and most area of a window, as part of the image's", metavar="X,X"
    )
    ratio: tuple[float, ...] = option(
        DEFAULT_RATIO, "view resized_crop: least and most width of a window by its height", metavar="X,X"
    )
    mirror: bool = option(True, "mirror half of the crops that are drawn")

    def __post_init__(self) -> None:
        super().__post_init__()
        with named("--scale or --ratio"):
            self.spec  # noqa: B018  # raises for two numbers that are none

    @property
    def spec(self) -> StreamSpec:
        return StreamSpec(
            split=self.split,
            view=self.view,
            crop_size=self.crop_size,
            shuffle=self.shuffle,
            seed=self.seed,
            batch_size=self.batch_size,
            colour_std=self.colour_std,
            drop_last=False,
            scale=self.scale,  # type: ignore[arg-type]  # checked there: two numbers
            ratio=self.ratio,  # type: ignore[arg-type]
            mirror=self.mirror,
        )


@dataclass(frozen=True, kw_only=True)
class DigestConfig(StreamConfig):
    """Options of ``digest``."""


@dataclass(frozen=True, kw_only=True)
class BenchConfig(StreamConfig):
    """Options of ``bench``."""

    target: tuple[str, ...] = option((), **TARGET)
    duration_s: float = option(10.0, "length of the measurement", least=0.001, most=_MAX_SECONDS)
    warmup_s: float = option(2.0, "time before the measurement", least=0, most=_MAX_SECONDS)
    copy: bool = option(True, "images in arrays of their own, not in the slots of shared memory they came in")
    sweep: bool = option(
        False, "start loaders of --store here, and measure 1, 2, 4, ... processes over gRPC and shared memory"
    )
    store: Path | None = option(None, "the store to serve, with --sweep")

    @property
    def client_options(self) -> ClientOptions:
        return replace(super().client_options, copy=self.copy)

    def require_target(self) -> None:
        """With ``--sweep``, a store in the place of a target."""
        if not self.sweep:
            super().require_target()
        elif self.target:
            raise ValueError("--target: expected none with --sweep, which starts its own loaders")
        elif self.transport != "auto":
            raise ValueError(f"--transport: expected none with --sweep, which measures both, found {self.transport}")
        if self.sweep != (self.store is not None):
            raise ValueError("--sweep and --store go together: one of them is missing")


@dataclass(frozen=True, kw_only=True)
class HealthcheckConfig(AskConfig):
    """Options of ``healthcheck``."""

    timeout_s: float = option(3.0, "time to wait for an answer", least=0.001, most=_MAX_SECONDS)

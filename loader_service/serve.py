"""``serve``: a store over gRPC until told to stop, from one process or several."""

import logging
import resource
import signal
import socket
from dataclasses import replace
from types import FrameType, TracebackType
from typing import Self

import grpc

from commandline.logs import configure_logs
from loader_service.config import ServeConfig
from loader_service.messages import keep_freed_memory
from loader_service.metrics import Metrics
from loader_service.pipeline import Pipeline
from loader_service.server import LoaderServer
from loader_service.supervise import supervise
from loader_service.tokens import TokenFile
from preprocess.store import Store

log = logging.getLogger(__name__)


def serve(config: ServeConfig) -> int:
    """Serves until SIGTERM or SIGINT, then drains. Each process prints one line with its address once it is ready."""
    configure_logs(config.log_level, config.log_format)
    if config.processes == 1:
        return _serve_one(config)
    with Store(config.store):
        pass  # what is wrong with the store is said once, here
    return supervise([_nth(config, number) for number in range(config.processes)], _serve_one, config.drain_seconds)


def _serve_one(config: ServeConfig) -> int:
    configure_logs(config.log_level, config.log_format)
    keep_freed_memory()
    _allow_many_files()
    metrics = Metrics()
    tokens = TokenFile(config.token_file) if config.token_file else None
    with (
        _StopSignals() as stop_signals,
        Store(config.store) as store,
        Pipeline(
            store,
            num_threads=config.threads,
            message_bytes=config.message_bytes,
            cache_bytes=config.cache_bytes,
            share_bytes=config.share_bytes,
            metrics=metrics,
        ) as pipeline,
    ):
        server = LoaderServer(
            pipeline,
            config.listen,
            config.limits,
            credentials=_credentials(config),
            tokens=tokens,
            metrics=metrics,
            reflection=config.reflection,
            shared_memory=config.shared_memory,
        )
        if config.metrics_listen is not None:
            host, _, port = config.metrics_listen.rpartition(":")
            metrics_port = metrics.serve(host.strip("[]"), int(port), cert=config.tls_cert, key=config.tls_key)
            log.info("metrics on port %d", metrics_port)
        server.start()
        address = config.listen
        if not address.startswith("unix:"):
            address = f"{address.rpartition(':')[0]}:{server.port}"
        splits = ", ".join(f"{name} {split.num_images:,}" for name, split in store.manifest.splits.items())
        # In one write, so that the lines of several processes do not mix.
        print(f"serving {config.store} on {address}\n", end="", flush=True)
        log.info("fingerprint %s, pipeline %s, splits: %s", store.fingerprint, pipeline.version, splits)
        stop_signals.wait()
        log.info("stopping: requests under way have %g s to finish", config.drain_seconds)
        server.stop(config.drain_seconds)
    log.info("stopped")
    return 0


class _StopSignals:
    """SIGTERM and SIGINT, while its context lasts.

    They are waited for at a socket. A wait for a lock would go on when the kernel gives the signal to another thread
    (NumPy's, gRPC's), as was seen: Python's handlers run on the main thread only, which nothing wakes then.
    """

    def __enter__(self) -> Self:
        self._received, self._sent = socket.socketpair()
        self._sent.setblocking(False)
        self._before = {number: signal.signal(number, _ignore) for number in (signal.SIGTERM, signal.SIGINT)}
        signal.set_wakeup_fd(self._sent.fileno())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._received.close()
        self._sent.close()

    def wait(self) -> None:
        """Returns when one of them has come."""
        self._received.recv(1)


def _ignore(signum: int, frame: FrameType | None) -> None:
    """What counts is the byte that Python writes to the wake-up socket."""


def _nth(config: ServeConfig, number: int) -> ServeConfig:
    """The options of one of several processes: its own ports."""
    metrics_listen = _shifted(config.metrics_listen, number) if config.metrics_listen else None
    return replace(config, processes=1, listen=_shifted(config.listen, number), metrics_listen=metrics_listen)


def _shifted(address: str, number: int) -> str:
    if address.startswith("unix:"):
        return f"{address}.{number}"
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + number if int(port) else 0}"


def _credentials(config: ServeConfig) -> grpc.ServerCredentials | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    client_ca = config.tls_client_ca.read_bytes() if config.tls_client_ca else None
    return grpc.ssl_server_credentials(
        [(config.tls_key.read_bytes(), config.tls_cert.read_bytes())],
        root_certificates=client_ca,
        require_client_auth=client_ca is not None,
    )


def _allow_many_files() -> None:
    """Raises the soft limit of open files to the hard one: a store of ImageNet-21k has thousands of shards."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

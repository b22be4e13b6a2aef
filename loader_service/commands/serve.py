"""``serve``: a store over gRPC until told to stop, from one process or several."""

import logging
import resource
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import grpc

from commandline import Progress
from commandline.logs import configure_logs
from commandline.metrics_port import MetricsPort
from commandline.program import EXIT_INTERRUPTED
from commandline.stopping import StopRequests
from loader_service.client import InvalidRequestError, LoaderError, ServiceUnavailableError
from loader_service.client.machine import available_bytes, processors
from loader_service.commands.config import ServeConfig
from loader_service.commands.sizing import expectation, summary
from loader_service.commands.supervise import supervise
from loader_service.pipeline.metrics import Metrics
from loader_service.pipeline.outgoing_message import keep_freed_memory
from loader_service.pipeline.pipeline import Pipeline
from loader_service.server.server import LoaderServer
from loader_service.server.tokens import TokenFile
from loader_service.wire.addresses import host_and_port
from loader_service.wire.credentials import load_authority, load_certificate
from preprocess.errors import StoreError
from preprocess.store import Store

log = logging.getLogger(__name__)


def serve(config: ServeConfig) -> int:
    """Serves until SIGTERM or Ctrl-C, then drains; a second Ctrl-C breaks that off. Returns the exit code.

    Each process prints one line with its address once it is ready. Threads may stay behind that wait for clients which
    do not read, and Python's own end would wait for those: leave with ``os._exit``.
    """
    configure_logs(config.log_level, config.log_format)
    found = processors()
    try:
        config = config.decided(found)
    except ValueError as error:
        raise InvalidRequestError(str(error)) from None
    processes, threads = _numbers(config)
    decided = summary(found, processes, threads)
    if processes == 1:
        return _serve_one(config, lambda: log.info("%s", decided))
    # What is wrong for all is said once, here; and a process that is started again serves the store that this one saw.
    config = replace(config, store=config.store.resolve())
    with _opened(config):
        _credentials(config)
    if config.token_file is not None:
        TokenFile(config.token_file)
    log.info("%s", decided)
    config = replace(config, verify=False)
    configs = [_nth(config, number) for number in range(processes)]
    return supervise(configs, _serve_one, config.drain_s, user_errors=(LoaderError, StoreError, OSError))


def _serve_one(config: ServeConfig, on_ready: Callable[[], None] = lambda: None) -> int:
    configure_logs(config.log_level, config.log_format)
    keep_freed_memory()
    _allow_many_files()
    metrics = Metrics()
    tokens = TokenFile(config.token_file) if config.token_file else None
    with (
        _opened(config) as store,
        StopRequests() as stop,
        Pipeline(
            store,
            num_threads=_numbers(config)[1],
            message_bytes=config.message_bytes,
            cache_bytes=config.cache_bytes,
            share_bytes=config.share_bytes,
            read_ahead_bytes=config.read_ahead_bytes,
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
            max_connection_age_s=config.max_connection_age_s or None,
        )
        metrics_address = _serve_metrics(metrics, config)
        server.start()
        address = config.listen
        if not address.startswith("unix:"):
            address = f"{address.rpartition(':')[0]}:{server.port}"
        splits = ", ".join(f"{name} {split.num_images:,}" for name, split in store.manifest.splits.items())
        with suppress(BrokenPipeError):  # whoever read our output has left; those whom we serve have not
            # In one write, so that the lines of several processes do not mix.
            print(f"serving {config.store} on {address}\n", end="", flush=True)
        on_ready()
        if metrics_address is not None:
            log.info("metrics at %s", metrics_address)
        log.info("fingerprint %s, pipeline %s, splits: %s", store.fingerprint, pipeline.version, splits)
        available = available_bytes()
        if available is not None:
            log.info("%s", expectation(store.manifest, available))
        stop.wait()
        log.info("stopping: requests under way have %g s to finish", config.drain_s)
        try:
            server.stop(config.drain_s)
        except KeyboardInterrupt:
            log.warning("interrupted: requests under way were broken off")
            return EXIT_INTERRUPTED
    log.info("stopped")
    return 0


@contextmanager
def _opened(config: ServeConfig) -> Iterator[Store]:
    """The store, with all of its shards open, and read from end to end if that is wanted. Raises StoreError."""
    with Store(config.store) as store:
        store.open_shards()
        if config.verify:
            num_images = sum(split.num_images for split in store.manifest.splits.values())
            with Progress("verify", num_images, "images") as progress:
                store.check_content(progress.advance)
            log.info("every image is as it was written")
        yield store


def _serve_metrics(metrics: Metrics, config: ServeConfig) -> str | None:
    """The address that metrics are served at, if they are wanted."""
    address = config.metrics_listen
    if address is None:
        return None
    host, port = host_and_port(address, lowest_port=0)
    try:
        port = MetricsPort(host, port, metrics.registry, _tls_context(config)).port
    except OSError as error:
        raise ServiceUnavailableError(f"--metrics-listen {address}: cannot listen there: {error.strerror}") from None
    return f"{'https' if config.tls_cert else 'http'}://{address.rpartition(':')[0]}:{port}/metrics"


def _numbers(config: ServeConfig) -> tuple[int, int]:
    """Processes and threads, once they are decided."""
    assert config.processes != "auto"
    assert config.threads != "auto"
    return config.processes, config.threads


def _nth(config: ServeConfig, number: int) -> ServeConfig:
    """The options of one of several processes: its own ports."""
    metrics_listen = _shifted(config.metrics_listen, number) if config.metrics_listen else None
    return replace(config, processes=1, listen=_shifted(config.listen, number), metrics_listen=metrics_listen)


def _shifted(address: str, number: int) -> str:
    if address.startswith("unix:"):
        return f"{address}.{number}"
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + number if int(port) else 0}"


def _tls_context(config: ServeConfig) -> ssl.SSLContext | None:
    """What the server shows, to whoever asks. Raises AccessError, naming the file."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, config.tls_cert, config.tls_key)
    return context


def _credentials(config: ServeConfig) -> grpc.ServerCredentials | None:
    """What the server shows and whom it trusts. Raises AccessError, naming the file, where gRPC would say nothing."""
    context = _tls_context(config)
    if context is None:
        return None
    assert config.tls_cert is not None
    assert config.tls_key is not None
    if config.tls_client_ca is not None:
        load_authority(context, config.tls_client_ca)
    client_ca = config.tls_client_ca.read_bytes() if config.tls_client_ca else None
    return grpc.ssl_server_credentials(
        [(config.tls_key.read_bytes(), config.tls_cert.read_bytes())],
        root_certificates=client_ca,
        require_client_auth=client_ca is not None,
    )


def _allow_many_files() -> None:
    """Raises the soft limit of open files to the hard one: connections take from it what shards leave."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

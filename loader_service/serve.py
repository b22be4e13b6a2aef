"""``serve``: one process that serves a store until it is told to stop."""

import logging
import resource
import signal
import sys
import threading
from types import FrameType

import grpc

from loader_service.config import ServeConfig
from loader_service.pipeline import Pipeline, pipeline_version
from loader_service.server import LoaderServer
from preprocess.store import Store

log = logging.getLogger(__name__)


def serve(config: ServeConfig) -> int:
    """Serves until SIGTERM or SIGINT, then drains. Prints one line with the address once it is ready."""
    logging.basicConfig(
        level=config.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    _allow_many_files()
    stopping = threading.Event()

    def stop(signum: int, frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with (
        Store(config.store) as store,
        Pipeline(
            store,
            num_threads=config.threads,
            message_bytes=config.message_bytes,
            cache_bytes=config.cache_bytes,
        ) as pipeline,
    ):
        server = LoaderServer(pipeline, config.listen, config.limits, credentials=_credentials(config))
        server.start()
        address = config.listen
        if not address.startswith("unix:"):
            address = f"{address.rpartition(':')[0]}:{server.port}"
        splits = ", ".join(f"{name} {split.num_images:,}" for name, split in store.manifest.splits.items())
        print(f"serving {config.store} on {address}", flush=True)
        log.info("fingerprint %s, pipeline %s, splits: %s", store.fingerprint, pipeline_version(), splits)
        stopping.wait()
        log.info("stopping: requests under way have %g s to finish", config.drain_seconds)
        server.stop(config.drain_seconds)
    log.info("stopped")
    return 0


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

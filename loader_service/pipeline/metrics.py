"""What the service counts, for Prometheus."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from loader_service.pipeline.image_cache import DecodedCache
from preprocess.store import Reads

# A message takes 1 ms (raw, cached) to 100 ms (32 large JPEGs on a busy core); waits run up to a stall.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One process's metrics, in a registry of their own. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.images = Counter("alexnet_loader_images", "Images sent.", ("split", "view"), registry=self.registry)
        self.sent_bytes = Counter("alexnet_loader_sent_bytes", "Bytes of messages sent.", registry=self.registry)
        self.make_seconds = Histogram(
            "alexnet_loader_make_seconds",
            "Time to make a message: read, decode, crop, pack.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.wait_seconds = Histogram(
            "alexnet_loader_wait_seconds",
            "Time a stream waited for its next message: high means too few decode threads.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.send_seconds = Histogram(
            "alexnet_loader_send_seconds",
            "Time a message waited for its reader: high means the clients have enough.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.active_streams = Gauge("alexnet_loader_active_streams", "Requests being served.", registry=self.registry)
        self.errors = Counter(
            "alexnet_loader_errors",
            "Requests refused or broken off, by status code.",
            ("code",),
            registry=self.registry,
        )
        self._info = Gauge(
            "alexnet_loader_info",
            "1, with what is served as labels.",
            ("fingerprint", "pipeline_version"),
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)

    def describe(self, fingerprint: str, pipeline_version: str) -> None:
        """Says what is served."""
        self._info.labels(fingerprint, pipeline_version).set(1)

    def watch_cache(self, cache: DecodedCache) -> None:
        """Reads the cache's own counts when asked, so that the hot path counts once."""
        self._watch("alexnet_loader_cache_hits", "Images found decoded.", lambda: cache.hits)
        self._watch("alexnet_loader_cache_misses", "Images not found decoded.", lambda: cache.misses)
        size = Gauge("alexnet_loader_cache_bytes", "Decoded images kept.", registry=self.registry)
        size.set_function(lambda: cache.size_bytes)

    def watch_disk(self, reads: Reads, read_ahead_bytes: Callable[[], float]) -> None:
        """Reads what the store counts when asked."""
        self._watch("alexnet_loader_read_bytes", "Bytes of records read from the store.", lambda: reads.num_bytes)
        self._watch("alexnet_loader_read_ahead_bytes", "Of those, asked of the kernel ahead of need.", read_ahead_bytes)
        self._watch("alexnet_loader_disk_waits", "Records that had to be waited for.", lambda: reads.num_waits)
        self._watch(
            "alexnet_loader_disk_wait_seconds",
            "Time decode threads waited for the disk: near the time itself means that the disk is too slow.",
            lambda: reads.wait_s,
        )

    def watch_shared(self, count: Callable[[], float]) -> None:
        """Reads the number of shared messages when asked."""
        self._watch("alexnet_loader_shared_messages", "Messages made for one client and sent to another too.", count)

    def _watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        self.registry.register(_CountElsewhere(name, text, read))


class _CountElsewhere(Collector):
    """A counter whose value is kept by another, and read when it is asked for."""

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self._name, self._text, self._read = name, text, read

    def collect(self) -> Iterable[Metric]:
        return [CounterMetricFamily(self._name, self._text, value=self._read())]

"""The options of ``watch``."""

from dataclasses import dataclass
from pathlib import Path

from commandline import option, required
from loader_service.commands.connect import ConnectConfig
from loader_service.wire.addresses import MAX_PORT, each_port, named


@dataclass(frozen=True, kw_only=True)
class WatchConfig(ConnectConfig):
    """Which run to follow, and where."""

    run_dir: Path = required("the run's folder", positional=True)
    port: int = option(7007, "port of the page, on this machine alone; 0 takes a free one", least=0, most=MAX_PORT)
    metrics: tuple[str, ...] = option(
        (),
        "where the loaders serve their metrics; HOST:9000-9003 stands for four ports",
        metavar="http://HOST:PORT/metrics[,...]",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        with named("--metrics"):
            self.metrics_urls  # noqa: B018  # raises for what is no address

    @property
    def metrics_urls(self) -> list[str]:
        """One address for each port."""
        return [each for url in self.metrics for each in _each_url(url)]


def _each_url(url: str) -> list[str]:
    scheme, _, rest = url.partition("://")
    place, _, path = rest.partition("/")
    if scheme not in ("http", "https") or ":" not in place:
        raise ValueError(f"expected http://HOST:PORT/metrics, found {url!r}")
    return [f"{scheme}://{each}/{path or 'metrics'}" for each in each_port(place)]

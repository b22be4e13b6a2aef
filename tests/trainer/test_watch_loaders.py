"""The table of loaders on the page: over https as the service serves its metrics with TLS, a reason where it cannot."""

import ssl
from pathlib import Path

import trustme
from prometheus_client import CollectorRegistry, Counter

from commandline.metrics_port import MetricsPort
from trainer.watch.loaders import LoaderTable


def test_over_https(tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    registry = CollectorRegistry()
    images = Counter("alexnet_loader_images", "Sent.", registry=registry)
    with MetricsPort("127.0.0.1", 0, registry, context) as served:
        url = f"https://127.0.0.1:{served.port}/metrics"
        table = LoaderTable([url], tmp_path / "ca.crt")
        assert "<td>0</td><td>–</td>" in table.draw()
        images.inc(50)
        assert "<td>–</td>" not in table.draw()
        assert "certificate verify failed" in LoaderTable([url], None).draw()

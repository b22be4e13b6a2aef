"""A real Prometheus as tests run it: started over given targets, asked, stopped."""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.processes import free_port


def query(url: str, expression: str) -> list[dict[str, Any]]:
    """The vector that ``expression`` gives now; raises when Prometheus refuses it."""
    parameters = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{url}/api/v1/query?{parameters}", timeout=60) as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result


@contextmanager
def prometheus(folder: Path, targets: Mapping[str, Sequence[str]], rules: Path) -> Iterator[str]:
    """Scrapes ``targets`` (addresses by job) each second; yields its URL once it answers."""
    jobs = [{"job_name": job, "static_configs": [{"targets": list(addresses)}]} for job, addresses in targets.items()]
    config = {"global": {"scrape_interval": "1s"}, "rule_files": [str(rules)], "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
    port = free_port()
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 300
        while True:
            try:
                query(url, "1")
                break
            except urllib.error.URLError:
                assert process.poll() is None, "Prometheus ended"
                assert time.monotonic() < deadline, "Prometheus does not answer"
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait(300)

"""Alert rules and the dashboard: queries name metrics that the programs export, and a real Prometheus answers them."""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from loader_service.client import AccessError, ClientOptions, LoaderClient
from tests.deploy.prometheus import prometheus, query
from tests.processes import LoaderProcess, free_port, loader_processes
from tests.stores import make_store
from tests.trainer.runs import started

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus/rules.yml"
# Words of PromQL that look like names of metrics: functions, keywords, labels.
NAME = re.compile(r"\b(?:alexnet|process)_[a-z0-9_]+\b")


def dashboard_queries() -> list[str]:
    """Every query of the dashboard, with Grafana's interval filled in."""
    panels = json.loads((DEPLOY / "grafana/dashboard.json").read_text("utf-8"))["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [expression.replace("$__rate_interval", "20s") for expression in expressions]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[str]]]:
    """Metrics addresses, by job, of two loaders under load (one of them has refused a client) and their trainer."""
    folder = tmp_path_factory.mktemp("observed")
    store = make_store(folder / "store", side=72)
    (folder / "tokens").write_text("secret\n", encoding="utf-8")
    ports = [free_port(), free_port(), free_port()]
    options = ("--token-file", str(folder / "tokens"), "--cache-bytes", "64MB")
    with loader_processes(store, 0) as replicas:
        for port in ports[:2]:
            replicas.append(LoaderProcess(store, *options, "--metrics-listen", f"127.0.0.1:{port}"))
        with pytest.raises(AccessError), LoaderClient([replicas[0].target], ClientOptions()) as client:
            client.describe()
        target = ",".join(replica.target for replica in replicas)
        watched = ("--metrics-listen", f"127.0.0.1:{ports[2]}", "--token-file", str(folder / "tokens"))
        with started(target, folder / "run", *watched, "--epochs", "100000") as trainer:
            addresses = [f"127.0.0.1:{port}" for port in ports]
            _wait_for_first_step(addresses[2])
            assert trainer.poll() is None
            yield {"alexnet-loader": addresses[:2], "alexnet-trainer": addresses[2:]}


def _wait_for_first_step(address: str) -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
                if re.search(rb"^alexnet_trainer_step [1-9]", answer.read(), re.MULTILINE):
                    return
        except OSError:
            pass
        assert time.monotonic() < deadline, "the trainer made no step"
        time.sleep(0.2)


def exported(endpoints: dict[str, list[str]]) -> set[str]:
    """Names of all samples that the programs show."""
    names: set[str] = set()
    for address in (address for addresses in endpoints.values() for address in addresses):
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        names |= {re.split(r"[{ ]", line)[0] for line in lines if line and not line.startswith("#")}
    return names


def test_every_name_is_exported(endpoints: dict[str, list[str]]) -> None:
    names = exported(endpoints)
    for expression in dashboard_queries() + [rule["expr"] for rule in rules()]:
        asked = set(NAME.findall(expression))
        assert asked or "up" in expression, expression
        assert asked <= names, f"{expression}: {asked - names} is exported by nobody"


def test_everything_that_is_exported_has_a_panel(endpoints: dict[str, list[str]]) -> None:
    """A metric that nobody draws is one that nobody knows."""
    drawn = {re.sub("_(total|bucket)$", "", name) for query in dashboard_queries() for name in NAME.findall(query)}
    ours = {name for name in exported(endpoints) if name.startswith("alexnet_")}
    assert {re.sub("_(total|bucket|sum|count|created)$", "", name) for name in ours} <= drawn


@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs prometheus (Debian's package)")
def test_prometheus_answers_every_query(endpoints: dict[str, list[str]], tmp_path: Path) -> None:
    """Each query of the dashboard gives series from what a real Prometheus scraped, and no alert fires."""
    with prometheus(tmp_path, endpoints, RULES) as url:
        missing = dashboard_queries()
        deadline = time.monotonic() + 300
        while missing and time.monotonic() < deadline:
            time.sleep(0.5)
            missing = [expression for expression in missing if not query(url, expression)]
        assert not missing
        # Trained images come from sent ones: the two programs' counts tell one story.
        sent = query(url, 'sum(alexnet_loader_images_total{split="train"})')[0]["value"][1]
        assert float(sent) > 0
        assert not query(url, 'ALERTS{alertstate="firing"}')


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool (Debian's package prometheus)")
def test_alerts_fire_when_they_should() -> None:
    subprocess.run(["promtool", "check", "config", "--syntax-only", "prometheus.yml"], cwd=RULES.parent, check=True)
    subprocess.run(["promtool", "test", "rules", "rules_test.yml"], cwd=RULES.parent, check=True)


def test_every_alert_has_a_case_and_a_runbook_entry() -> None:
    cases = (DEPLOY / "prometheus/rules_test.yml").read_text("utf-8")
    runbook = (DEPLOY.parent / "docs/operations.md").read_text("utf-8")
    for rule in (rule for rule in rules() if "alert" in rule):
        assert rule["alert"] in cases
        assert f"### {rule['alert']}\n" in runbook
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"

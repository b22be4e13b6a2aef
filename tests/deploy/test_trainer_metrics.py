"""The trainer's Prometheus port: what a run shows, to whom, and what a wait for data looks like."""

import socket
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.processes import free_port
from tests.trainer.runs import started, train, train_command
from trainer.__main__ import main
from trainer.errors import TrainerError
from trainer.monitor.metrics import TrainPoint
from trainer.monitor.prometheus import Exporter

POINT = TrainPoint(
    epoch=3,
    step=20,
    global_step=620,
    loss=1.5,
    top1_error=0.25,
    top5_error=0.1,
    rate=0.01,
    images_per_s=100.0,
    data_wait=0.5,
)


def scrape(port: int) -> dict[str, float]:
    """Every sample without labels at ``port``, by name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    lines = [line for line in text.splitlines() if line and not line.startswith("#") and "{" not in line]
    return {name: float(value) for name, value in (line.split() for line in lines)}


def test_shows_points() -> None:
    with Exporter("127.0.0.1:0") as exporter:
        exporter.show(POINT, 640)
        exporter.show(POINT, 640)
        samples = scrape(exporter.port)
    assert samples["alexnet_trainer_images_total"] == 1280
    assert samples["alexnet_trainer_step"] == 620
    assert samples["alexnet_trainer_epoch"] == 3
    assert samples["alexnet_trainer_loss"] == 1.5
    assert samples["alexnet_trainer_top1_error"] == 0.25
    assert samples["alexnet_trainer_learning_rate"] == 0.01
    assert samples["alexnet_trainer_data_wait_seconds_total"] == 0


def test_a_wait_counts_while_it_lasts() -> None:
    """A trainer that gets nothing at all writes no point: only a count that grows by itself shows it."""
    with Exporter("127.0.0.1:0") as exporter:
        with exporter.waiting():
            first = scrape(exporter.port)["alexnet_trainer_data_wait_seconds_total"]
            time.sleep(0.01)
            second = scrape(exporter.port)["alexnet_trainer_data_wait_seconds_total"]
        ended = exporter.data_wait_s
        time.sleep(0.01)
        assert 0 < first < second <= ended
        assert exporter.data_wait_s == ended


def test_a_run_is_scraped(loader_target: str, tmp_path: Path) -> None:
    port = free_port()
    options = ("--metrics-listen", f"127.0.0.1:{port}", "--epochs", "100000")
    with started(loader_target, tmp_path / "run", *options) as process:
        deadline = time.monotonic() + 300
        samples: dict[str, float] = {}
        while not samples.get("alexnet_trainer_step", 0) >= 4:  # not a number before the first point
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline, f"no step was shown: {samples}"
            try:
                samples = scrape(port)
            except OSError:
                time.sleep(0.1)
    assert samples["alexnet_trainer_images_total"] == 16 * samples["alexnet_trainer_step"]
    assert samples["alexnet_trainer_loss"] > 0
    assert samples["alexnet_trainer_data_wait_seconds_total"] > 0


def test_only_loopback_without_a_word(loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = train_command(loader_target, tmp_path / "run", "--metrics-listen", "0.0.0.0:9000")
    assert main(command) == 2
    assert "--metrics-insecure" in capsys.readouterr().err


def test_a_taken_port_is_said_in_one_line(
    loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert train(loader_target, tmp_path / "run", "--epochs", "1", "--metrics-listen", address) == 1
    assert f"--metrics-listen {address}" in capsys.readouterr().err


def test_without_prometheus_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(TrainerError, match="pip install prometheus-client"):
        Exporter("127.0.0.1:0")

"""The page of ``watch`` follows a run as it grows, shows what its network sees, and stays on this machine."""

import base64
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loader_service.client import LoaderClient
from tests.browser import DESKTOP, PHONE, browser
from tests.processes import LoaderProcess, free_port
from tests.trainer.runs import command, train
from tests.waiting import wait_until
from trainer.__main__ import main
from trainer.config import TrainConfig
from trainer.monitor.metrics import read_points
from trainer.monitor.run_record import options_of, read_record

SECTIONS = ("summary", "curves", "loaders", "batch", "filters")


@contextmanager
def watching(run_dir: Path, *options: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The page's address, and the command that serves it."""
    with command("watch", str(run_dir), "--port", "0", *options) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert found, process.stderr.read()
        address = found[0]
        wait_until(lambda: get(address), "the page")
        yield address, process


def get(address: str, **headers: str) -> str:
    """What is served there; nothing before anything is."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=100) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError:
        raise
    except OSError:
        return ""


def pictures(text: str) -> list["np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"]:
    return [
        np.asarray(Image.open(BytesIO(base64.b64decode(data)))) for data in re.findall(r"png;base64,([^\"]+)", text)
    ]


@pytest.fixture(scope="module")
def run_dir(loader_target: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched") / "run <1>"
    assert train(loader_target, folder, "--epochs", "2") == 0
    return folder


def test_a_run_is_followed_as_it_grows(tiny_store: Path, tmp_path: Path) -> None:
    port = free_port()
    loader = LoaderProcess(tiny_store, "--metrics-listen", f"127.0.0.1:{port}")
    try:
        with watching(tmp_path, "--metrics", f"http://127.0.0.1:{port}/metrics") as (page, process):
            assert "first point" in get(page + "summary")
            assert "first checkpoint" in get(page + "filters")
            assert train(loader.target, tmp_path, "--epochs", "1") == 0
            assert "<b>1 of 1</b><span>epoch; step 6, 6 in all" in get(page + "summary")
            assert "step-000000006.pt: after 1 epochs" in get(page + "filters")
            first = get(page + "batch")
            get(page + "loaders")
            assert train(loader.target, tmp_path, "--epochs", "2", "--resume", "auto") == 0
            left = sorted(tmp_path.rglob("*"))
            assert "<b>2 of 2</b><span>epoch; step 6, 12 in all" in get(page + "summary")
            assert "validation errors, top-1 / top-5, after epoch 2" in get(page + "summary")
            assert "step-000000012.pt: after 2 epochs" in get(page + "filters")
            assert "epoch 2, step 6" in get(page + "batch") != first
            [images_per_s] = re.findall(
                rf"<th>127.0.0.1:{port}</th><td>\d+</td><td>([\d.]+)</td>", get(page + "loaders")
            )
            assert float(images_per_s) > 0
            loader.end()
            assert "no answer: " in get(page + "loaders")
            assert "epoch 2, step 6" in get(page + "batch"), "what was seen stays"
            assert sorted(tmp_path.rglob("*")) == left, "a run is looked at, no more"
            process.send_signal(signal.SIGTERM)
            assert process.wait(300) == 128 + signal.SIGTERM
            assert process.stderr is not None
            assert process.stderr.read() == "alexnet-trainer: stopped by SIGTERM\n"
    finally:
        loader.end()


@pytest.fixture(scope="module")
def page(run_dir: Path) -> Iterator[str]:
    with watching(run_dir) as (address, _):
        yield address


def test_the_crops_are_those_of_the_step(run_dir: Path, page: str, loader_target: str) -> None:
    """As the service gave them to the run, with the run's own options."""
    options = options_of(read_record(run_dir))
    assert options is not None
    spec = options.stream_spec(64, 0.1, 0, 1)
    with LoaderClient([loader_target]) as client, client.stream(spec, epoch=1, step=5) as stream:
        batch = next(stream)
        names = [client.describe().classes[label][1] for label in batch.labels.tolist()]
    text = get(page + "batch")
    expected = np.clip(np.rint(batch.images + batch.colour_shifts[:, None, None]), 0, 255)
    np.testing.assert_array_equal(pictures(text), expected)
    assert re.findall("<figcaption>(.*?)</figcaption>", text) == names


def test_the_filters_are_those_of_both_columns(page: str) -> None:
    text = get(page + "filters")
    assert len(pictures(text)) == 2
    assert "Column 2: 3 filters of 11x11x3" in text


def test_the_page_stays_on_this_machine(page: str) -> None:
    text = get(page)
    assert "<title>AlexNet, run &lt;1&gt;</title>" in text
    assert not re.findall(r"(?:https?:)?//[a-z]", text), "no outside address"
    assert re.findall("<div id=([a-z]+)", text) == list(SECTIONS)
    with urllib.request.urlopen(page) as answer:
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    with pytest.raises(urllib.error.HTTPError, match="400"):  # another site's name for this machine
        get(page, Host="elsewhere.example")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(page + "metrics.jsonl")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", int(page.rstrip("/").rpartition(":")[2])))


def test_in_a_browser(run_dir: Path, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as shown, watching(run_dir) as (page, process):
        for width in (DESKTOP, PHONE):
            shown.open(page, width=width)
            wait_until(
                lambda: shown.run("[...document.querySelectorAll('[data-every]')].every(e => e.children.length)"), "it"
            )
            assert shown.run("document.querySelectorAll('svg').length") == 4
            assert shown.run("[...document.images].every(image => image.complete && image.naturalWidth)")
            assert not shown.is_too_wide()
            assert all(address.startswith(page) for address in shown.requested())
            assert shown.problems() == []
            assert not shown.run("document.body.classList.contains('lost')")
            shown.screenshot(tmp_path / f"page-{width}.png")
        process.kill()
        wait_until(lambda: shown.run("document.body.classList.contains('lost')"), "the page to say that it is alone")
        assert shown.run("document.querySelectorAll('svg').length") == 4


def test_mistakes_are_told_in_a_line(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*options: str) -> str:
        assert main(["watch", *options]) in (1, 2)
        (line,) = capsys.readouterr().err.splitlines()
        return str(line).removeprefix("alexnet-trainer watch: error: ")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert told(str(run_dir), "--port", port) == (
            f"--port {port}: cannot listen there: Address already in use; give another, or 0"
        )
    assert told("/nowhere") == "/nowhere: expected a run folder"
    for url in ("127.0.0.1:9000", "http://127.0.0.1", "http://127.0.0.1:2-1/metrics"):
        assert told(str(run_dir), "--metrics", url).startswith("--metrics: expected ")
    script = "import sys; sys.modules['uvicorn'] = None; from trainer.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "watch", str(run_dir)], capture_output=True, text=True, check=False
    )
    assert done.stderr.endswith("(uvicorn is missing): pip install 'alexnet-pipeline[trainer,watch]'\n")


def test_options_are_read_back_from_the_record(run_dir: Path, loader_target: str) -> None:
    """All of them; and a record of another release, or none, is no error."""
    options = options_of(read_record(run_dir))
    assert isinstance(options, TrainConfig)
    assert (options.target, options.run_dir, options.devices) == ((loader_target,), run_dir, ("cpu", "cpu"))
    record = read_record(run_dir)
    assert options_of({"options": record["options"] | {"gone": 1, "tls_ca": "ca.crt"}}) == TrainConfig(
        **vars(options) | {"tls_ca": Path("ca.crt")}
    )
    assert options_of({}) is None
    assert options_of({"options": record["options"] | {"epochs": "many"}}) is None
    assert read_points(run_dir)[0]

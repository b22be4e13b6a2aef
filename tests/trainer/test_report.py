"""What a person gets from a run: charts, the report, predictions, exported weights, evaluations."""

import json
import re
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

import grpc
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from loader_service.client import LoaderClient
from loader_service.pipeline.pipeline import Pipeline
from loader_service.server.server import LoaderServer
from preprocess.store import Store
from tests.conftest import LIMITS
from tests.trainer.conftest import CPU_PAIR
from tests.trainer.runs import train
from tests.trainer.test_metrics import epoch_point, train_point
from trainer.__main__ import main
from trainer.checkpoint import folder
from trainer.checkpoint.saved_network import load_network
from trainer.checkpoint.snapshot import load
from trainer.data.crops import ten_crops
from trainer.evaluate import score
from trainer.evaluate_command import per_class_errors, worst_confusions
from trainer.monitor.starvation import starvation_message
from trainer.report.charts import MAX_POINTS, WIDTH, Interval, Line, interval_chart, line_chart, loss_chart, thinned
from trainer.report.epoch_line import epoch_line
from trainer.report.pictures import filter_grid, png_bytes, thumbnails


@pytest.fixture(scope="module")
def trained(loader_target: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)
    assert train(loader_target, run_dir, "--epochs", "2", "--tensorboard") == 0
    return run_dir


class Links(HTMLParser):
    """Collects every address that a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]


def test_report_is_one_file_that_needs_nothing_else(
    trained: Path, loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    options = ["--target", loader_target, "--out", str(out), "--devices", "cpu,cpu", "--neighbours-among", "64"]
    assert main(["report", str(trained), *options]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    text = out.read_text("utf-8")
    links = Links()
    links.feed(text)
    assert links.addresses
    assert all(address.startswith("data:image/png;base64,") for address in links.addresses)
    assert "@import" not in text
    assert text.count("<article>") == 8 + 12  # the examples, and those that it is most wrong about
    assert len(re.findall(r"class='bar", text)) == (8 + 12) * 5
    assert text.count(", distance") == 2 * 8 * 6  # alt and title of every neighbour
    assert len(re.findall(r"<figcaption>class \d</figcaption>", text)) == 8 * 6, "neighbours have their classes"
    for word in (
        *("Loss", "Error, %", "Images a second", "filters of 11x11x3", "fingerprint", "torch", "lr 0.0002"),
        *("this network, ten crops", "30 images of val, 10 classes", "40.7 %", "18.2 %"),
        *("best epoch", "last epoch", "among 64 training images"),
    ):
        assert word in text, word
    found = {int(index): name for index, name in re.findall(r"<small>image (\d+) of val<br>([^<]+)</small>", text)}
    with LoaderClient([loader_target]) as client:
        assert client.names("val", found) == tuple(found.values())
    assert text.count(" of val<br>") == 8 + 12


class OlderServer(LoaderServer):
    """A service of before there was a call for names."""

    def _names(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> NoReturn:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


def test_report_from_a_service_that_has_no_names(
    trained: Path, tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    options = ["--out", str(out), "--devices", "cpu,cpu", "--neighbours-among", "0", "--crops", "centre"]
    with (
        Store(tiny_store) as store,
        Pipeline(store, num_threads=1, message_bytes=LIMITS.message_bytes) as pipeline,
        OlderServer(pipeline, "127.0.0.1:0", LIMITS) as server,
    ):
        assert main(["report", str(trained), "--target", f"127.0.0.1:{server.port}", *options]) == 0
    assert "written without the images' names: 127.0.0.1" in capsys.readouterr().err
    assert out.read_text("utf-8").count("<article>") == 8 + 12


def test_report_without_a_service_or_a_run(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(trained), "--out", str(tmp_path / "page.html")]) == 0
    assert "<article>" not in (tmp_path / "page.html").read_text("utf-8")
    assert main(["report", str(tmp_path)]) == 1
    assert "expected a run's metrics, found none" in capsys.readouterr().err


def test_tensorboard_events_hold_the_metrics(trained: Path) -> None:
    [events] = (trained / "tensorboard").iterdir()
    content = events.read_bytes()
    for name in (b"train/loss", b"train/data_wait", b"epoch/validation_top1_error"):
        assert name in content


def test_ten_crops_are_corners_centre_and_mirrors() -> None:
    square = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(6, 6, 3)
    crops = ten_crops(square, 4)
    np.testing.assert_array_equal(crops[0], square[:4, :4])
    np.testing.assert_array_equal(crops[1], square[:4, 2:])
    np.testing.assert_array_equal(crops[2], square[2:, :4])
    np.testing.assert_array_equal(crops[3], square[2:, 2:])
    np.testing.assert_array_equal(crops[4], square[1:5, 1:5])
    np.testing.assert_array_equal(crops[5:], crops[:5, :, ::-1])


def test_export_is_a_safetensors_file(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    assert main(["export", "--checkpoint", str(trained), "--out", str(out)]) == 0
    weights = load(folder.find(trained)).weights
    with safe_open(out, "pt") as file:
        assert file.metadata()["recipe"] == "convnet2012"
        assert set(file.keys()) == weights.keys() | {"mean_image"}
        for name, value in weights.items():
            assert torch.equal(file.get_tensor(name), value)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_evaluate_counts_every_image_once_and_averages_after_the_softmax(
    trained: Path, loader_target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--target", loader_target, "--devices", "cpu,cpu", "--json", "--classes"]
    found = []
    for batch_size in ("7", "30"):
        assert main([*arguments, "--checkpoint", str(trained), "--batch-size", batch_size]) == 0
        found.append(json.loads(capsys.readouterr().out))
    for crops in ("centre", "ten"):
        assert found[0][crops]["num_images"] == 30
        assert found[0][crops]["loss"] == pytest.approx(found[1][crops]["loss"], rel=1e-5)
        assert found[0][crops]["top1_error"] == found[1][crops]["top1_error"]
        assert len(found[0][crops]["class_top1_errors"]) == 10
    # Twice the same network averaged is that network.
    assert main([*arguments, "--checkpoint", f"{trained},{trained}", "--crops", "centre"]) == 0
    twice = json.loads(capsys.readouterr().out)
    assert twice["centre"]["loss"] == pytest.approx(found[0]["centre"]["loss"], rel=1e-5)


def test_evaluate_refuses_other_classes(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.conftest import serving
    from tests.stores import make_store

    with serving(make_store(tmp_path / "other", num_classes=4)) as target:
        assert main(["evaluate", "--target", target, "--checkpoint", str(trained)]) == 1
    assert "was trained on other classes (10)" in capsys.readouterr().err


def test_a_loaded_network_is_the_trained_one(trained: Path) -> None:
    loaded = load_network(trained, CPU_PAIR)
    assert not loaded.network.training
    for name, value in loaded.snapshot.weights.items():
        assert torch.equal(value, loaded.network.state_dict()[name])


def test_scores_of_a_batch() -> None:
    probabilities = torch.tensor(
        [[0.5, 0.2, 0.1, 0.1, 0.05, 0.05], [0.3, 0.25, 0.2, 0.15, 0.08, 0.02], [0.0, 0.9, 0.1, 0.0, 0.0, 0.0]]
    )
    loss, top1, top5, count = score(probabilities, torch.tensor([0, 5, 2])).tolist()
    assert (top1, top5, count) == (2.0, 1.0, 3.0)
    assert loss == pytest.approx(-np.log(0.5) - np.log(0.02) - np.log(0.1), rel=1e-6)


def test_per_class_table_and_confusions() -> None:
    confusion = torch.tensor([[8, 2, 0], [0, 0, 0], [5, 1, 4]])
    assert per_class_errors(confusion) == [pytest.approx(0.2), None, pytest.approx(0.6)]
    assert worst_confusions(confusion) == [(2, 0, 5), (0, 1, 2), (2, 1, 1)]


def test_png_is_read_back_by_an_imaging_library(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    path = tmp_path / "x.png"
    path.write_bytes(png_bytes(pixels))
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
    assert zlib.crc32(b"IEND") == 0xAE426082


def test_filters_of_the_paper_take_three_rows_a_column() -> None:
    picture = filter_grid(torch.randn(48, 3, 11, 11), scale=2)
    assert picture.shape == (3 * 23 - 1, 16 * 23 - 1, 3)


def test_thumbnails_shrink_and_never_enlarge() -> None:
    images = torch.full((2, 40, 40, 3), 77, dtype=torch.uint8)
    assert thumbnails(images, 10).shape == (2, 10, 10, 3)
    assert (thumbnails(images, 10) == 77).all()
    assert thumbnails(images, 50).shape == (2, 40, 40, 3)


def test_a_chart_survives_odd_points() -> None:
    for points in ([], [(1.0, float("nan"))], [(0.0, 0.0)], [(0.0, 1e-9), (1e6, 1e9)]):
        text = line_chart("T <&>", "x", [Line(name="a", points=points)], marks=[(0.0, "lr")])
        assert text.startswith("<svg")
        assert "nan" not in text
        assert "T &lt;&amp;&gt;" in text


def test_a_chart_of_a_long_run_is_thinned_and_validation_lies_on_top() -> None:
    long = [(i / 500, 7 * 0.999**i) for i in range(45_000)]
    text = line_chart("Loss", "epoch", [Line(name="training", points=long), Line(name="validation", points=[(1, 3.0)])])
    assert len(text) < 60_000
    [training, validation] = re.findall(r'<polyline points="([^"]*)"', text)
    assert 200 <= len(training.split()) <= MAX_POINTS
    assert len(validation.split()) == 1
    assert text.count("<title>") == len(training.split()) + 1, "each point can be pointed at"
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_intervals_lie_on_one_axis_with_what_was_published() -> None:
    rows = [
        Interval(name="a <b>", found=(1.0, -0.5, 2.5), published=1.7),
        Interval(name="unknown", found=None, published=4.0),
    ]
    text = interval_chart("T", "points", rows)
    xml = ElementTree.fromstring(text)
    lines = [each.attrib for each in xml.iterfind(".//{*}line") if "stroke-width" in each.attrib]
    published, found, other = ((float(each["x1"]), float(each["x2"])) for each in lines)
    [dot] = [float(each.attrib["cx"]) for each in xml.iterfind(".//{*}circle")]
    per_point = (found[1] - found[0]) / 3.0
    assert dot == pytest.approx(found[0] + 1.5 * per_point, abs=0.2)
    assert published[0] == published[1] == pytest.approx(found[0] + 2.2 * per_point, abs=0.2)
    assert other[0] == pytest.approx(found[0] + 4.5 * per_point, abs=0.2)
    assert max(other) <= WIDTH
    assert "not measured" in text
    for nothing in ([], [Interval(name="", found=(0.0, 0.0, 0.0))]):
        assert "nan" not in interval_chart("T", "x", nothing)


def test_thinning_keeps_means_and_order() -> None:
    points = [(float(i), float(i % 2)) for i in range(1000)]
    found = thinned(points, limit=100)
    assert found == [(10 * i + 4.5, 0.5) for i in range(100)]
    assert thinned(points[:3]) == points[:3]
    assert thinned([(0.0, float("nan")), (1.0, 2.0)]) == [(1.0, 2.0)]


def test_the_axis_counts_epochs_also_when_their_steps_change() -> None:
    """As after another --batch-size."""
    train = [train_point(step, epoch=0) for step in (3, 6)] + [train_point(step, epoch=1) for step in (1, 3)]
    text = loss_chart(train, [])
    assert re.findall(r"training 1, epoch ([\d.]+)", text) == ["0.5", "1", "1.167", "1.5"]


@pytest.mark.parametrize(
    ("is_best", "next_rate", "expected"),
    [
        (True, 0.01, "epoch 3/9: loss 1.000, training errors 50.0 / 25.0 %, best, lr 0.01"),
        (False, 0.001, "epoch 3/9: loss 1.000, training errors 50.0 / 25.0 %, lr 0.01 -> 0.001"),
        (False, None, "epoch 3/9: loss 1.000, training errors 50.0 / 25.0 %, lr 0.01"),
    ],
)
def test_a_line_for_each_epoch(is_best: bool, next_rate: float | None, expected: str) -> None:
    assert epoch_line(epoch_point(2, 18), 9, is_best=is_best, next_rate=next_rate) == expected


def test_a_run_shows_a_line_for_each_epoch_and_draws_as_it_goes(
    loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(loader_target, tmp_path, "--epochs", "2") == 0
    told = capsys.readouterr().err
    assert len(re.findall(r"^epoch \d/2: loss .* validation errors .* lr ", told, flags=re.MULTILINE)) == 2
    assert " 0 images" not in told
    curve = (tmp_path / "curve.svg").read_text()
    assert curve.count("<svg") == 3
    for word in ("Loss", "Error, %", "validation top-5"):
        assert word in curve


def test_a_starving_run_says_what_to_scale() -> None:
    text = starvation_message(0.5, 1000, 2)
    assert "50% of the time" in text
    assert "could take about 2,000" in text
    assert "2.0 times its cores" in text
    assert "now 2" in text

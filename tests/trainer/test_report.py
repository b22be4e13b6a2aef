"""What a person gets from a run: charts, the report, predictions, exported weights, evaluations."""

import json
import re
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from preprocess.store import Store
from tests.trainer.conftest import CPU_PAIR
from tests.trainer.runs import train
from trainer.__main__ import main
from trainer.checkpoint import folder
from trainer.checkpoint.saved_network import load_network
from trainer.checkpoint.snapshot import load
from trainer.data.crops import ten_crops
from trainer.evaluate import score
from trainer.evaluate_command import per_class_errors, worst_confusions
from trainer.monitor.starvation import starvation_message
from trainer.predict import read_square
from trainer.report.charts import Line, line_chart
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
    assert text.count("<article>") == 8
    assert len(re.findall(r"class='bar", text)) == 8 * 5
    assert text.count(", distance") == 2 * 8 * 6  # alt and title of every neighbour
    for word in ("Loss", "Error, %", "Images a second", "filters of 11x11x3", "fingerprint", "torch", "lr 0.0002"):
        assert word in text, word


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


def test_predict_agrees_with_the_services_ten_crops(
    trained: Path, tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (90, 70), (200, 40, 10)).save(picture)
    arguments = ["predict", "--checkpoint", str(trained), "--devices", "cpu,cpu", "--json", str(picture)]
    assert main(arguments) == 0
    [document] = json.loads(capsys.readouterr().out)
    probabilities = [guess["probability"] for guess in document["guesses"]]
    assert len(probabilities) == 5
    assert probabilities == sorted(probabilities, reverse=True)
    with Store(tiny_store) as store:
        ids = [info.id for info in store.manifest.classes]
    assert {guess["class"] for guess in document["guesses"]} <= set(ids)


def test_pictures_become_squares_as_in_the_store(tmp_path: Path) -> None:
    picture = tmp_path / "wide.png"
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 32:96] = 255
    Image.fromarray(pixels).save(picture)
    assert (read_square(picture, 64) == 255).all()  # the centre 64 columns, not resampled
    assert read_square(picture, 32).shape == (32, 32, 3)


def test_ten_crops_are_corners_centre_and_mirrors() -> None:
    square = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(6, 6, 3)
    crops = ten_crops(square, 4)
    np.testing.assert_array_equal(crops[0], square[:4, :4])
    np.testing.assert_array_equal(crops[1], square[:4, 2:])
    np.testing.assert_array_equal(crops[2], square[2:, :4])
    np.testing.assert_array_equal(crops[3], square[2:, 2:])
    np.testing.assert_array_equal(crops[4], square[1:5, 1:5])
    np.testing.assert_array_equal(crops[5:], crops[:5, :, ::-1])


@pytest.mark.parametrize(
    ("content", "message"), [(b"no picture", "not a picture that can be read"), (None, "no such file")]
)
def test_predict_names_a_file_it_cannot_read(
    content: bytes | None, message: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.jpg"
    if content is not None:
        path.write_bytes(content)
    assert main(["predict", "--checkpoint", str(trained), str(path)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_predict_without_an_imaging_library_says_what_to_install(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert main(["predict", "--checkpoint", str(trained), str(tmp_path / "x.jpg")]) == 1
    assert "pip install pillow" in capsys.readouterr().err


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


def test_a_starving_run_says_what_to_scale() -> None:
    text = starvation_message(0.5, 1000, 2)
    assert "50% of the time" in text
    assert "could take about 2,000" in text
    assert "2.0 times its cores" in text
    assert "now 2" in text

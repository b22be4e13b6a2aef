"""Libraries of equal versions that were built otherwise refuse each other: nodes, and the runs of one store."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import simplejpeg
from PIL import Image

from preprocess.__main__ import main
from preprocess.images import probe, resize
from preprocess.images.probe import images_digest
from preprocess.job import run
from preprocess.job.resume import PROBE_TERM
from preprocess.store import ImageSpec, Store
from tests.preprocess.conftest import store_files

_SPEC = ImageSpec(side=16)


@pytest.fixture(autouse=True)
def _each_machine_anew() -> None:
    images_digest.cache_clear()


def _other_decoder(patch: pytest.MonkeyPatch) -> None:
    fast = partial(simplejpeg.decode_jpeg, fastdct=True)
    patch.setattr(simplejpeg, "decode_jpeg", lambda content, colorspace, **_: fast(content, colorspace))


def _other_resizer(patch: pytest.MonkeyPatch) -> None:
    real = Image.Image.resize

    def other(image: Image.Image, size: tuple[int, int], _: Any, box: Any) -> Image.Image:
        return real(image, size, Image.Resampling.LANCZOS, box=box)

    patch.setattr(Image.Image, "resize", other)


def _other_encoder(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resize, "rgb_to_yuv420", lambda *_: b"other")
    real = Image.Image.save
    patch.setattr(Image.Image, "save", lambda self, *args, **named: real(self, *args, **named | {"optimize": False}))


@pytest.mark.parametrize("other", [_other_decoder, _other_resizer, _other_encoder])
def test_the_digest_is_of_each_step(
    other: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = images_digest(_SPEC)
    images_digest.cache_clear()
    assert images_digest(_SPEC) == here
    images_digest.cache_clear()
    other(monkeypatch)
    assert images_digest(_SPEC) != here


def test_the_pictures_are_the_same_everywhere() -> None:
    # Where the libraries change this digest does, and these do not.
    assert probe._pixels(1, 5, 3).tobytes().hex()[:48] == "081716141a24181827202a2f201e350a1c15120c1d23212d"


def _command(source: Path, store: Path) -> list[str]:
    return ["run", "--source", str(source), "--out", str(store), "--shorter-side", "16", "--images-per-shard", "12"]


def _edit_terms(store: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((store / "run.json").read_text())
    edit(document["terms"])
    (store / "run.json").write_text(json.dumps(document))


@pytest.mark.usefixtures("local_ray")
def test_another_build_does_not_go_on_with_a_store(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert main(_command(small_folder, store)) == 0
    _edit_terms(store, lambda terms: terms.update({PROBE_TERM: "0123456789abcdef"}))
    before = store_files(store)
    assert main(_command(small_folder, store)) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f'{PROBE_TERM} was "0123456789abcdef" and is "{images_digest(_SPEC)}" (which gives other pixels' in error
    assert store_files(store) == before


@pytest.mark.usefixtures("local_ray")
def test_stores_that_an_earlier_release_began(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    with monkeypatch.context() as patch:
        patch.setattr(run, "images_digest", lambda spec: None)
        assert main(_command(small_folder, store)) == 0
    _edit_terms(store, lambda terms: terms.pop(PROBE_TERM))
    with Store(store) as opened:
        fingerprint = opened.fingerprint
    before = store_files(store)
    capsys.readouterr()
    # A complete one is left as it is.
    assert main(_command(small_folder, store)) == 0
    assert "complete already" in capsys.readouterr().err
    assert store_files(store) == before
    # What is unfinished is made again.
    (store / "manifest.json").unlink()
    assert main(_command(small_folder, store)) == 0
    told = capsys.readouterr()
    assert f"{store}: its run did not record the {PROBE_TERM}: its shards are made again" in told.err
    assert "resumed" not in told.out
    with Store(store) as opened:
        assert opened.fingerprint == fingerprint
    assert main(_command(small_folder, tmp_path / "new")) == 0
    assert store_files(store) == store_files(tmp_path / "new")

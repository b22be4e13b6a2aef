"""Sources with any damage: read with every member accounted for, or refused in one line; never another error.

ALEXNET_FUZZ_EXAMPLES says how many of each kind are tried: 4, or as many thousand as there is time for.
"""

import gzip
import io
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from commandline import one_line, plain
from preprocess.errors import SourceError
from preprocess.images.decode import FORMATS, UnusableImageError, decode, readable_formats
from preprocess.sources.devkit import read_devkit
from preprocess.sources.ledger import Ledger
from preprocess.sources.local_storage import LocalStorage
from tests.preprocess.accounting import outcome_of
from tests.preprocess.conftest import smooth_pixels
from tests.preprocess.layouts import devkit_files
from tests.preprocess.picture_sets import LAYOUTS, make_tar

NUM_EXAMPLES = int(os.environ.get("ALEXNET_FUZZ_EXAMPLES", "4"))
_SETTINGS = settings(
    max_examples=NUM_EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# What numbers of headers are overwritten with.
_NUMBERS = [
    b"\xff" * 8,
    b"\0" * 8,
    b"\x7f\xff\xff\xff",
    b"-0000512",
    b"99999999999",
    b"\x80" + b"\xff" * 11,
    b"=",
    b"\n",
]

Edit = tuple[str, float, int]
_EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "flip", "flip", "number", "number", "cut", "drop", "twice", "zeros", "insert"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=5,
)
# What becomes of a file as a whole.
_FATES = st.sampled_from(
    ["damaged"] * 6 + ["expanded"] * 6 + ["pipe", "folder", "leaving", "inside", "large", "renamed"]
)
_ODD_NAMES = ["\x1b[2J.png", "caf\udce9.jpg", "a\nb.png", "-of-", "train-0-of-99999999999.tar", "x" * 250, "..png", " "]


def _edited(content: bytes, edits: list[Edit]) -> bytes:
    for kind, where, value in edits:
        at = int(where * len(content))
        if kind == "flip" and content:
            content = content[:at] + bytes([content[at] ^ (value or 1)]) + content[at + 1 :]
        elif kind == "number":
            number = _NUMBERS[value % len(_NUMBERS)]
            content = content[:at] + number + content[at + len(number) :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "drop":
            content = content[:at] + content[at + 1 + value :]
        elif kind == "twice":
            content = content[:at] + content[at : at + 512] + content[at:]
        elif kind == "zeros":
            content = content[:at] + bytes(value) + content[at + value :]
        elif kind == "insert":
            content = content[:at] + bytes([value]) * 3 + content[at:]
    return content


def _befall(path: Path, fate: str, edits: list[Edit], root: Path) -> None:
    content = path.read_bytes()
    if fate == "expanded" and content.startswith(b"\x1f\x8b"):
        path.write_bytes(gzip.compress(_edited(gzip.decompress(content), edits), 1))
    elif fate in ("expanded", "damaged"):
        path.write_bytes(_edited(content, edits))
    elif fate == "large":
        os.truncate(path, 20 << 30)
    elif fate == "renamed":
        path.rename(path.with_name(_ODD_NAMES[edits[0][2] % len(_ODD_NAMES)]))
    else:
        path.unlink()
        if fate == "pipe":
            os.mkfifo(path)
        elif fate == "folder":
            path.mkdir()
        else:
            path.symlink_to(root.parent if fate == "leaving" else root)


def _check_message(error: Exception) -> None:
    message = plain(one_line(error))
    assert "fault of this program" not in message
    assert len(message) < 3000


@pytest.fixture(scope="module", autouse=True)
def _little_memory() -> "object":
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each layout, whole; not to be changed."""
    root = tmp_path_factory.mktemp("sound")
    for name, make in LAYOUTS.items():
        make(root / name)
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
@_SETTINGS
@given(
    files=st.lists(st.tuples(st.integers(0, 999), _FATES, _EDITS), min_size=1, max_size=3), follow_links=st.booleans()
)
def test_layouts(
    layout: str, sound: Path, tmp_path: Path, files: list[tuple[int, str, list[Edit]]], follow_links: bool
) -> None:
    root, store = tmp_path / "source", tmp_path / "store"
    for path in (root, store):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(sound / layout, root)
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    for number, (fate, edits) in {number % len(paths): (fate, edits) for number, fate, edits in files}.items():
        _befall(paths[number], fate, edits, root)
    try:
        outcome_of(root, store, follow_links=follow_links).check()
    except SourceError as error:
        _check_message(error)


def _saved(format: str, mode: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(smooth_pixels(3, 61, 47)).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


_IMAGES: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: _saved("JPEG", "RGB"),
    "JPEG progressive": lambda: _saved("JPEG", "RGB", progressive=True),
    "JPEG CMYK": lambda: _saved("JPEG", "CMYK"),
    "PNG": lambda: _saved("PNG", "RGBA"),
    "PNG palette": lambda: _saved("PNG", "P", transparency=3),
    "PNG 16 bits": lambda: _sixteen_bits(),
    "WEBP": lambda: _saved("WEBP", "RGBA"),
    "BMP": lambda: _saved("BMP", "RGB"),
    "GIF": lambda: _saved("GIF", "P", save_all=True, append_images=[Image.new("P", (61, 47), 5)]),
}


def _sixteen_bits() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(smooth_pixels(3, 61, 47)[..., 0].astype(np.uint16) * 257).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", _IMAGES)
@_SETTINGS
@given(edits=_EDITS, apply_exif=st.booleans())
def test_images(kind: str, edits: list[Edit], apply_exif: bool) -> None:
    if kind in FORMATS and kind not in readable_formats():
        pytest.skip(f"this Pillow reads no {kind}")
    try:
        image = decode(_edited(_IMAGES[kind](), edits), max_pixels=10**6, apply_exif=apply_exif)
    except UnusableImageError as error:
        _check_message(error)
    else:
        assert image.mode in ("RGB", "RGBX")
        assert image.width * image.height <= 10**6


@_SETTINGS
@given(edits=_EDITS, damaged=st.sampled_from(["data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt", "tar"]))
def test_devkits(tmp_path: Path, edits: list[Edit], damaged: str) -> None:
    files = {f"kit/{name}": _edited(c, edits) if name == damaged else c for name, c in devkit_files().items()}
    archive = make_tar(list(files.items()))
    (tmp_path / "kit.tar.gz").write_bytes(gzip.compress(_edited(archive, edits) if damaged == "tar" else archive, 1))
    try:
        read_devkit(LocalStorage(str(tmp_path)), str(tmp_path / "kit.tar.gz"), Ledger())
    except SourceError as error:
        _check_message(error)

"""Sources that mean harm, or are as odd as if they did: one line each, nothing read without end, no memory unasked for.

What nobody thought of is left to ``test_fuzzed_sources``.
"""

import gzip
import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from preprocess.errors import SourceError
from preprocess.images.decode import decode
from preprocess.sources import SourceOptions, read_source
from preprocess.sources.devkit import read_devkit
from preprocess.sources.ledger import Ledger
from preprocess.sources.local_storage import LocalStorage
from preprocess.sources.tar_index import index_tar
from preprocess.sources.tar_reader import whole_tar
from tests.preprocess.accounting import outcome_of, picture
from tests.preprocess.layouts import devkit_files
from tests.preprocess.memory import peak_bytes
from tests.preprocess.picture_sets import IMAGE, make_tar, put


def _refusal(root: Path, **options: Any) -> str:
    """What the error says with which a source is refused: one line."""
    with pytest.raises(SourceError) as caught:
        read_source(str(root), SourceOptions(**options), map)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Regular files alone.


def test_a_pipe_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "source/cat/1.png", picture(1))
    os.mkfifo(tmp_path / "source/cat/2.jpg")
    os.mkfifo(tmp_path / "source/val_labels.txt")
    outcome = outcome_of(tmp_path / "source", tmp_path / "store")
    outcome.check()
    assert outcome.passed_over == {"a pipe, socket or device": 2}


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_what_became_a_pipe_or_a_device_is_not_waited_for(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "1.jpg")
    storage = LocalStorage(str(tmp_path))
    for read in (
        lambda: storage.read("1.jpg", 100),
        lambda: storage.read_range("1.jpg", 0, 100),
        lambda: storage.open("1.jpg"),
    ):
        with pytest.raises(OSError, match=r"expected a file, found a pipe, socket or device|Is a directory"):
            read()


def test_a_pipe_of_labels_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "source/train/cat/1.png", picture(1))
    put(tmp_path / "source/val/1.png", picture(2))
    os.mkfifo(tmp_path / "labels")
    assert "found a pipe, socket or device" in _refusal(tmp_path / "source", val_labels=str(tmp_path / "labels"))


# Sizes are bounded before memory is made.


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    put(tmp_path / "source/cat/1.png", picture(1))
    with (tmp_path / "source/cat/2.jpg").open("wb") as file:
        file.truncate(300 << 20)  # where max_pixels is a million
    outcome = outcome_of(tmp_path / "source", tmp_path / "store")
    outcome.check()
    assert outcome.quarantined == {
        "cat/2.jpg": "expected at most 73,108,864 bytes of image, found at least 314,572,800"
    }


def test_a_file_that_grows_is_not_read_on(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").symlink_to("/proc/self/environ")  # of no bytes, as its size has it
    with pytest.raises(OSError, match="expected 0 bytes, found more"):
        LocalStorage(str(tmp_path)).read("1.jpg", 100)


def test_what_is_read_ahead_is_bounded_by_bytes(tmp_path: Path) -> None:
    for number in range(8):
        put(tmp_path / f"source/cat/{number}.jpg", b"")
        os.truncate(tmp_path / f"source/cat/{number}.jpg", 60 << 20)
    before = (
        "from preprocess.sources import SourceOptions, read_source\n"
        "from preprocess.sources.local_storage import LocalStorage\n"
        "from preprocess.sources.reading import read_images\n"
        "images = read_source(sys.argv[1], SourceOptions(), map).splits['train']\n"
    )
    during = "for _ in read_images(LocalStorage(sys.argv[1]), images, 1 << 30): pass"
    assert peak_bytes(before, during, str(tmp_path / "source")) < 3 * (60 << 20)


@pytest.mark.parametrize("name", ["words.txt", "val_labels.txt"])
def test_a_text_of_more_than_all_labels_is_not_read(name: str, tmp_path: Path) -> None:
    put(tmp_path / "source/train/cat/1.png", picture(1))
    put(tmp_path / "source/val/1.png", picture(2))
    put(tmp_path / "source" / name, b"")
    os.truncate(tmp_path / "source" / name, 1 << 40)
    assert f"{name}: expected at most 67,108,864 bytes, found 1,099,511,627,776" in _refusal(tmp_path / "source")


def _devkit(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"kit/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _mat_of(size_bytes: int) -> bytes:
    """A MAT-file whose one compressed part expands to an array of so many bytes."""
    name = struct.pack("<II", 1, 7) + b"synsets\0"
    header = struct.pack("<II", 6, 8) + struct.pack("<II", 9, 0) + struct.pack("<IIii", 5, 8, 1, size_bytes) + name
    array = header + struct.pack("<II", 2, size_bytes) + bytes(size_bytes)
    part = zlib.compress(struct.pack("<II", 14, len(array)) + array)
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(part)) + part


@pytest.mark.parametrize("where", ["a member", "a part of meta.mat", "the archive"])
def test_a_devkit_that_unpacks_to_more_is_not_unpacked(where: str, tmp_path: Path) -> None:
    kit = tmp_path / "kit.tar.gz"
    large = 200 << 20
    if where == "the archive":
        kit.touch()
        os.truncate(kit, large)
    else:
        meta = bytes(large) if where == "a member" else _mat_of(large)
        _devkit(kit, devkit_files() | {"data/meta.mat": meta})
        assert kit.stat().st_size < 2_000_000
        before = (
            "from preprocess.errors import SourceError\nfrom preprocess.sources.devkit import read_devkit\n"
            "from preprocess.sources.ledger import Ledger\nfrom preprocess.sources.local_storage import LocalStorage\n"
        )
        during = "try: read_devkit(LocalStorage('/'), sys.argv[1], Ledger())\nexcept SourceError: pass"
        assert peak_bytes(before, during, str(kit)) < 80 << 20
    with pytest.raises(SourceError, match="expected at most 16,777,216 bytes, found"):
        read_devkit(LocalStorage("/"), str(kit), Ledger())


_PICTURES: dict[str, Callable[[int, int], bytes]] = {
    "16 bits of grey": lambda width, height: _saved(Image.fromarray(np.zeros((height, width), np.uint16)), "PNG"),
    "a palette": lambda width, height: _saved(Image.new("P", (width, height)), "PNG"),
    "CMYK": lambda width, height: _saved(Image.new("CMYK", (width, height)), "JPEG"),
    "alpha": lambda width, height: _saved(Image.new("RGBA", (width, height)), "PNG"),
    "progressive CMYK": lambda width, height: _saved(
        Image.new("CMYK", (width, height)), "JPEG", progressive=True, subsampling="4:4:4"
    ),
}


def _saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", _PICTURES)
def test_decoding_takes_the_bytes_a_pixel_that_the_docs_say(kind: str) -> None:
    content = _PICTURES[kind](4000, 3000)
    before = (
        "from PIL import Image\nfrom preprocess.images.decode import decode\nimport io\nb = io.BytesIO()\n"
        "Image.new('I;16', (8, 8)).save(b, 'PNG')\ndecode(b.getvalue())\ncontent = sys.stdin.buffer.read()\n"
    )
    bytes_a_pixel = peak_bytes(before, "image = decode(content)", stdin=content) / (4000 * 3000)
    assert bytes_a_pixel < (12.5 if kind.startswith("progressive") else 9.0)


@pytest.mark.parametrize("mode", ["I;16", "P", "LA", "1", "CMYK", "RGBA"])
def test_strips_are_what_the_whole_image_is(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).integers(0, 256, (50, 41, 4), np.uint8)
    image = Image.fromarray(values[..., 0].astype(np.uint16) * 200) if mode == "I;16" else None
    image = image or Image.fromarray(values, "RGBA").convert(mode)
    content = _saved(image, "JPEG" if mode == "CMYK" else "PNG")
    whole = np.asarray(decode(content).convert("RGB"))
    monkeypatch.setattr("preprocess.images.decode._STRIP_PIXELS", 7 * 41)
    np.testing.assert_array_equal(np.asarray(decode(content).convert("RGB")), whole)


# Numbers.


@pytest.mark.parametrize("label", ["99999999999999999999", "30000000", "2147483647", "-1", "1e3", "9" * 5000, "\u0663"])
def test_labels_that_are_none(label: str, tmp_path: Path) -> None:
    members = [("a.png", picture(1)), ("a.cls", b"0"), ("b.png", picture(2)), ("b.cls", label.encode())]
    put(tmp_path / "source/x-train-0.tar", make_tar(members))
    assert "expected" in _refusal(tmp_path / "source")


@pytest.mark.parametrize("text", ["1.png " + "9" * 5000, '"1.png,0"\n"1.png,1"', "a b " * 5000])
def test_lines_of_labels_that_are_none(text: str, tmp_path: Path) -> None:
    put(tmp_path / "source/train/cat/1.png", picture(1))
    put(tmp_path / "source/val/1.png", picture(2))
    put(tmp_path / "source/val_labels.txt", text.encode())
    message = _refusal(tmp_path / "source")
    assert "val_labels.txt: expected" in message
    assert len(message) < 1000


def test_a_name_that_speaks_of_a_trillion_files(tmp_path: Path) -> None:
    put(tmp_path / "source/x-train-0-of-999999999999.tar", make_tar([("a.png", picture(1)), ("a.cls", b"0")]))
    assert outcome_of(tmp_path / "source", tmp_path / "store").num_stored == 1


def test_more_rows_than_a_file_has_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "source/train-0.parquet"
    path.parent.mkdir()
    image = pa.nulls(3_000_000, IMAGE)
    pq.write_table(pa.table({"image": image, "label": pa.nulls(3_000_000, pa.int64()).fill_null(0)}), path)
    assert path.stat().st_size < 100_000
    assert "expected at most as many rows as bytes" in _refusal(tmp_path / "source")


# Tars.


def _pax_tar(records: dict[str, str], size: int = 3) -> bytes:
    """A tar of ``a.png``, of ``size`` bytes, whose extended header says otherwise."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("a.png", "b.png"):
            info = tarfile.TarInfo(name)
            info.size = size
            info.pax_headers = records if name == "a.png" else {}
            archive.addfile(info, io.BytesIO(bytes(size)))
    return buffer.getvalue()


def _global_tar(records: dict[str, str]) -> bytes:
    """A tar of two members after a header for both of them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=records) as archive:
        for name in ("a.png", "b.png"):
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def _header(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


_TARS: dict[str, bytes] = {
    "a negative size": _pax_tar({"size": "-512"}),
    "a size of minus a header": _pax_tar({"size": "-2048"}),
    "another size for all that follow": _global_tar({"size": "1000"}),
    "a size of many digits": _pax_tar({"size": "9" * 5000}),
    "a negative header": _header(tarfile.XHDTYPE, -512) + bytes(2048),
    "a negative name": _header(tarfile.GNUTYPE_LONGNAME, -1) + bytes(2048),
    "a header of 2 GB": _header(tarfile.XHDTYPE, 2 << 30) + bytes(4096),
    "a name with NUL": _pax_tar({"path": "a\0b.png"}),
    "a name without end": _pax_tar({"path": "a" * 5000}),
    "holes without a number": _pax_tar({"GNU.sparse.size": "x"}),
    "a chain of headers": _header(tarfile.XHDTYPE, 0) * 5000 + bytes(2048),
}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("case", _TARS)
def test_headers_that_cannot_be(case: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"x{suffix}").write_bytes(gzip.compress(_TARS[case]) if suffix == ".tar.gz" else _TARS[case])
    with pytest.raises(SourceError, match=r"expected a whole tar, with a header or its end at byte [0-9,]+, found "):
        index_tar(whole_tar(LocalStorage(str(tmp_path)), f"x{suffix}"))


def test_a_header_that_tarfile_passes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python refuses negative sizes, it takes such a header for the end, and goes on after it if asked again."""
    block = tarfile.TarInfo._block  # type: ignore[attr-defined]

    def refusing(info: tarfile.TarInfo, count: int) -> int:
        if count < 0:
            raise tarfile.InvalidHeaderError("invalid offset")  # type: ignore[attr-defined]
        return int(block(info, count))

    whole = _pax_tar({"size": "-512"})
    monkeypatch.setattr(tarfile.TarInfo, "_block", refusing)
    headers_and_data = 4 * 512
    for content in (
        whole,
        whole[:headers_and_data] + bytes(10240 - headers_and_data),
        whole[headers_and_data:] + whole,
    ):
        (tmp_path / "x.tar").write_bytes(content)
        with pytest.raises(SourceError, match="expected a whole tar, with a header or its end at byte "):
            index_tar(whole_tar(LocalStorage(str(tmp_path)), "x.tar"))


@pytest.mark.parametrize("case", ["zeros at the end", "zeros between", "a name without end"])
def test_what_gzip_reads_a_byte_at_a_time(case: str, tmp_path: Path) -> None:
    """Eight gigabytes of it, of which the disk holds nothing."""
    path, whole = tmp_path / "x.tar.gz", gzip.compress(_pax_tar({}))
    with path.open("wb") as file:
        file.write(b"\x1f\x8b\x08\x08" + bytes(6) + b"a" * (3 << 20) if case == "a name without end" else whole)
        file.truncate(8 << 30)
        if case == "zeros between":
            file.seek(8 << 30)
            file.write(whole)
    with pytest.raises(
        SourceError, match=r"x\.tar\.gz: expected a whole gzipped tar, found: more than 1,048,576 zeros"
    ):
        index_tar(whole_tar(LocalStorage(str(tmp_path)), "x.tar.gz"))


def test_a_chain_of_links_ends(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("0.png"))
        for number in range(1, 100):
            info = tarfile.TarInfo(f"{number}.png")
            info.type, info.linkname = tarfile.SYMTYPE, f"{number - 1}.png"
            archive.addfile(info)
    offsets = index_tar(whole_tar(LocalStorage(str(tmp_path)), "x.tar")).offsets
    assert (offsets[:40] >= 0).all()
    assert (offsets[50:] == -1).all()


# Names.


def test_a_path_with_a_zero_byte(tmp_path: Path) -> None:
    path = tmp_path / "source/train-0.parquet"
    path.parent.mkdir()
    rows = [{"bytes": picture(n), "path": name} for n, name in enumerate(("a\0.png", "a\\0.png", "a\0.png"), start=1)]
    pq.write_table(pa.table({"image": pa.array(rows, IMAGE), "label": [0, 0, 0]}), path)
    outcome = outcome_of(tmp_path / "source", tmp_path / "store")
    outcome.check()
    assert outcome.num_stored == 3


# Links.


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A source, and beside it what it has no business with."""
    put(tmp_path / "source/train/cat/1.png", picture(1))
    put(tmp_path / "elsewhere/2.png", picture(2))
    put(tmp_path / "elsewhere/secret", b"root:x:0:0")
    return tmp_path / "source"


@pytest.mark.parametrize("prefix", ["", "file://"])
@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("train/cat/2.png", "elsewhere/2.png"),
        ("train/cat/2.png", "elsewhere/secret"),
        ("train/cat/deep", "elsewhere"),
        ("train/dog", "elsewhere"),
        ("val", "elsewhere"),
        ("train/cat/2.png", "elsewhere/nothing"),
    ],
)
def test_a_link_that_leaves_the_source_is_refused(link: str, target: str, prefix: str, linked: Path) -> None:
    (linked / link).symlink_to(linked.parent / target)
    with pytest.raises(SourceError) as caught:
        read_source(f"{prefix}{linked}", SourceOptions(), map)
    assert f"{linked / link}: expected what the source itself holds, found a link that leaves it" in str(caught.value)
    assert "--follow-links" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["words.txt", "val_labels.txt", "ILSVRC2012_devkit_t12.tar.gz", "LOC_val_solution.csv"]
)
def test_labels_that_a_link_takes_from_elsewhere_are_not_read(name: str, linked: Path) -> None:
    put(linked / "val/3.png", picture(3))
    (linked / name).symlink_to(linked.parent / "elsewhere/secret")
    message = _refusal(linked)
    assert "found a link that leaves it" in message
    assert "root" not in message.removeprefix(str(linked))


def test_links_within_the_source_are_followed(linked: Path, tmp_path: Path) -> None:
    (linked / "train/cat/2.png").symlink_to("1.png")
    (linked / "train/dog").symlink_to(linked / "train/cat")
    outcome = outcome_of(linked, tmp_path / "store")
    assert outcome.num_stored == 4


def test_what_is_no_image_is_not_quoted(linked: Path, tmp_path: Path) -> None:
    (linked / "train/cat/2.png").symlink_to(linked.parent / "elsewhere/secret")
    outcome = outcome_of(linked, tmp_path / "store", follow_links=True)
    assert outcome.quarantined == {"train/cat/2.png": "expected an image (JPEG, PNG, WEBP, BMP, GIF), found text"} or (
        outcome.quarantined == {"train/cat/2.png": "expected an image (JPEG, PNG, BMP, GIF), found text"}
    )

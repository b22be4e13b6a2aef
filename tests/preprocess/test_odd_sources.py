"""Files and folders as the world leaves them: links, names that are no text, unreadable files, stray files."""

import json
import os
from pathlib import Path

import pytest

from preprocess.__main__ import main
from preprocess.sources import SourceOptions, read_source
from preprocess.store import Store
from tests.preprocess.conftest import CLASS_IDS, jpeg, make_folder

pytestmark = pytest.mark.usefixtures("local_ray")


def _run(source: Path, out: Path, *options: str) -> int:
    return main(["run", "--source", str(source), "--out", str(out), "--shorter-side", "16", *options])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "source", train=2, val=1)


def _names(store: Path) -> list[bytes]:
    with Store(store) as opened:
        reader = opened.split("train")
        return [name for shard in range(len(reader.info.shards)) for name in reader.names(shard)]


def test_names_that_are_not_utf8(source: Path, tmp_path: Path) -> None:
    name = b"caf\xe9 \xff.JPEG"
    folder = source / "train" / CLASS_IDS[0]
    (Path(os.fsdecode(os.fsencode(folder) + b"/" + name))).write_bytes(jpeg(1))
    (Path(os.fsdecode(os.fsencode(folder) + b"/bad " + name))).write_bytes(b"no image")
    assert _run(source, tmp_path / "store", "--max-bad-images", "1") == 0
    assert b"train/n01440764/" + name in _names(tmp_path / "store")
    line = json.loads((tmp_path / "store/quarantine.jsonl").read_text())
    assert os.fsencode(line["name"]) == b"train/n01440764/bad " + name


def test_a_bad_name_can_be_printed(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = os.fsencode(source / "train" / CLASS_IDS[0]) + b"/\xff.JPEG"
    Path(os.fsdecode(path)).write_bytes(b"no image")
    assert _run(source, tmp_path / "store") == 1
    assert "\\xff.JPEG (8 bytes): expected an image" in capsys.readouterr().err


def test_names_that_terminals_would_obey(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    escape = "\x1b]0;owned\x07\r\u202e"
    for folder in (f"n03000684{escape}", CLASS_IDS[0]):
        (source / "train" / folder).mkdir(exist_ok=True)
        (source / "train" / folder / f"{escape}.JPEG").write_bytes(b"no image")
        (source / "train" / folder / f"{escape}.txt").touch()
    (source / "words.txt").write_text(f"{CLASS_IDS[0]} tench{escape}\n")
    for options in ((), ("--max-bad-images", "2")):
        _run(source, tmp_path / "store", *options)
    assert main(["info", str(tmp_path / "store")]) == 0
    told = capsys.readouterr()
    assert "\\x1b]0;owned\\x07\\r\\u202e" in told.err
    assert "tench\\x1b]0;owned" in told.out
    assert not {"\x1b", "\x07", "\r", "\u202e"} & {*told.out, *told.err}


def test_links_are_followed(source: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.JPEG").write_bytes(jpeg(1))
    (tmp_path / "more").mkdir()
    (tmp_path / "more/deep.JPEG").write_bytes(jpeg(2))
    (source / "train" / CLASS_IDS[0] / "link.JPEG").symlink_to(tmp_path / "elsewhere.JPEG")
    (source / "train" / CLASS_IDS[1] / "folder").symlink_to(tmp_path / "more")
    (source / "train" / "n03000684").symlink_to(tmp_path / "more")
    assert _run(source, tmp_path / "store", "--follow-links") == 0
    names = _names(tmp_path / "store")
    assert {b"train/n01440764/link.JPEG", b"train/n01443537/folder/deep.JPEG", b"train/n03000684/deep.JPEG"} <= {*names}


def test_links_behind_a_url_are_followed(source: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/deep.JPEG").write_bytes(jpeg(2))
    (source / "train" / CLASS_IDS[0] / "link.JPEG").symlink_to(tmp_path / "more/deep.JPEG")
    (source / "train" / CLASS_IDS[0] / "gone.JPEG").symlink_to(tmp_path / "nothing")
    (source / "train" / "n03000684").symlink_to(tmp_path / "more")
    options = SourceOptions(follow_links=True)
    local, remote = (read_source(root, options, map) for root in (str(source), f"file://{source}"))
    assert remote.classes == local.classes
    assert [*remote.splits["train"]] == [*local.splits["train"]]


def test_a_link_to_nothing_goes_to_quarantine(source: Path, tmp_path: Path) -> None:
    (source / "train" / CLASS_IDS[0] / "gone.JPEG").symlink_to(source / "nothing")
    assert _run(source, tmp_path / "store", "--max-bad-images", "1") == 0
    line = json.loads((tmp_path / "store/quarantine.jsonl").read_text())
    assert (line["name"], line["reason"]) == (
        "train/n01440764/gone.JPEG",
        "cannot be read: No such file or directory",
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_goes_to_quarantine(source: Path, tmp_path: Path) -> None:
    path = source / "train" / CLASS_IDS[0] / "secret.JPEG"
    path.write_bytes(jpeg(1))
    path.chmod(0)
    assert _run(source, tmp_path / "store", "--max-bad-images", "1") == 0
    assert "Permission denied" in (tmp_path / "store/quarantine.jsonl").read_text()


def test_a_link_up_ends(source: Path) -> None:
    (source / "train" / CLASS_IDS[0] / "loop").symlink_to(source / "train" / CLASS_IDS[0])
    assert len(read_source(str(source), SourceOptions(), map).splits["train"]) == 6


def test_files_that_are_no_images_by_name_are_counted(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "train" / ".DS_Store").write_bytes(b"x")
    (source / "train" / CLASS_IDS[0] / "Thumbs.db").write_bytes(b"x")
    (source / "val" / CLASS_IDS[0] / "notes.txt").write_bytes(b"x")
    assert _run(source, tmp_path / "store", "--json") == 0
    assert json.loads(capsys.readouterr().out)["num_ignored_files"] == 3


def test_the_listing_is_compact() -> None:
    # 14.2 million images must fit in the driver's memory: columns, not objects.
    from preprocess.sources.listing import ImageListBuilder

    builder = ImageListBuilder("file")
    for number in range(1000):
        builder.add(b"n01440764/n01440764_%05d.JPEG" % number, 0, 100_000)
    images = builder.build()
    own_bytes = images.name_ends.nbytes + images.labels.nbytes + images.sizes.nbytes
    assert len(images.name_bytes) + own_bytes < 1000 * 52
    assert (images.offsets.strides, images.container_indices.strides) == ((0,), (0,))

"""The law of accounts over trees, tars and parquet files that hypothesis makes up: nothing lost, no label another's."""

import io
import os
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocess.errors import SourceError
from tests.preprocess.accounting import Outcome, outcome_of, picture
from tests.preprocess.picture_sets import IMAGE

_SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Of names of files: plain, with dots and spaces, not UTF-8, and such as have a meaning elsewhere.
_STEMS = st.sampled_from(["a", "b", "A", "a.b", "a b", "v1.2.3", "caf\udce9", "train", "0", "-x", "images"])
_SUFFIXES = st.sampled_from([".png", ".PNG", ".jpg", ".bmp", ".webp"])
_CLASSES = st.sampled_from(["cat", "golden", "golden retriever", "0", "n01440764", "caf\udce9", "a.b"])
_KINDS = st.sampled_from(
    ["image", "image", "image", "bad", "text", "apple", "hidden", "pipe", "link", "dangling", "deep"]
)


def _fresh(tmp_path: Path) -> tuple[Path, Path]:
    """A source and a store to be, both empty."""
    for name in ("source", "store"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    (tmp_path / "source").mkdir()
    return tmp_path / "source", tmp_path / "store"


def _outcome(root: Path, store: Path) -> Outcome | None:
    """What became of the members, or None where the source as a whole was refused, and nothing was stored."""
    try:
        outcome = outcome_of(root, store, follow_links=True)
    except SourceError as error:
        message = str(error)
    else:
        outcome.check()
        return outcome
    assert "fault of this program" not in message
    assert "\n" not in message
    return None


@_SETTINGS
@given(st.lists(st.tuples(st.sampled_from(["train", "val"]), _CLASSES, _STEMS, _SUFFIXES, _KINDS), max_size=14))
def test_trees(tmp_path: Path, files: list[tuple[str, str, str, str, str]]) -> None:
    root, store = _fresh(tmp_path)
    stored: dict[str, Counter[tuple[int, str]]] = {"train": Counter(), "val": Counter()}
    num_bad = num_passed_over = 0
    made: set[Path] = set()
    for number, (split, class_id, stem, suffix, kind) in enumerate(files, start=1):
        folder = root / split / class_id / ("deep/er" if kind == "deep" else "")
        path = folder / {"text": f"{stem}.txt", "apple": f"._{stem}{suffix}", "hidden": f".{stem}.db"}.get(
            kind, f"{stem}{suffix}"
        )
        if path in made or path.parent in made:
            continue
        made.add(path)
        folder.mkdir(parents=True, exist_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "dangling":
            path.symlink_to("nothing")
        elif kind == "link":
            (tmp_path / "elsewhere").mkdir(exist_ok=True)
            target = tmp_path / "elsewhere" / f"{number}.png"
            target.write_bytes(picture(number))
            path.symlink_to(target)
        else:
            path.write_bytes(b"no image" if kind in ("bad", "text") else picture(number))
        if kind in ("image", "link", "deep"):
            stored[split][number, class_id] += 1
        num_bad += kind in ("bad", "dangling")
        num_passed_over += kind in ("text", "apple", "hidden", "pipe")
    outcome = _outcome(root, store)
    if outcome is None:
        # For no other reasons than that there is nothing to train on, or that a class of val is none of train.
        val, train = ({path.name for path in root.glob(f"{split}/*")} for split in ("val", "train"))
        assert not val <= train or not _any_image(root / "train")
        return
    assert outcome.stored == {split: pictures for split, pictures in stored.items() if split in outcome.stored}
    assert outcome.num_stored == sum(pictures.total() for pictures in stored.values())
    assert (len(outcome.quarantined), sum(outcome.passed_over.values())) == (num_bad, num_passed_over)


def _any_image(folder: Path) -> bool:
    suffixes = (".png", ".jpg", ".bmp", ".webp")
    return any(
        path.name.lower().endswith(suffixes) and not path.name.startswith("._") and not path.is_fifo()
        for path in folder.rglob("*")
    )


_MEMBER_KINDS = st.sampled_from(
    ["sample", "sample", "sample", "second", "label", "json", "apple", "hard", "symbolic", "bad"]
)


@_SETTINGS
@given(st.lists(st.tuples(_STEMS, _SUFFIXES, st.integers(0, 3), _MEMBER_KINDS), max_size=12), st.randoms())
def test_tars(tmp_path: Path, members: list[tuple[str, str, int, str]], random: object) -> None:
    """Members in any order; a name that is there twice is refused, whatever it is."""
    root, store = _fresh(tmp_path)
    stored: Counter[tuple[int, int]] = Counter()
    num_bad = 0
    entries: list[tuple[str, bytes, str]] = [("first.png", picture(0), ""), ("first.cls", b"3", "")]
    stored[0, 3] += 1
    for number, (stem, suffix, label, kind) in enumerate(members, start=1):
        key = f"{number}/{stem}"
        label_entry = (f"{key}.cls", b"%d" % label, "")
        if kind in ("sample", "second"):
            entries += [(key + suffix, picture(number), ""), label_entry]
            stored[number, label] += 1
        if kind == "second":
            # The preferred suffixes are the sample's, wherever in the tar they are.
            entries += [(f"{key}.gif", picture(1000 + number), "")]
            if suffix == ".bmp":
                stored[number, label] -= 1
                stored[-number, label] += 1
        elif kind == "label":
            entries += [label_entry]
        elif kind == "json":
            entries += [(f"{key}.json", b"{}", "")]
        elif kind == "apple":
            entries += [(f"{number}/._{stem}{suffix}", b"x", "")]
        elif kind == "bad":
            entries += [(key + suffix, b"no image", ""), label_entry]
            num_bad += 1
        elif kind in ("hard", "symbolic"):
            target = "first.png" if kind == "hard" else "../first.png"
            entries += [(key + suffix, b"", target), label_entry]
            stored[0, label] += 1
    ordered = [entries[0], *_shuffled(entries[1:], random)]
    with tarfile.open(root / "x-train-0.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content, target in ordered:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if target:
                info.type, info.linkname = (tarfile.SYMTYPE if target.startswith("..") else tarfile.LNKTYPE), target
            archive.addfile(info, io.BytesIO(content))
    outcome = _outcome(root, store)
    assert outcome is not None
    assert outcome.num_members == 1 + len(entries)
    found = {(number, int(class_id)): n for (number, class_id), n in outcome.stored["train"].items()}
    either = {key: n for key, n in stored.items() if key[0] >= 0 and n}
    for number, label in (key for key, n in stored.items() if key[0] < 0):
        # Of two that are not preferred the first in the tar is the sample's.
        one, other = (-number, label), (1000 - number, label)
        assert (one in found) != (other in found)
        found.pop(one, None)
        found.pop(other, None)
    assert found == either
    assert len(outcome.quarantined) == num_bad


def _shuffled(entries: list[tuple[str, bytes, str]], random: object) -> list[tuple[str, bytes, str]]:
    entries = list(entries)
    random.shuffle(entries)  # type: ignore[attr-defined]
    return entries


_ROW_KINDS = st.sampled_from(["image", "image", "image", "bad", "null", "no bytes", "no path"])
_PATHS = st.sampled_from(["a.png", "b.png", "a.png#1", "3", "caf\u00e9"])


@_SETTINGS
@given(st.lists(st.lists(st.tuples(_ROW_KINDS, _PATHS, st.integers(0, 3)), max_size=8), min_size=1, max_size=3))
def test_parquet_files(tmp_path: Path, files: list[list[tuple[str, str, int]]]) -> None:
    root, store = _fresh(tmp_path)
    stored: Counter[tuple[int, int]] = Counter()
    num_bad = num_rows = 0
    for part, rows in enumerate(files):
        images: list[dict[str, object] | None] = []
        for place, (kind, path, label) in enumerate(rows):
            number = 1000 * part + place
            content = {"bad": b"no image", "no bytes": None}.get(kind, picture(number))
            images.append(None if kind == "null" else {"bytes": content, "path": None if kind == "no path" else path})
            if kind in ("image", "no path"):
                stored[number, label] += 1
            num_bad += kind in ("bad", "null", "no bytes")
        num_rows += len(rows)
        table = pa.table({"image": pa.array(images, IMAGE), "label": pa.array([row[2] for row in rows], pa.int64())})
        pq.write_table(table, root / f"train-{part:05d}-of-{len(files):05d}.parquet", row_group_size=3)
    outcome = _outcome(root, store)
    if outcome is None:
        assert num_rows == 0
        return
    assert outcome.num_members == len(files) + num_rows
    assert {(number, int(class_id)): n for (number, class_id), n in outcome.stored["train"].items()} == stored
    assert len(outcome.quarantined) == num_bad

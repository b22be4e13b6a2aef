"""However a shard is damaged: the image that was written or an error, and the process lives."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.errors import DamagedRecordError
from preprocess.store import Encoding, Store
from tests.preprocess.test_bound_stores import contents
from tests.stores import make_store
from tests.thoroughness import NUM_EXAMPLES

ENCODINGS: tuple[Encoding, ...] = ("jpeg", "yuv420", "raw")


class Victim:
    """A store, what its first shard's bytes are, and what it holds."""

    def __init__(self, path: Path) -> None:
        self.path, self.shard = path, path / "shards/train-00000.lmdb"
        self.whole = self.shard.read_bytes()
        with Store(path) as store:
            self.contents = contents(store)


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> dict[Encoding, Victim]:
    folder = tmp_path_factory.mktemp("victims")
    return {
        encoding: Victim(make_store(folder / encoding, num_train=8, num_val=1, side=48, encoding=encoding))
        for encoding in ENCODINGS
    }


PAGE_BYTES = 4096
PLACES = st.integers(0, 2**20)
DAMAGES = st.one_of(
    st.tuples(st.just("flip"), PLACES, st.integers(0, 7)),
    st.tuples(st.just("head"), st.integers(0, 2 * PAGE_BYTES - 1), st.integers(0, 7)),
    st.tuples(st.just("page header"), PLACES, st.integers(0, 8 * 64 - 1)),
    st.tuples(st.just("copy a page"), PLACES, PLACES),
    st.tuples(st.just("swap pages"), PLACES, PLACES),
    st.tuples(st.just("zero"), PLACES, st.integers(1, PAGE_BYTES)),
    st.tuples(st.just("cut"), PLACES, st.just(0)),
)


def damage(content: bytearray, kind: str, one: int, two: int) -> None:
    """Does to a shard's bytes what a disk, a cable or a hand might."""
    if len(content) < 2 * PAGE_BYTES:
        return
    num_pages = len(content) // PAGE_BYTES
    first, second = (
        slice(page % num_pages * PAGE_BYTES, page % num_pages * PAGE_BYTES + PAGE_BYTES) for page in (one, two)
    )
    if kind in ("flip", "head"):
        content[one % len(content)] ^= 1 << two
    elif kind == "page header":
        content[first.start + two // 8] ^= 1 << two % 8
    elif kind == "copy a page":
        content[first] = content[second]
    elif kind == "swap pages":
        content[first], content[second] = content[second], content[first]
    elif kind == "zero":
        begin = one % len(content)
        content[begin : begin + two] = bytes(len(content[begin : begin + two]))
    else:
        del content[one % len(content) :]


@pytest.mark.slow
@settings(max_examples=120 * NUM_EXAMPLES, deadline=None)
@given(encoding=st.sampled_from(ENCODINGS), damages=st.lists(DAMAGES, min_size=1, max_size=6), while_open=st.booleans())
def test_a_damaged_shard_gives_what_was_written_or_an_error(
    victims: dict[Encoding, Victim], encoding: Encoding, damages: list[tuple[str, int, int]], while_open: bool
) -> None:
    """And never kills the process: whether it is damaged before or while it is open."""
    victim = victims[encoding]
    content = bytearray(victim.whole)
    for kind, one, two in damages:
        damage(content, kind, one, two)
    victim.shard.write_bytes(victim.whole if while_open else content)
    try:
        with Store(victim.path) as store:
            if while_open:
                store.open_shards()
                with victim.shard.open("r+b") as file:
                    file.write(content)
                    file.truncate()
            for image, true in zip(contents(store), victim.contents, strict=True):
                assert image == true or (isinstance(image, str) and "train-00000.lmdb: " in image)
            with suppress(DamagedRecordError):
                assert store.split("train").names(0) == [b"train/%d.JPEG" % number for number in range(8)]
    except DamagedRecordError as error:
        assert "train-00000.lmdb: " in str(error)  # noqa: PT017  # either is right
    finally:
        victim.shard.write_bytes(victim.whole)

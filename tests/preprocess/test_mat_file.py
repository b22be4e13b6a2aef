"""Our reader of MAT-files against scipy's, over what scipy writes of ImageNet's kind; damage is for the fuzzer."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from preprocess.sources.mat_file import read_structures

_ROWS = st.lists(
    st.tuples(
        st.integers(0, 2**31 - 1),
        st.text(st.characters(codec="latin-1", exclude_characters="\0"), min_size=1, max_size=30),
        st.sampled_from(["u1", "u2", "i4", "f4", "f8"]),
        st.lists(st.floats(0, 9), max_size=3),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("is_compressed", [True, False])
@given(rows=_ROWS)
def test_scipy_reads_the_same(is_compressed: bool, rows: list[tuple[int, str, str, list[float]]]) -> None:
    fields = [(name, object) for name in ("id", "words", "children", "inner")]
    structures = np.zeros((len(rows), 1), fields)
    for place, (number, words, kind, children) in enumerate(rows):
        limit = np.iinfo(kind).max if kind[0] in "ui" else 2**20
        structures[place, 0] = (np.array(number % limit, kind), words, np.array(children), {"a": 1.0})
    file = io.BytesIO()
    savemat(file, {"other": 1.0, "synsets": structures}, do_compression=is_compressed)
    found = read_structures(file.getvalue(), "synsets", 1 << 20)
    expected = loadmat(io.BytesIO(file.getvalue()))["synsets"]
    assert [row["words"] for row in found] == [str(row["words"][0]) for row in expected[:, 0]]
    assert [row["id"] for row in found] == [float(row["id"][0, 0]) for row in expected[:, 0]]
    firsts = [row["children"].ravel() for row in expected[:, 0]]
    assert [row["children"] for row in found] == [float(first[0]) if len(first) else None for first in firsts]
    assert all(row["inner"] is None for row in found)


def test_what_is_not_there_is_said() -> None:
    file = io.BytesIO()
    savemat(file, {"other": 1.0}, do_compression=True)
    with pytest.raises(ValueError, match="expected an array of structures called synsets, found none"):
        read_structures(file.getvalue(), "synsets", 1 << 20)

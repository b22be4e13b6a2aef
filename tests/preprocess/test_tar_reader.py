"""A tar is read to its end mark or refused with the byte: nothing of a damaged or cut one is lost silently."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocess.errors import SourceError
from preprocess.sources.local_storage import LocalStorage
from preprocess.sources.tar_index import index_tar
from preprocess.sources.tar_reader import whole_tar

_BLOCK = 512


def _tar(members: list[tuple[str, bytes]], format: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


_MEMBERS = [(f"{number}.jpg", bytes([number]) * (700 * number)) for number in range(6)]


def _index(tmp_path: Path, content: bytes, name: str = "x.tar") -> list[tuple[bytes, int, int]]:
    (tmp_path / name).write_bytes(content)
    return list(index_tar(whole_tar(LocalStorage(str(tmp_path)), name)).members())


def _headers(content: bytes) -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [member.offset for member in archive]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_whole_tar_is_read(format: int, tmp_path: Path) -> None:
    members = [*_MEMBERS, ("a" * 90 + "/" + "b" * 90, b"long")]
    content = _tar(members, format)
    for name, file in (("x.tar", content), ("x.tar.gz", gzip.compress(content)), ("x.tgz", gzip.compress(content))):
        found = _index(tmp_path, file, name)
        assert [(os.fsdecode(n), content[offset : offset + size]) for n, offset, size in found] == members


def test_a_tar_may_end_with_its_mark(tmp_path: Path) -> None:
    content = _tar(_MEMBERS)
    end = len(content.rstrip(b"\0")) // _BLOCK * _BLOCK + _BLOCK
    for zeros in (512, 1024, 10240):
        assert len(_index(tmp_path, content[:end] + bytes(zeros))) == len(_MEMBERS)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damaged_header_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(_tar(_MEMBERS))
    header = data.draw(st.sampled_from(_headers(bytes(content))))
    place = header + data.draw(st.integers(0, 147) | st.integers(156, 499))
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(
        SourceError, match=r"x.tar: expected a whole tar, with a header or its end at byte [0-9,]+, found "
    ):
        _index(tmp_path, bytes(content))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_cut_tar_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = _tar(_MEMBERS)
    end = len(content.rstrip(b"\0")) // _BLOCK * _BLOCK + _BLOCK
    boundaries = st.sampled_from([*_headers(content)[1:], end])
    cut = data.draw(boundaries | st.integers(1, end + _BLOCK - 1))
    for name, file in (
        ("x.tar", content[:cut]),
        ("x.tar.gz", gzip.compress(content[:cut])),
        ("x.tgz", gzip.compress(content)[:-9]),
    ):
        with pytest.raises(SourceError, match="expected a whole"):
            _index(tmp_path, file, name)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda tar, at: tar[:at] + bytes(len(tar) - at + 20_000), "zeros where at most 10,752 end a tar"),
        (lambda tar, at: tar[:at] + bytes(512) + tar[at + 512 :], "512 zeros and then more"),
        (lambda tar, at: tar + tar, "zeros and then more: damaged headers, or tars joined by cat"),
        (lambda tar, at: tar[:at] + b"x" * 512 + tar[at + 512 :], "the header is damaged"),
        (lambda tar, at: tar[: at + 100], "the end of the file after 100 bytes: it is cut off"),
        (lambda tar, at: gzip.compress(tar), "gzipped bytes: call it .tar.gz"),
        (lambda tar, at: b"", "the end of the file after 0 bytes"),
    ],
)
def test_what_follows_the_last_member_is_said(change: object, found: str, tmp_path: Path) -> None:
    assert callable(change)
    content = _tar(_MEMBERS)
    with pytest.raises(SourceError) as caught:
        _index(tmp_path, change(content, _headers(content)[3]))
    assert found in str(caught.value)


def test_a_size_that_overruns_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x.jpg")
    info.size = 10**6
    with pytest.raises(SourceError, match=r"at byte 0, found 'x.jpg', which goes on past the end"):
        _index(tmp_path, info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))


@pytest.mark.parametrize("names", [("a.jpg", "a.jpg"), ("a.jpg", "./a.jpg")])
def test_a_name_that_is_there_twice_is_refused_with_both_places(names: tuple[str, str], tmp_path: Path) -> None:
    content = _tar([(names[0], b"1"), ("b.jpg", b"2"), (names[1], b"3")])
    with pytest.raises(SourceError, match=r"expected each name once, found 'a.jpg' at byte 0 and at byte 2,048"):
        _index(tmp_path, content)


def _link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_links_are_what_they_lead_to(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(_link("d/first.jpg", "../a.jpg", tarfile.SYMTYPE))
        info = tarfile.TarInfo("a.jpg")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
        archive.addfile(_link("hard.jpg", "a.jpg", tarfile.LNKTYPE))
        archive.addfile(_link("chain.jpg", "d/first.jpg", tarfile.SYMTYPE))
        archive.addfile(_link("gone.jpg", "nothing.jpg", tarfile.SYMTYPE))
        archive.addfile(_link("loop.jpg", "loop.jpg", tarfile.SYMTYPE))
    index = index_tar(whole_tar(LocalStorage(str(tmp_path)), "x.tar"))
    content = (tmp_path / "x.tar").read_bytes()
    found = {name: content[offset : offset + size] if offset >= 0 else None for name, offset, size in index.members()}
    whole = dict.fromkeys((b"d/first.jpg", b"a.jpg", b"hard.jpg", b"chain.jpg"), b"abc")
    assert found == whole | {b"gone.jpg": None, b"loop.jpg": None}


def test_what_is_no_file_is_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (
            ("pipe.jpg", tarfile.FIFOTYPE),
            ("folder", tarfile.DIRTYPE),
            ("__MACOSX/._a.jpg", tarfile.REGTYPE),
        ):
            archive.addfile(_link(name, "", kind))
    index = index_tar(whole_tar(LocalStorage(str(tmp_path)), "x.tar"))
    counts = {reason: count for reason, (count, _) in index.ledger.passed_over.items()}
    assert counts == {"a pipe, socket or device": 1, "hidden or left by the operating system": 1}
    assert (index.ledger.num_found, list(index.members())) == (2, [])

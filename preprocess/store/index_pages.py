"""Where each record lies in a shard's file, from the index pages of LMDB alone: no record is read to learn its place.

LMDB keeps records of more than half a page in pages of their own, and their places in the leaves of its B-tree: ten
pages of 4 KB for a shard of a thousand images, read in three waits for the disk. So a store needs no table beside them
that could be another file's. The layout is that of LMDB 0.9 (``mdb.c``: MDB_meta, MDB_page, MDB_node), data version 1,
of little-endian machines.
"""

import os
import struct

import numpy as np
import numpy.typing as npt

from preprocess.store import page_cache
from preprocess.store.format import DIGESTS_KEY, NAMES_KEY

# At the start of each of the first two pages, after its header: magic, version, address, map size; of the list of free
# pages and of the records each: page size (in the former), flags, depth, branch, leaf and overflow pages, entries and
# root; then the last page and the number of the transaction that wrote this.
_META = struct.Struct("<16x II QQ IHH5Q IHH5Q QQ")
_HEAD_BYTES = 8192  # both, where pages are of 4 KB
_MAGIC, _VERSION = 0xBEEFC0DE, 1
# A page's header: its number, flags, and where the list of its nodes ends. A page of records has no more before them.
_PAGE_HEADER = struct.Struct("<Q2xHH2x")
_BRANCH, _LEAF = 0x01, 0x02
# A node, in words of 16 bits: two halves of a size, or of a page's number in branches; flags, or that number's high
# part; bytes of the key; then, of keys of eight bytes, the key, and in leaves the record or its first page's number.
_NODE_WORDS, _KEY_BYTES, _NODE_BYTES = 12, 8, 16
_IN_PAGES_OF_ITS_OWN = 0x01
_LEAST_PAGE_BYTES, _MOST_PAGE_BYTES = 1 << 9, 1 << 16
_MOST_DEPTH = 16

Places = npt.NDArray[np.int64]
"""int64 [N, 2]: offset and bytes of each record by position; then of their digests, where there are some; last of the
list of names."""


def record_places(descriptor: int, num_images: int) -> Places:
    """Where the records of a shard's file lie.

    Raises OSError when it cannot be read, and ValueError when it does not hold just those records, each in its place.
    """
    index = _Index(descriptor)
    try:
        keys, places = index.records()
    except (IndexError, struct.error):
        raise ValueError("expected the nodes of a page within it, found one beyond its end") from None
    others = [int.from_bytes(key) for key in (DIGESTS_KEY, NAMES_KEY)][-max(len(keys) - num_images, 1) :]
    if not np.array_equal(keys, np.append(np.arange(num_images, dtype=np.uint64), np.array(others, np.uint64))):
        raise ValueError(f"expected the keys of {num_images:,} records and their names, found {len(keys):,} keys")
    # One that lies where another does is another's: a damaged index.
    extents = places[np.argsort(places[:, 0], kind="stable")]
    ends = np.append(extents[1:, 0], os.fstat(descriptor).st_size)
    if (extents.sum(axis=1) > ends).any():
        raise ValueError("expected each record in a place of its own, found two in one, or one beyond the end")
    return places


class _Index:
    """The B-tree of an LMDB file without named databases."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        head = os.pread(descriptor, _HEAD_BYTES, 0)
        self._page_bytes = _meta(head)[4]
        if not _LEAST_PAGE_BYTES <= self._page_bytes <= _MOST_PAGE_BYTES:
            raise ValueError(f"expected pages of 512 bytes to 64 KB, found {self._page_bytes:,}")
        self._num_pages = os.fstat(descriptor).st_size // self._page_bytes
        second = head[self._page_bytes :] or os.pread(descriptor, _META.size, self._page_bytes)
        # Of the two, the one written last counts.
        meta = max(_meta(head), _meta(second), key=lambda meta: meta[-1])
        self._depth, self._root = meta[14], meta[19]
        if self._depth > _MOST_DEPTH or (self._depth and self._root >= self._num_pages):
            raise ValueError(f"expected an index in {self._num_pages:,} pages, found its root at {self._root:,}")

    def records(self) -> tuple[npt.NDArray[np.uint64], Places]:
        """The keys of all records and their places, in order."""
        numbers = np.array([self._root] if self._depth else [], np.int64)  # an empty tree has no root
        for _ in range(self._depth - 1):
            low, high, highest = self._nodes(numbers, _BRANCH)[1].astype(np.int64).T[:3]
            numbers = low | high << 16 | highest << 32
        offsets, nodes = self._nodes(numbers, _LEAF)
        if (nodes[:, 3] != _KEY_BYTES).any():
            raise ValueError(f"expected keys of {_KEY_BYTES} bytes, found others")
        first_pages = nodes[:, 8:].copy().view("<u8")[:, 0]
        apart = nodes[:, 2] & _IN_PAGES_OF_ITS_OWN != 0
        if (first_pages[apart] >= self._num_pages).any():
            raise ValueError("expected each record within the file, found one beyond its end")
        apart_offsets = first_pages.astype(np.int64) * self._page_bytes + _PAGE_HEADER.size
        sizes = nodes[:, 0].astype(np.int64) | nodes[:, 1].astype(np.int64) << 16
        places = np.stack([np.where(apart, apart_offsets, offsets + _NODE_BYTES), sizes], axis=1)
        return nodes[:, 4:8].copy().view(">u8")[:, 0], places

    def _nodes(self, numbers: npt.NDArray[np.int64], kind: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]:
        """The nodes of pages of one level, in order: their offsets in the file, and uint16 [N, 12] of each."""
        if len(numbers) and numbers.max() >= self._num_pages:
            raise ValueError(f"expected a page below {self._num_pages:,}, found {numbers.max():,}")
        size_bytes = self._page_bytes
        # They lie scattered: all are asked for before the first is read.
        page_cache.will_need(
            self._descriptor, [(number * size_bytes, size_bytes) for number in sorted(numbers.tolist())]
        )
        offsets, nodes = [np.zeros(0, np.int64)], [np.zeros((0, _NODE_WORDS), np.uint16)]
        for number in numbers.tolist():
            page = os.pread(self._descriptor, size_bytes, number * size_bytes)
            found, flags, end = _PAGE_HEADER.unpack_from(page)
            if found != number or not flags & kind:
                raise ValueError(f"expected page {number:,} of kind {kind} of the index, found another")
            # What follows a node at the end of a page is no part of it.
            words = np.frombuffer(page + bytes(2 * _NODE_WORDS), "<u2")
            places = words[_PAGE_HEADER.size // 2 : end // 2].astype(np.int64)
            offsets.append(number * size_bytes + places)
            nodes.append(words[places[:, None] // 2 + np.arange(_NODE_WORDS)])
        return np.concatenate(offsets), np.concatenate(nodes)


def _meta(page: bytes) -> tuple[int, ...]:
    if len(page) >= _META.size:
        meta: tuple[int, ...] = _META.unpack_from(page)
        if meta[:2] == (_MAGIC, _VERSION):
            return meta
    raise ValueError("expected an LMDB file of version 1, found another")

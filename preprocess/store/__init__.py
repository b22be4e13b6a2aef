"""The store: contract 1. LMDB shards, a manifest and statistics; this package alone reads and writes them."""

from preprocess.store.format import (
    FORMAT_VERSION,
    ClassInfo,
    Encoding,
    ImageSpec,
    Manifest,
    ShardInfo,
    SplitInfo,
    Statistics,
)
from preprocess.store.reader import Store
from preprocess.store.split_reader import Reads
from preprocess.store.writer import ShardWriter, write_manifest, write_statistics

__all__ = [
    "FORMAT_VERSION",
    "ClassInfo",
    "Encoding",
    "ImageSpec",
    "Manifest",
    "Reads",
    "ShardInfo",
    "ShardWriter",
    "SplitInfo",
    "Statistics",
    "Store",
    "write_manifest",
    "write_statistics",
]

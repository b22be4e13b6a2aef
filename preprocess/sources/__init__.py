"""The layouts that ImageNet and its relatives come in, one file each, and what all of them are read through."""

from preprocess.sources.layouts import Layout, read_source
from preprocess.sources.listing import ImageList, Source
from preprocess.sources.options import SourceOptions
from preprocess.sources.storage import Storage, open_storage

__all__ = ["ImageList", "Layout", "Source", "SourceOptions", "Storage", "open_storage", "read_source"]

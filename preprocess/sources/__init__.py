"""The forms that ImageNet comes in, one file each, and which of them a given path is."""

from typing import Literal, get_args

from preprocess.errors import SourceError
from preprocess.sources import folder, kaggle, official, parquet, webdataset
from preprocess.sources.listing import ImageEntry, ImageList, Source
from preprocess.sources.options import MapTasks, SourceOptions
from preprocess.sources.storage import Storage, open_storage

__all__ = [
    "ImageEntry",
    "ImageList",
    "Layout",
    "MapTasks",
    "Source",
    "SourceOptions",
    "Storage",
    "open_storage",
    "read_source",
]

Layout = Literal["official", "kaggle", "parquet", "webdataset", "folder"]


def read_source(root: str, options: SourceOptions, map_tasks: MapTasks, *, layout: Layout | None = None) -> Source:
    """Lists the source at ``root``, a path or a URL, in the layout given or found.

    ``map_tasks`` does the reading that can be divided. Raises SourceError when the source is empty, unreadable or in
    no known layout.
    """
    storage = open_storage(root)
    try:
        if not storage.is_folder(""):
            found = "nothing" if storage.size_of("") is None else "a file"
            raise SourceError(f"{root}: expected a folder, found {found}")
        if not storage.list(""):
            raise SourceError(f"{root}: expected images in some layout, found an empty folder")
        source = _read(storage, options, map_tasks, layout or detect_layout(storage))
    except OSError as error:
        raise SourceError(f"{root}: cannot be listed: {error}") from None
    finally:
        storage.close()
    if not len(source.splits.get("train", ())):
        raise SourceError(f"{root}: expected images of the training split, found none")
    return source


def detect_layout(storage: Storage) -> Layout:
    """The layout of a source; raises SourceError, naming what each would have looked like, when it is none."""
    if official.detect(storage):
        return "official"
    if kaggle.detect(storage):
        return "kaggle"
    if parquet.detect(storage):
        return "parquet"
    if webdataset.detect(storage):
        return "webdataset"
    if folder.detect(storage):
        return "folder"
    layouts = "; ".join(
        f"{module.LAYOUT}: {module.EXPECTED}" for module in (official, kaggle, parquet, webdataset, folder)
    )
    raise SourceError(f"{storage.root}: expected one of the layouts ({layouts}), found none of them")


def _read(storage: Storage, options: SourceOptions, map_tasks: MapTasks, layout: Layout) -> Source:
    assert layout in get_args(Layout)
    match layout:
        case "official":
            return official.read(storage, options, map_tasks)
        case "kaggle":
            return kaggle.read(storage, options)
        case "parquet":
            return parquet.read(storage, map_tasks)
        case "webdataset":
            return webdataset.read(storage, map_tasks)
        case "folder":
            return folder.read(storage, options)

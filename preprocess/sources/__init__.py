"""The forms that ImageNet comes in, one file each, and which of them a given path is."""

from preprocess.errors import SourceError
from preprocess.sources import folder
from preprocess.sources.listing import ImageEntry, ImageList, Source
from preprocess.sources.storage import LocalStorage, Storage, open_storage

__all__ = ["ImageEntry", "ImageList", "LocalStorage", "Source", "Storage", "open_storage", "read_source"]


def read_source(root: str) -> Source:
    """Lists the source at ``root``, a path or a URL. Raises SourceError when it is in no known layout or empty."""
    storage = open_storage(root)
    try:
        if not storage.is_folder(""):
            found = "nothing" if storage.size_of("") is None else "a file"
            raise SourceError(f"{root}: expected a folder of images, found {found}")
        if not storage.list(""):
            raise SourceError(f"{root}: expected a folder of images, found an empty folder")
        if not folder.detect(storage):
            raise SourceError(f"{root}: expected train/<class>/* or <class>/*, found no folders of classes")
        source = folder.read(storage)
    except OSError as error:
        raise SourceError(f"{root}: cannot be listed: {error}") from None
    finally:
        storage.close()
    if not len(source.splits.get("train", ())):
        raise SourceError(f"{root}: expected images of the training split, found none")
    return source

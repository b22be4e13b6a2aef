"""Which layout a source is in, and what is listed of it: each layout is read by a file of its name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol

import numpy as np

from preprocess.errors import SourceError
from preprocess.sources import cifar, folder, kaggle, official, parquet, webdataset
from preprocess.sources.ledger import Ledger
from preprocess.sources.listing import ImageList, Source
from preprocess.sources.options import MapTasks, Reading, SourceOptions
from preprocess.sources.storage import Storage, client_errors, open_storage
from preprocess.sources.unreadable import of_name, recognise

Layout = Literal["official", "kaggle", "cifar", "parquet", "webdataset", "folder"]


class _Form(Protocol):
    """What the file of a layout has."""

    EXPECTED: str

    def detect(self, storage: Storage, /) -> bool: ...

    def read(self, reading: Reading, /) -> Source: ...


# In the order in which they are looked for.
_FORMS: dict[Layout, _Form] = {
    "official": official,
    "kaggle": kaggle,
    "cifar": cifar,
    "parquet": parquet,
    "webdataset": webdataset,
    "folder": folder,
}
# A line names so many classes.
_NUM_NAMED = 5


def read_source(root: str, options: SourceOptions, map_tasks: MapTasks, *, layout: Layout | None = None) -> Source:
    """Lists the source at ``root``, a path or a URL, in the layout given or found.

    ``map_tasks`` does the reading that can be divided. Every member is an image of the result, was read for them, or is
    among those passed over. Raises SourceError when the source is empty, unreadable, damaged or in no known layout.
    """
    storage = open_storage(root, follow_links=options.follow_links)
    ledger = Ledger()
    reading = Reading(storage=storage, options=options, map_tasks=map_tasks, ledger=ledger)
    try:
        with client_errors(storage, ""):
            storage.reach()
            if not storage.is_folder(""):
                raise SourceError(f"{root}: expected a folder, found {_found_instead(storage)}")
            if not storage.list(""):
                raise SourceError(f"{root}: expected images in some layout, found an empty folder")
            source = _FORMS[layout or detect_layout(storage)].read(reading)
    except OSError as error:
        raise SourceError(f"{root}: cannot be listed: {error}") from None
    finally:
        storage.close()
    num_images = sum(len(images) for images in source.splits.values())
    passed_over = ledger.close(num_images, root)
    if not len(source.splits.get("train", ())):
        known = recognise(storage) if layout is None else None
        hint = "" if known is None else f"; {known}"
        raise SourceError(f"{root}: expected images of the training split, found none{hint}")
    notes = (*ledger.notes, *_notes_on_classes([info.id for info in source.classes], source.splits))
    return replace(source, num_members=ledger.num_found, passed_over=passed_over, notes=notes)


def detect_layout(storage: Storage) -> Layout:
    """The layout of a source; raises SourceError, naming what each would have looked like, when it is none."""
    for layout, form in _FORMS.items():
        if form.detect(storage):
            return layout
    known = recognise(storage)
    if known is not None:
        raise SourceError(f"{storage.root}: expected one of the layouts {', '.join(_FORMS)}, found {known}")
    layouts = "; ".join(f"{layout}: {form.EXPECTED}" for layout, form in _FORMS.items())
    raise SourceError(f"{storage.root}: expected one of the layouts ({layouts}), found none of them")


def _found_instead(storage: Storage) -> str:
    if storage.size_of("") is None:
        return "nothing"
    known = of_name(storage.root)
    return "a file: give the folder that holds it" if known is None else f"a file: {known}"


def _notes_on_classes(class_ids: Sequence[str], splits: Mapping[str, ImageList]) -> list[str]:
    """What a person would want to know of the classes before weeks of training: the empty ones above all."""
    notes = []
    if len(class_ids) == 1:
        notes.append(f"only one class: {class_ids[0]}")
    if "val" not in splits:
        notes.append("no validation split")
    for split, images in splits.items():
        empty = np.flatnonzero(np.bincount(images.labels, minlength=len(class_ids)) == 0)
        if len(empty):
            named = ", ".join(class_ids[label] for label in empty[:_NUM_NAMED])
            more = ", ..." if len(empty) > _NUM_NAMED else ""
            notes.append(f"{len(empty):,} of {len(class_ids):,} classes have no {split} images: {named}{more}")
    return notes

"""Kaggle's download: ILSVRC/Data/CLS-LOC with a flat val folder, LOC_val_solution.csv, LOC_synset_mapping.txt."""

from preprocess.errors import SourceError
from preprocess.sources import folder
from preprocess.sources.listing import Source
from preprocess.sources.options import Reading
from preprocess.sources.storage import Storage

LAYOUT = "kaggle"
EXPECTED = "ILSVRC/Data/CLS-LOC/{train,val}, LOC_val_solution.csv, LOC_synset_mapping.txt"
_IMAGES = "ILSVRC/Data/CLS-LOC"


def detect(storage: Storage) -> bool:
    """Whether Kaggle's folders are there. Raises SourceError where they are, but begin a level higher."""
    if storage.is_folder("Data/CLS-LOC"):
        raise SourceError(f"{storage.root}: one level off: expected the folder that holds ILSVRC, found what is in it")
    return storage.is_folder(_IMAGES)


def read(reading: Reading) -> Source:
    """Lists the folders; labels of the flat val are the first word of each prediction. Raises SourceError."""
    if not detect(reading.storage):
        raise SourceError(f"{reading.storage.root}: expected {EXPECTED}, found no {_IMAGES}")
    # Kaggle's test folder has no labels and is none of the splits.
    return folder.read(reading, base=_IMAGES, layout=LAYOUT)

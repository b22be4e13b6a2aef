"""Human-readable names of classes, from the files in which ImageNet's users keep them."""

from collections.abc import Mapping, Sequence

from preprocess.sources.ledger import Ledger
from preprocess.sources.storage import MOST_TEXT_BYTES, Storage
from preprocess.store.format import ClassInfo

# Each with a class id and its names a line: ``n01440764 tench, Tinca tinca``.
NAME_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt")


def read_class_names(storage: Storage, ledger: Ledger) -> dict[str, str]:
    """Names by class id, from the first of NAME_FILES at the source's root; empty when there is none."""
    for path in NAME_FILES:
        if storage.size_of(path) is not None:
            ledger.used_paths.add(path)
            text = storage.read(path, MOST_TEXT_BYTES).decode("utf-8-sig", "replace")
            pairs = (line.split(maxsplit=1) for line in text.splitlines())
            return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
    return {}


def class_infos(class_ids: Sequence[str], names: Mapping[str, str]) -> tuple[ClassInfo, ...]:
    """Classes in label order; one without a name is called by its id."""
    return tuple(ClassInfo(id=class_id, name=names.get(class_id, class_id)) for class_id in class_ids)

"""Labels of validation images that lie in one folder, from any of the files in which they are handed around."""

import csv
import re
from collections.abc import Container, Iterator, Sequence

from commandline import plain
from preprocess.errors import SourceError
from preprocess.sources.devkit import read_devkit
from preprocess.sources.ledger import Ledger
from preprocess.sources.member_names import is_image
from preprocess.sources.options import SourceOptions
from preprocess.sources.storage import MOST_TEXT_BYTES, Storage, client_errors, open_storage, split_path

# Looked for beside the images, in this order, before the devkit; the first is tiny-imagenet's, in val itself.
LABEL_FILES = (
    "val/val_annotations.txt",
    "LOC_val_solution.csv",
    "val_labels.txt",
    "val_labels.csv",
    "val.txt",
    "imagenet_2012_validation_synset_labels.txt",
)
# First cells of the header that a table may have.
_HEADERS = {"file", "file_name", "filename", "id", "image", "image_id", "imageid", "img", "name", "path"}
_DEVKIT_NUMBERS = "validation_ground_truth"
# Kaggle's predictions go on with a box, and with other objects.
_BOX = re.compile(r"^(.+?)(?:\s+-?[0-9.]+){4}(?:\s|$)")
_LINE_ENDS = re.compile("\r\n|\n|\r")
# Where a line is cut into name and class is tried at each space. And of a number: more digits than any has.
_MOST_LINE_LENGTH = 8192
_MOST_DIGITS = 9
# Of what an error quotes.
_MOST_QUOTED = 80

_Row = tuple[str, str]


def read_val_labels(
    storage: Storage, options: SourceOptions, file_names: Sequence[str], class_ids: Sequence[str], ledger: Ledger
) -> list[int]:
    """The label of each of ``file_names``, which are the validation images sorted by name.

    From ``--val-labels``, else from a file of LABEL_FILES, else from the devkit. Raises SourceError when there are
    none, or when they do not fit the images.
    """
    labels = _Labels(class_ids)
    found = _find_file(storage, options, ledger)
    if found is not None:
        content, where = found
        return _parse(_text(content), where, file_names, labels, ledger)
    devkit = read_devkit(storage, options.devkit, ledger)
    if devkit is None:
        raise SourceError(
            f"{storage.root}: expected the labels of {len(file_names):,} validation images in --val-labels, --devkit, "
            f"{', '.join(LABEL_FILES)} or ILSVRC2012_devkit_t12.tar.gz, found none of them"
        )
    return _by_position(devkit.val_wnids, f"{storage.root}: the devkit", file_names, labels)


class _Labels:
    """The label of a class by its id or, where ids are no numbers themselves, by its place among the sorted ids."""

    def __init__(self, class_ids: Sequence[str]) -> None:
        self._labels = {class_id: label for label, class_id in enumerate(class_ids)}
        self._by_number = not any(class_id.isdecimal() for class_id in class_ids)

    def __contains__(self, class_id: str) -> bool:
        return class_id in self._labels or (
            self._by_number
            and len(class_id) <= _MOST_DIGITS
            and class_id.isascii()
            and class_id.isdecimal()
            and int(class_id) < len(self._labels)
        )

    def of(self, class_id: str, where: str) -> int:
        if class_id not in self:
            raise SourceError(
                f"{where}: expected one of the training split's {len(self._labels):,} classes, found "
                f"{class_id[:_MOST_QUOTED]!r}"
            )
        return self._labels[class_id] if class_id in self._labels else int(class_id)


def _by_position(class_ids: Sequence[str], where: str, file_names: Sequence[str], labels: _Labels) -> list[int]:
    """Labels listed in the order of the sorted file names."""
    if len(class_ids) != len(file_names):
        raise SourceError(f"{where}: expected {len(file_names):,} labels, one an image, found {len(class_ids):,}")
    return [labels.of(class_id, where) for class_id in class_ids]


def _find_file(storage: Storage, options: SourceOptions, ledger: Ledger) -> tuple[bytes, str] | None:
    """The content of the label file and where it is."""
    if options.val_labels is not None:
        root, name = split_path(options.val_labels)
        if _DEVKIT_NUMBERS in name:
            raise SourceError(
                f"--val-labels {options.val_labels}: expected ids or places of classes, found the devkit's numbers: "
                "give the devkit itself, --devkit"
            )
        try:
            other = open_storage(root)
            with client_errors(other, name):
                return other.read(name, MOST_TEXT_BYTES), options.val_labels
        except OSError as error:
            raise SourceError(f"--val-labels {options.val_labels}: cannot be read: {error}") from None
    if options.devkit is None:
        for path in LABEL_FILES:
            if storage.size_of(path) is not None:
                ledger.used_paths.add(path)
                return storage.read(path, MOST_TEXT_BYTES), f"{storage.root}/{path}"
    return None


def _text(content: bytes) -> str:
    """Text as editors and shells of any system write it; names that are not UTF-8 as in file names."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    return content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _parse(text: str, where: str, file_names: Sequence[str], labels: _Labels, ledger: Ledger) -> list[int]:
    """Kaggle's table, a table of names and classes (tabs, commas or spaces), or a class a line by sorted name."""
    lines = [line for line in _LINE_ENDS.split(text) if line.strip()]
    longest = max(map(len, lines), default=0)
    if longest > _MOST_LINE_LENGTH:
        raise SourceError(
            f"{where}: expected lines of at most {_MOST_LINE_LENGTH:,} characters, found one of {longest:,}"
        )
    if all(line.strip() in labels or len(re.split(r"[\s,;]", line.strip())) == 1 for line in lines):
        return _by_position([line.strip() for line in lines], where, file_names, labels)
    names = _Names(file_names, where)
    rows = list(_rows(lines, names, labels, where))
    class_of: dict[str, str] = {}
    unknown = []
    # Whole names first: a row of another image may share all but what follows the dot.
    by_whole_name = {whole for name, _ in rows if (whole := names.whole(name)) is not None}
    for name, class_id in rows:
        known = names.whole(name) or names.by_stem(name, by_whole_name)
        if known is None:
            unknown.append(name)
        elif class_of.setdefault(known, class_id) != class_id:
            raise SourceError(
                f"{where}: expected one label for {plain(known)!r}, found {class_of[known][:_MOST_QUOTED]!r} and "
                f"{class_id[:_MOST_QUOTED]!r}"
            )
    missing = [name for name in file_names if name not in class_of]
    if missing:
        raise SourceError(f"{where}: expected a label for each image, found none for {plain(missing[0])!r}")
    if unknown:
        ledger.notes.append(f"{where}: {len(unknown):,} labels of images that are not there: {plain(unknown[0])}")
    return [labels.of(class_of[name], where) for name in file_names]


def _rows(lines: Sequence[str], names: "_Names", labels: _Labels, where: str) -> Iterator[_Row]:
    """Name and class of each line."""
    separator = next((mark for mark in "\t,;" if all(mark in line for line in lines)), None)
    if separator is None:
        yield from (_split_at_space(line.strip(), names, labels) for line in lines)
        return
    try:
        table = list(csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True))
    except csv.Error as error:
        raise SourceError(f"{where}: expected lines of a name and a class, found: {error}") from None
    if table[0] and table[0][0].strip().lower() in _HEADERS and names.whole(table[0][0].strip()) is None:
        del table[0]
    for row in table:
        if len(row) < 2:
            raise SourceError(f"{where}: expected lines of a name and a class, found {','.join(row)[:_MOST_QUOTED]!r}")
        class_id = row[1].strip()
        box = _BOX.match(class_id)
        yield row[0].strip(), box[1] if box is not None and class_id not in labels else class_id


def _split_at_space(line: str, names: "_Names", labels: _Labels) -> _Row:
    """Both may hold spaces: where the line is cut so that the left is an image and the right a class, if anywhere."""
    pairs = [(line[: cut.start()].strip("\"'"), line[cut.end() :].strip("\"'")) for cut in re.finditer(r"\s+", line)]
    for fits in (names.whole, names.stem):
        for name, class_id in pairs:
            if class_id in labels and fits(name) is not None:
                return name, class_id
    return next((pair for pair in pairs if names.whole(pair[0]) is not None), (pairs or [(line, "")])[0])


class _Names:
    """Finds the image that a line means: by its whole name, with folders or without, or by what is before its dot."""

    def __init__(self, file_names: Sequence[str], where: str) -> None:
        self._where = where
        self._whole = set(file_names)
        self._by_stem: dict[str, list[str]] = {}
        for name in file_names:
            self._by_stem.setdefault(_stem(name), []).append(name)

    def whole(self, text: str) -> str | None:
        return next((name for name in (text, _without_folders(text)) if name in self._whole), None)

    def stem(self, text: str) -> list[str] | None:
        name = _without_folders(text)
        return self._by_stem.get(name) or self._by_stem.get(_stem(name))

    def by_stem(self, text: str, taken: Container[str]) -> str | None:
        """The image of a name without, or with another, suffix, unless it is ``taken``: has a row of its whole name.
        Raises SourceError where it may be two."""
        found = self.stem(text) or []
        if len(found) > 1:
            raise SourceError(
                f"{self._where}: expected a name that is one image's, found {plain(text)!r}, which may be "
                f"{plain(found[0])!r} or {plain(found[1])!r}"
            )
        return found[0] if found and not (found[0] in taken and is_image(text)) else None


def _without_folders(path: str) -> str:
    return re.split(r"[/\\]", path)[-1]


def _stem(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and len(suffix) <= 4 else name

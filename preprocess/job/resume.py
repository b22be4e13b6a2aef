"""What a store was begun with, and whether a run may go on with it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from commandline import files
from preprocess.errors import ResumeError, StoreError
from preprocess.job.lock import LOCK_NAME
from preprocess.store.format import MANIFEST_NAME, QUARANTINE_NAME, SHARDS_DIRECTORY, STATISTICS_NAME

BEGUN_NAME = "run.json"
REPORT_NAME = "report.json"
_FORMAT = "alexnet-run"
_OURS = {BEGUN_NAME, REPORT_NAME, LOCK_NAME, MANIFEST_NAME, QUARANTINE_NAME, SHARDS_DIRECTORY, STATISTICS_NAME}


def make_folder(store: Path) -> None:
    """Makes the store's folder unless it is there. Raises StoreError when it holds something else than a store."""
    if not (store / BEGUN_NAME).exists():
        _check_empty(store)
    files.make_folder(store)


def begin_or_resume(store: Path, terms: Mapping[str, Any]) -> None:
    """Records what a run into ``store`` is made from, or checks it against what was recorded before.

    ``terms`` are flat: names that a person knows and JSON values. Raises ResumeError, naming what changed, when
    they differ. Removes what a killed run left half-written; nobody else may be writing.
    """
    begun = store / BEGUN_NAME
    if begun.exists():
        changed = [
            f"{name} was {json.dumps(old)} and is {json.dumps(terms.get(name))}"
            for name, old in _read_terms(begun).items()
            if terms.get(name) != old
        ]
        if changed:
            decoders = any(change.startswith("decoders ") for change in changed)
            pixels = " (which gives other pixels, and so another fingerprint)" if decoders else ""
            raise ResumeError(
                f"{store}: was begun with another source or other parameters: {'; '.join(changed)}{pixels}; "
                "give the same ones, or another --out"
            )
    else:
        files.make_folder(store / SHARDS_DIRECTORY)
        files.write_whole(begun, json.dumps({"format": _FORMAT, "terms": dict(terms)}, indent=1) + "\n")
    remove_temporary_files(store)


def is_complete(store: Path) -> bool:
    """Whether a run has ended well in ``store``."""
    return (store / MANIFEST_NAME).exists()


def remove_temporary_files(store: Path) -> None:
    """Removes what killed tasks left half-written. No task may be running."""
    for folder in (store, store / SHARDS_DIRECTORY):
        files.remove_leftovers(folder)


def _read_terms(begun: Path) -> dict[str, Any]:
    try:
        document = json.loads(begun.read_text("ascii"))
        if document["format"] != _FORMAT:
            raise KeyError("format")
        terms: dict[str, Any] = dict(document["terms"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{begun}: expected the terms of a run, found: {type(error).__name__}: {error}") from None
    return terms


def _check_empty(store: Path) -> None:
    if not store.exists():
        return
    if not store.is_dir():
        raise StoreError(f"{store}: expected a folder or nothing, found a file")
    foreign = [path.name for path in store.iterdir() if path.name not in _OURS and not path.name.endswith(".tmp")]
    if foreign:
        raise StoreError(f"{store}: expected a store or an empty folder, found {sorted(foreign)[0]!r} in it")

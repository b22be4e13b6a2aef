"""The ``info`` command: what a store holds, for people, as JSON, and in pictures."""

import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from commandline import print_line, write_line
from commandline.files import write_whole
from preprocess.config import InfoConfig
from preprocess.errors import PreprocessError
from preprocess.store.format import QUARANTINE_NAME, STATISTICS_SPLIT, Manifest
from preprocess.store.reader import Store
from preprocess.store.sidecar import read_sidecar

# The authors' training set, to compare a full run with: mean colour, roots of eigenvalues, and eigenvectors with the
# sign that the store's have.
IMAGENET_MEAN = (122.7, 116.7, 104.0)
IMAGENET_DEVIATIONS = (121.78, 37.09, 19.72)
IMAGENET_AXES = ((0.5635, 0.5762, 0.5920), (0.7126, 0.0235, -0.7012), (-0.4180, 0.8170, -0.3973))
_NUM_CLASSES_SHOWN = 20


def info(config: InfoConfig) -> int:
    """Prints what a store holds. Raises StoreError when it is none."""
    pictures = [path for path in (config.contact_sheet, config.mean_image, config.colour_plot) if path is not None]
    with Store(config.store) as store:
        content = describe(store)
        if pictures:
            _draw(config, store)
    if config.json:
        print(json.dumps(content, indent=1))
    else:
        for line in _lines(content):
            print_line(line)
    for path in pictures:
        write_line(f"wrote {path}")
    return 0


def _draw(config: InfoConfig, store: Store) -> None:
    """Writes the pictures that were asked for. Raises PreprocessError where there is no PIL to draw with."""
    try:
        from preprocess.inspect.pictures import colour_plot, contact_sheet, mean_picture, png
    except ImportError as error:
        raise PreprocessError(
            f"pictures are drawn with Pillow ({error}): pip install 'alexnet-pipeline[preprocess]'"
        ) from None
    reader, spec = store.split(STATISTICS_SPLIT), store.manifest.image
    if config.contact_sheet is not None:
        names = [info.name for info in store.manifest.classes]
        write_whole(config.contact_sheet, png(contact_sheet(reader, spec, names)))
    if config.mean_image is not None:
        write_whole(config.mean_image, png(mean_picture(store.statistics)))
    if config.colour_plot is not None:
        write_whole(config.colour_plot, png(colour_plot(reader, spec, store.statistics)))


def describe(store: Store) -> dict[str, Any]:
    """Everything about a store that is worth a number."""
    manifest, statistics = store.manifest, store.statistics
    return {
        "store": str(store.path),
        "fingerprint": store.fingerprint,
        "image": asdict(manifest.image),
        "readable_here": _readable_here(),
        "source": manifest.source,
        "splits": {
            name: {
                "num_images": split.num_images,
                "num_shards": len(split.shards),
                "size_bytes": sum(shard.size_bytes for shard in split.shards),
            }
            for name, split in manifest.splits.items()
        },
        "num_bad_images": _count_lines(store.path / QUARANTINE_NAME),
        "classes": _classes(store.path, manifest),
        "statistics": {
            "num_images": statistics.num_images,
            "mean_rgb": [round(float(value), 4) for value in statistics.mean_image.mean(axis=(0, 1), dtype=float)],
            "covariance": statistics.covariance.tolist(),
            "eigenvalues": statistics.eigenvalues.tolist(),
            "deviations": [math.sqrt(max(float(value), 0.0)) for value in statistics.eigenvalues],
            "eigenvectors": statistics.eigenvectors.T.tolist(),
        },
    }


def _readable_here() -> list[str]:
    """The image formats that this machine could make stores of; none where Pillow is not installed."""
    try:
        from preprocess.images.decode import readable_formats
    except ImportError:
        return []
    return list(readable_formats())


def _classes(path: Path, manifest: Manifest) -> list[dict[str, Any]]:
    """Each class with its images by split, from the shards' sidecars."""
    counts: dict[str, Counter[int]] = {}
    for name, split in manifest.splits.items():
        counts[name] = Counter()
        for shard in split.shards:
            sidecar = read_sidecar(path, Path(shard.file).stem)
            if sidecar is not None:
                counts[name].update(dict(sidecar.label_counts))
    return [
        {"label": label, "id": info.id, "name": info.name, **{name: counts[name][label] for name in counts}}
        for label, info in enumerate(manifest.classes)
    ]


def _lines(content: dict[str, Any]) -> list[str]:
    image, statistics = content["image"], content["statistics"]
    source = content["source"]
    probe = f", which make {source['probe']} of built-in pictures" if source.get("probe") else ""
    made = f"{image['side']} x {image['side']} {image['encoding']}"
    if image["encoding"] == "jpeg":
        made += f", quality {image['quality']}, {image['subsampling']}"
    lines = [
        f"store        {content['store']}",
        f"fingerprint  {content['fingerprint']}",
        f"source       {source.get('root')} ({source.get('layout')})",
        f"images       {made}",
        f"decoded by   {source.get('decoders', 'what was not recorded then')}{probe}",
        f"this machine {_reads(content['readable_here'])}",
    ]
    for name, split in content["splits"].items():
        per_image = split["size_bytes"] / max(split["num_images"], 1) / 1e3
        lines.append(
            f"{name:<12} {split['num_images']:,} images in {split['num_shards']:,} shards, "
            f"{split['size_bytes'] / 1e9:.3f} GB ({per_image:.1f} KB an image)"
        )
    if content["num_bad_images"]:
        lines.append(f"quarantine   {content['num_bad_images']:,} images could not be used: {QUARANTINE_NAME}")
    lines += ["", f"statistics of {statistics['num_images']:,} training images   here                        ImageNet"]
    lines.append(f"  mean RGB           {_row(statistics['mean_rgb'], 1)}   {_row(IMAGENET_MEAN, 1)}")
    for axis in range(3):
        here = f"{statistics['deviations'][axis]:7.2f} along {_row(statistics['eigenvectors'][axis], 4)}"
        there = f"{IMAGENET_DEVIATIONS[axis]:7.2f} along {_row(IMAGENET_AXES[axis], 4)}"
        lines.append(f"  axis {axis + 1}  {here}   {there}")
    classes = content["classes"]
    lines += ["", f"{len(classes):,} classes"]
    for entry in classes[:_NUM_CLASSES_SHOWN]:
        counts = ", ".join(f"{name} {entry[name]:,}" for name in content["splits"])
        lines.append(f"  {entry['label']:4d}  {entry['id']}  {counts}  {entry['name']}")
    if len(classes) > _NUM_CLASSES_SHOWN:
        lines.append(f"  ... {len(classes) - _NUM_CLASSES_SHOWN:,} more: --json lists them all")
    return lines


def _reads(formats: list[str]) -> str:
    return f"reads {', '.join(formats)}" if formats else "reads no images: Pillow is not installed"


def _row(values: Any, decimals: int) -> str:
    return "(" + ", ".join(f"{value:{decimals + 4}.{decimals}f}" for value in values) + ")"


def _count_lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except FileNotFoundError:
        return 0

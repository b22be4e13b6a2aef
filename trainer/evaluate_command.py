"""The ``evaluate`` command: prints error rates of one network, or of several averaged."""

import json
from typing import Any

import torch

from commandline import print_line
from loader_service.client import LoaderClient
from trainer.checkpoint.saved_network import LoadedNetwork, load_network, refuse_others
from trainer.config import EvaluateConfig
from trainer.devices import devices_of_rank
from trainer.evaluate import CROPS_IN_WORDS, Crops, Evaluation, evaluate_loaded, require_images

WORST_CONFUSIONS = 10


def run_evaluate(config: EvaluateConfig) -> int:
    """Runs ``evaluate`` and prints its results."""
    devices = devices_of_rank(config.devices, 0)
    loaded = [load_network(path, devices) for path in config.checkpoint]
    wanted: tuple[Crops, ...] = ("centre", "ten") if config.crops == "both" else (config.crops,)
    client = LoaderClient(config.target, config.client_options)  # its streams are closed by who reads them
    description = client.describe()
    require_images("--split", config.split, description.splits)
    refuse_others(loaded, description)
    results = [
        evaluate_loaded(loaded, client, split=config.split, crops=crops, batch_size=config.batch_size)
        for crops in wanted
    ]
    if config.json:
        print(json.dumps(_as_json(config, loaded, results)))
    else:
        for result in results:
            _print(result, loaded, classes=config.classes)
    return 0


def per_class_errors(confusion: torch.Tensor) -> list[float | None]:
    """Top-1 error of each class, 0..1; None for a class without images."""
    counts, right = confusion.sum(1).tolist(), confusion.diagonal().tolist()
    return [1.0 - hit / count if count else None for count, hit in zip(counts, right, strict=True)]


def worst_confusions(confusion: torch.Tensor) -> list[tuple[int, int, int]]:
    """``(true class, guessed class, images)`` of the WORST_CONFUSIONS most frequent mistakes, most frequent first."""
    mistakes = confusion.clone().fill_diagonal_(0)
    counts, places = mistakes.flatten().sort(descending=True, stable=True)
    num_classes = len(confusion)
    found = zip(places[:WORST_CONFUSIONS].tolist(), counts[:WORST_CONFUSIONS].tolist(), strict=True)
    return [(place // num_classes, place % num_classes, count) for place, count in found if count]


def _as_json(config: EvaluateConfig, loaded: list[LoadedNetwork], results: list[Evaluation]) -> dict[str, Any]:
    class_ids = [id_ for id_, _ in loaded[0].plan.classes]
    document: dict[str, Any] = {"split": config.split, "checkpoints": [str(each.path) for each in loaded]}
    for result in results:
        document[result.crops] = {"num_images": result.num_images, **result.figures}
        if config.classes:
            errors = per_class_errors(result.confusion)
            document[result.crops]["class_top1_errors"] = dict(zip(class_ids, errors, strict=True))
            document[result.crops]["worst_confusions"] = [
                {"class": class_ids[true], "guess": class_ids[guess], "images": count}
                for true, guess, count in worst_confusions(result.confusion)
            ]
    return document


def _print(result: Evaluation, loaded: list[LoadedNetwork], *, classes: bool) -> None:
    averaged = f", {len(loaded)} networks averaged" if len(loaded) > 1 else ""
    print(
        f"{CROPS_IN_WORDS[result.crops]}{averaged}: top-1 error {100 * result.top1_error:.2f} %, "
        f"top-5 error {100 * result.top5_error:.2f} %, "
        f"loss {result.loss:.4f}, {result.num_images:,} images"
    )
    if not classes:
        return
    names = [name for _, name in loaded[0].plan.classes]
    width = max(map(len, names))
    for label, error in enumerate(per_class_errors(result.confusion)):
        count = int(result.confusion[label].sum())
        text = "no images" if error is None else f"{100 * error:6.2f} % of {count:,} images"
        print_line(f"  {names[label]:{width}}  {text}")
    print("worst confusions:")
    for true, guess, count in worst_confusions(result.confusion):
        print_line(f"  {names[true]} taken for {names[guess]}: {count:,}")

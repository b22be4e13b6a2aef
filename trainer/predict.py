"""The ``predict`` command: what a trained network makes of any picture files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from commandline import one_line, print_line, write_line
from trainer.checkpoint.saved_network import LoadedNetwork, load_network
from trainer.config import PredictConfig
from trainer.data.centring import Centring
from trainer.data.crops import Pixels, ten_crops
from trainer.devices import devices_of_rank
from trainer.errors import DivergedError, InputFileError
from trainer.evaluate import class_probabilities


def run_predict(config: PredictConfig) -> int:
    """Prints the most probable classes of each picture; those that cannot be read are named, and make it fail."""
    loaded = load_network(config.checkpoint, devices_of_rank(config.devices, 0))
    plan = loaded.plan
    centring = Centring(plan.mean_image, plan.crop, loaded.network.devices, channels_last=True)
    documents: list[dict[str, Any]] = []
    num_bad = 0
    for path in config.images:
        try:
            square = read_square(path, len(plan.mean_image))
        except InputFileError as error:
            num_bad += 1
            write_line(f"alexnet-trainer predict: error: {error}")
            documents.append({"image": str(path), "error": str(error)})
            continue
        guesses = _guesses(loaded, _probabilities(loaded, centring, square), config.top)
        documents.append({"image": str(path), "guesses": guesses})
        if not config.json:
            print_line(str(path))
            for guess in guesses:
                print_line(f"  {100 * guess['probability']:5.1f} %  {guess['name']}")
    if config.json:
        print(json.dumps(documents))
    return 1 if num_bad else 0


def read_square(path: Path, side: int) -> Pixels:
    """uint8 [side, side, 3]: the picture as preprocess would store it, but for the store's own encoding.

    Raises InputFileError when the file is no picture that preprocess would take, or its libraries are not installed.
    """
    try:
        # Imported here: nothing else in the trainer needs an imaging library, and most trainers have none.
        from preprocess.images.decode import UnusableImageError, decode
        from preprocess.images.resize import centre_square
    except ImportError as error:
        raise InputFileError(
            f"predict reads pictures as preprocess does, with libraries of its own ({error.name} is missing): "
            "pip install 'alexnet-pipeline[predict]'"
        ) from None
    try:
        return np.array(centre_square(decode(path.read_bytes()), side).convert("RGB"), np.uint8)
    except FileNotFoundError:
        raise InputFileError(f"{path}: no such file") from None
    except OSError as error:
        raise InputFileError(f"{path}: {error.strerror or one_line(error)}") from None
    except UnusableImageError as error:
        raise InputFileError(f"{path}: not a picture that can be read: {error}") from None


def _probabilities(loaded: LoadedNetwork, centring: Centring, square: Pixels) -> Tensor:
    crops = torch.from_numpy(ten_crops(square, loaded.plan.crop))[None]
    images = {device: crops.to(device) for device in loaded.network.devices}
    probabilities = class_probabilities([loaded.network], centring, images)[0].cpu()
    if not probabilities.isfinite().all():
        raise DivergedError(f"{loaded.path}: the network's outputs are not finite numbers")
    return probabilities


def _guesses(loaded: LoadedNetwork, probabilities: Tensor, limit: int) -> list[dict[str, Any]]:
    top = probabilities.topk(min(limit, len(probabilities)))
    return [
        {"class": loaded.plan.classes[label][0], "name": loaded.plan.classes[label][1], "probability": value}
        for value, label in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    ]

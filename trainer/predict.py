"""The ``predict`` command: what a trained network makes of any picture files."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainer.checkpoint.saved_network import load_network
from trainer.config import PredictConfig
from trainer.data.centring import Centring
from trainer.data.crops import ten_crops
from trainer.devices import devices_of_rank
from trainer.errors import InputFileError
from trainer.evaluate import class_probabilities

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
"""Formats that are opened: an image library's rarer decoders are where its security holes are."""
MAX_PIXELS = 178_956_970


def run_predict(config: PredictConfig) -> int:
    """Prints the most probable classes of each picture."""
    loaded = load_network(config.checkpoint, devices_of_rank(config.devices, 0))
    network, plan = loaded.network, loaded.plan
    centring = Centring(plan.mean_image, plan.crop, network.devices, channels_last=True)
    documents: list[tuple[str, list[dict[str, Any]]]] = []
    for path in config.images:
        square = read_square(path, plan.mean_image.shape[0])
        crops = torch.from_numpy(ten_crops(square, plan.crop))[None]
        images = {device: crops.to(device) for device in network.devices}
        probabilities = class_probabilities([network], centring, images)[0].cpu()
        top = probabilities.topk(min(config.top, len(probabilities)))
        guesses: list[dict[str, Any]] = [
            {"class": plan.classes[label][0], "name": plan.classes[label][1], "probability": value}
            for value, label in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]
        documents.append((str(path), guesses))
    if config.json:
        print(json.dumps([{"image": image, "guesses": guesses} for image, guesses in documents]))
        return 0
    for image, guesses in documents:
        print(image)
        for guess in guesses:
            print(f"  {100 * guess['probability']:5.1f} %  {guess['name']}")
    return 0


def read_square(path: Path, side: int) -> npt.NDArray[np.uint8]:
    """uint8 [side, side, 3]: the shorter side scaled to ``side``, the centre kept, as the store's images are made.

    Raises InputFileError when the file is not a picture or no imaging library is installed.
    """
    try:
        # By name: nothing else in the trainer may need an imaging library, and the import rules see to that.
        library: Any = importlib.import_module("PIL.Image")
    except ImportError:
        raise InputFileError("predict reads pictures with Pillow or pillow-simd: pip install pillow") from None
    library.MAX_IMAGE_PIXELS = MAX_PIXELS
    try:
        with library.open(path, formats=FORMATS) as opened:
            image = opened.convert("RGB")
    except FileNotFoundError:
        raise InputFileError(f"{path}: no such file") from None
    except (OSError, ValueError, SyntaxError, library.DecompressionBombError) as error:
        raise InputFileError(f"{path}: not a picture that can be read ({error})") from None
    width, height = image.size
    shorter = min(width, height)
    size = (max(side, round(width * side / shorter)), max(side, round(height * side / shorter)))
    image = image.resize(size, library.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return np.array(image.crop((left, top, left + side, top + side)), np.uint8)

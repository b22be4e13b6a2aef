"""Ten crops and several networks: probabilities are averaged, not scores."""

import numpy as np
import torch

from tests.trainer.conftest import CPU_PAIR, tiny_architecture
from trainer.data.centring import Centring
from trainer.evaluate import class_probabilities
from trainer.network.columns import TwoColumns

CPU = torch.device("cpu")


def network(seed: int) -> TwoColumns:
    made = TwoColumns(tiny_architecture(), CPU_PAIR, init="fan_in", seed=seed).eval()
    with torch.no_grad():  # decided opinions, so that the order of softmax and mean matters
        made.classifier.get_submodule("fc8").get_parameter("weight").mul_(100)
    return made


def test_ten_crops_and_networks_are_averaged_after_the_softmax() -> None:
    crop = 67
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 10, crop, crop, 3), np.uint8))
    centring = Centring(np.full((crop, crop, 3), 120, np.float32), crop, [CPU])
    networks = [network(1), network(2)]
    found = class_probabilities(networks, centring, {CPU: images})
    expected, mean_of_scores = [], []
    with torch.no_grad():
        for image in images:
            scores = torch.stack([each([centring(image)] * 2) for each in networks])
            expected.append(scores.softmax(2).mean((0, 1)))
            mean_of_scores.append(scores.mean((0, 1)).softmax(0))
    torch.testing.assert_close(found, torch.stack(expected))
    assert not torch.allclose(found, torch.stack(mean_of_scores), atol=1e-3)
    torch.testing.assert_close(found.sum(1), torch.ones(3))

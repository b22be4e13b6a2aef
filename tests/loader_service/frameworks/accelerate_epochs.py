"""accelerate over a RemoteLoader: prepared, each epoch's images once; resumed by the loader's own state."""

import sys

import pytest
import torch
from accelerate import Accelerator, skip_first_batches

from loader_service.torch_adapter import RemoteLoader

TARGET = sys.argv[1]


def loader() -> RemoteLoader:
    return RemoteLoader(TARGET, batch_size=16, seed=3)


def sums(batches: RemoteLoader) -> list[float]:
    return [float(images.double().sum()) for images, _ in batches]


accelerator = Accelerator(cpu=True)
plain = loader()
expected = [sums(plain), sums(plain)]
model, prepared = accelerator.prepare(torch.nn.Linear(3, 10), loader())
assert prepared.spec == plain.spec
assert sums(prepared) == expected[0]
prepared.load_state_dict({**prepared.state_dict(), "epoch": 0, "step": 4})
assert sums(prepared) == expected[0][4:]
assert sums(prepared) == expected[1]
accelerator.register_for_checkpointing(prepared)
prepared.set_epoch(1)
batches = iter(prepared)
next(batches)
accelerator.save_state(sys.argv[2])
resumed = loader()
other = Accelerator(cpu=True)
other.register_for_checkpointing(resumed)
other.load_state(sys.argv[2])
assert sums(resumed) == expected[1][1:]
with pytest.raises(AttributeError, match="to skip batches: load_state_dict"):
    skip_first_batches(prepared, 2)

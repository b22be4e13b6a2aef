"""Arrays are used again when nobody holds them, and never before."""

import weakref

import numpy as np
import torch

from loader_service.client.array_pool import ArrayPool


def address(array: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> int:
    return int(array.ctypes.data)


def test_used_again_only_when_free() -> None:
    pool = ArrayPool(lambda: 4)
    first, second = pool((4, 3), np.uint8), pool((4, 3), np.uint8)
    place = address(first)
    assert address(second) != place
    part = first[1:].reshape(-1)[2:]
    del first
    assert address(pool((4, 3), np.uint8)) != place, "a slice still refers to it"
    del part
    assert address(pool((4, 3), np.uint8)) == place


def test_tensors_hold_their_memory() -> None:
    pool = ArrayPool(lambda: 4)
    array = pool((2, 8, 8, 3), np.uint8)
    place = address(array)
    tensor = torch.from_numpy(array).movedim(-1, 1)
    del array
    assert address(pool((2, 8, 8, 3), np.uint8)) != place
    del tensor
    assert address(pool((2, 8, 8, 3), np.uint8)) == place


def test_shapes_types_and_bound() -> None:
    pool = ArrayPool(lambda: 2)
    array = pool((2, 3), np.float32)
    assert array.shape == (2, 3)
    assert array.dtype == np.float32
    held = [pool((5,), np.uint8) for _ in range(6)]
    for number, one in enumerate(held):
        one[:] = number
    assert [int(one.sum()) for one in held] == [5 * number for number in range(6)]
    assert pool((0, 4, 4, 3), np.uint8).shape == (0, 4, 4, 3)


def test_what_is_too_many_is_given_up() -> None:
    """A pool whose bound has shrunk keeps no more than that, and nothing that is in use is lost."""
    bound = [6]
    pool = ArrayPool(lambda: bound[0])
    held = [pool((5,), np.uint8) for _ in range(6)]
    kept = held[0]
    kept[:] = 7
    owners = [weakref.ref(one.base) for one in held if one.base is not None]
    assert len(owners) == 6
    bound[0] = 2
    del held
    pool((5,), np.uint8)
    assert sum(owner() is not None for owner in owners) == 2
    assert kept.tolist() == [7] * 5

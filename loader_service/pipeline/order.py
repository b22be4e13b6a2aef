"""The order of an epoch: a permutation that depends on the seed, the epoch and the number of images alone."""

import numpy as np
import numpy.typing as npt

_ORDER_KEY = 0x6F72646572  # "order": keeps these bits apart from any other use of the same seed
MAX_IMAGES = 1 << 40


def epoch_order(num_images: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The indices ``[0, num_images)`` in the order of ``epoch``: int64 [num_images].

    Sorts random 64-bit words of a Philox4x64-10 generator (Salmon et al., "Parallel random numbers: as easy as
    1, 2, 3", 2011), each with the index in its low bits, so that no two are equal and any correct sort gives
    the same permutation on every machine.

    Only raw generator bits are used: NumPy promises those, and not its distributions, to stay as they are.
    """
    if not 0 <= num_images <= MAX_IMAGES:
        raise ValueError(f"expected at most {MAX_IMAGES} images, found {num_images}")
    key = np.array([seed, epoch], dtype=np.uint64)
    counter = np.array([0, 0, 0, _ORDER_KEY], dtype=np.uint64)
    generator = np.random.Philox(key=key, counter=counter)
    words = np.asarray(generator.random_raw(num_images), dtype=np.uint64)
    index_bits = np.uint64(max(num_images - 1, 0).bit_length())
    index_mask = (np.uint64(1) << index_bits) - np.uint64(1)
    words &= ~index_mask
    words |= np.arange(num_images, dtype=np.uint64)
    words.sort()
    words &= index_mask
    return words.view(np.int64)

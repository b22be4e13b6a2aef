"""From stored images to crops: read, decode, cut, mirror, and finish on request."""

import threading

import numpy as np
import numpy.typing as npt

from loader_service.pipeline.decode import Decoder, UInt8, copy_crop, mirror
from loader_service.pipeline.image_cache import DecodedCache
from loader_service.pipeline.plan import Job
from loader_service.pipeline.resized_crop import resize
from loader_service.pipeline.store_errors import as_loader_error
from loader_service.wire.errors import DataLossError
from preprocess.errors import StoreError
from preprocess.store import Store


class CropMaker:
    """Makes the crops of jobs over one store, on any number of threads. The store and the cache stay the caller's."""

    def __init__(self, store: Store, cache: DecodedCache) -> None:
        self._store, self._cache = store, cache
        self._side = store.manifest.image.side
        self._local = threading.local()

    def fill(self, job: Job, crops: UInt8, labels: npt.NDArray[np.int64]) -> None:
        """Decodes and crops a job's images into ``crops`` [N, num_crops, H, W, 3], and their labels into ``labels``.

        Raises DataLossError, naming shard and key, when a stored record is damaged, and ServiceUnavailableError when
        the system cannot read it now.
        """
        spec = job.range.spec
        for i, index in enumerate(job.indices.tolist()):
            if spec.view == "ten_crop":
                labels[i], image = self._window(spec.split, index, 0, 0, self._side, self._side)
                _ten_crops(crops[i], image)
            else:
                labels[i], window = self._window(spec.split, index, *job.windows[i])
                if spec.is_resized:
                    resize(window, crops[i, 0])
                    mirror(crops[i, 0], job.mirrors[i])
                else:
                    copy_crop(crops[i, 0], window, job.mirrors[i])

    def finish(self, crops: UInt8, shifts: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Centred and shifted crops: float32 [N, crops, H, W, 3]. The mean is its centre crop for every crop."""
        size = crops.shape[2]
        at = (self._side - size) // 2
        mean = self._store.statistics.mean_image[at : at + size, at : at + size]
        finished = crops.astype(np.float32)
        finished -= mean
        # Whole rows at once: three values at a time would take three times as long.
        rows = finished.reshape(*crops.shape[:3], size * 3)
        rows += np.tile(shifts, size)[:, None, None, :]
        return finished

    def _window(self, split: str, index: int, top: int, left: int, height: int, width: int) -> tuple[int, UInt8]:
        """Label of a stored image and the pixels of its window at (top, left), uint8 [height, width, 3]; they are valid
        until this thread's next call.
        """
        cached = self._cache.get(split, index)
        if cached is not None:
            label, pixels = cached
            return label, pixels[top : top + height, left : left + width]
        decoder: Decoder | None = getattr(self._local, "decoder", None)
        if decoder is None:
            decoder = self._local.decoder = Decoder(self._store.manifest.image)
        reader = self._store.split(split)
        try:
            label, record = reader.read(index)
        except StoreError as error:
            raise as_loader_error(error) from None
        try:
            if not self._cache.has_room(self._store.manifest.image.raw_size_bytes):
                return label, decoder.decode_window(record, top, left, height, width)
            pixels = decoder.decode(record)
        except ValueError as error:
            shard, position = reader.locate(index)
            file = self._store.path / reader.info.shards[shard].file
            raise DataLossError(f"{file}: key {position}: cannot be decoded: {error}") from None
        self._cache.offer(split, index, label, pixels)
        return label, pixels[top : top + height, left : left + width]


def _ten_crops(out: UInt8, image: UInt8) -> None:
    """Four corners and the centre, then their mirror images (paper, section 4.1): ``out`` [10, crop, crop, 3]."""
    crop = out.shape[1]
    far = image.shape[0] - crop
    corners = ((0, 0), (0, far), (far, 0), (far, far), (far // 2, far // 2))
    for i, (top, left) in enumerate(corners):
        window = image[top : top + crop, left : left + crop]
        copy_crop(out[i], window, False)
        copy_crop(out[i + 5], window, True)

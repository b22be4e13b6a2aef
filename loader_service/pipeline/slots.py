"""Shared memory for one client on this machine, cut into slots that messages' pixels are written into."""

import mmap
import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loader_service.wire.shared_memory import GENERATION, SLOT_HEADER_BYTES, seal

_POLL_S = 0.5


@dataclass(frozen=True)
class Slot:
    """A slot that a message is being made in: its number from 1, its generation, and its pixels' memory."""

    number: int
    generation: int
    pixels: npt.NDArray[np.uint8]
    """uint8 [slot bytes]"""


class SlotPool:
    """One session's slots. Thread-safe. Memory is freed when the last array into it is gone."""

    def __init__(self, num_slots: int, slot_bytes: int) -> None:
        self.slot_bytes = slot_bytes
        self.num_slots = num_slots
        self.token = secrets.token_bytes(16)
        self._stride = SLOT_HEADER_BYTES + slot_bytes
        self.descriptor = os.memfd_create("alexnet-loader", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, num_slots * self._stride)
            seal(self.descriptor)
            self._memory = np.frombuffer(mmap.mmap(self.descriptor, num_slots * self._stride), np.uint8)
        except OSError:
            os.close(self.descriptor)
            raise
        self._generations = [0] * (num_slots + 1)
        self._free = list(range(num_slots, 0, -1))
        self._changed = threading.Condition()
        self._is_open = True

    def acquire(self, is_wanted: Callable[[], bool]) -> Slot | None:
        """A free slot with a new generation; waits for one while ``is_wanted()``. None when the session has ended."""
        with self._changed:
            while not self._free:
                if not self._is_open or not is_wanted():
                    return None
                self._changed.wait(_POLL_S)
            if not self._is_open:
                return None
            number = self._free.pop()
            self._generations[number] += 1
            generation = self._generations[number]
        start = (number - 1) * self._stride
        GENERATION.pack_into(self._memory.data, start, generation)
        pixels = self._memory[start + SLOT_HEADER_BYTES : start + self._stride]
        return Slot(number, generation, pixels)

    def release(self, number: int, generation: int) -> None:
        """Takes a slot back. Raises ValueError for one that is not out, or not of that generation."""
        with self._changed:
            if not 1 <= number <= self.num_slots or self._generations[number] != generation or number in self._free:
                raise ValueError(f"slot {number}, generation {generation}: is not out")
            self._free.append(number)
            self._changed.notify()

    def close(self) -> None:
        """Ends the session; whoever waits for a slot stops waiting."""
        with self._changed:
            if self._is_open:
                self._is_open = False
                os.close(self.descriptor)
            self._changed.notify_all()

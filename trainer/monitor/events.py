"""TensorBoard's event file, written by the thread that calls: no queue, no thread that could die unseen."""

import struct
import time
from collections.abc import Mapping
from pathlib import Path

from commandline.files import Appender, naming


class EventsFile:
    """The only event file of its folder from construction on: those of earlier processes are removed.

    Raises OSError that names it.
    """

    def __init__(self, folder: Path) -> None:
        # Imported here: a run without events need not have it.
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.record_writer import masked_crc32c

        self._event, self._summary, self._checksum = Event, Summary, masked_crc32c
        self._path = folder / f"events.out.tfevents.{time.time_ns():019d}.alexnet"
        with naming(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob("events.out.tfevents.*"):
                path.unlink()
        self._file = Appender(self._path)
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def add(self, scalars: Mapping[str, float], *, step: int, time_s: float) -> None:
        """Appends one value a name."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        event = self._event(wall_time=time_s, step=step, summary=self._summary(value=values))
        self._append(event.SerializeToString())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _append(self, record: bytes) -> None:
        # TFRecord: length (uint64), its checksum, the record, its checksum.
        length = struct.pack("<Q", len(record))
        checksums = (struct.pack("<I", self._checksum(data)) for data in (length, record))
        self._file.append(length + next(checksums) + record + next(checksums))

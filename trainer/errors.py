"""What the trainer reports in one line: the user's mistakes and the world's, not our own."""


class TrainerError(Exception):
    """Root of the trainer's errors."""


class CheckpointError(TrainerError):
    """A checkpoint is missing, damaged, of another format, or belongs to another run."""


class DeviceError(TrainerError):
    """A device is missing, lost or out of memory."""


class DivergedError(TrainerError):
    """The loss, the weights or a network's outputs are no longer finite numbers."""


class InputFileError(TrainerError):
    """A picture cannot be read, or the library that reads it is missing."""


class RanksError(TrainerError):
    """Another process of the same run is gone, silent, or not where this one is."""


class PeerFailedError(TrainerError):
    """Another process of the same run gets no batches; this one is at the same place and can save."""


class Stopped(TrainerError):
    """A stop signal came while this waited for something else."""

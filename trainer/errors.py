"""What the trainer reports in one line: the user's mistakes and the world's, not our own."""


class TrainerError(Exception):
    """Root of the trainer's errors."""


class CheckpointError(TrainerError):
    """A checkpoint is missing, damaged, of another format, or belongs to another run."""


class DeviceError(TrainerError):
    """A device is missing, lost or out of memory."""


class DivergedError(TrainerError):
    """The loss is no longer a finite number."""


class InputFileError(TrainerError):
    """A picture cannot be read, or the library that reads it is missing."""

"""What can go wrong in preprocessing that the person running it can put right. All of it is one line."""


class PreprocessError(Exception):
    """Root of the errors that preprocessing raises for the caller's mistakes and the world's."""


class SourceError(PreprocessError):
    """The source is missing, empty, unreadable, or in no layout that is known."""


class StoreError(PreprocessError):
    """The store is missing, of another format version, incomplete or damaged."""


class DamagedRecordError(StoreError):
    """A record or shard does not hold the bytes that were written; names the shard, and the key if known."""


class StoreUnavailableError(StoreError):
    """The system does not let the store be read now: descriptors, memory, permissions, a disk. It may be sound."""


class ResumeError(PreprocessError):
    """The store was begun with another source or other parameters; says which."""


class BadImagesError(PreprocessError):
    """More images could not be decoded than the run allows."""

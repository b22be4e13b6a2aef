"""What goes wrong with a store, as clients are told."""

from loader_service.wire.errors import DataLossError, LoaderError, ServiceUnavailableError
from preprocess.errors import StoreError, StoreUnavailableError


def as_loader_error(error: StoreError) -> LoaderError:
    """Damage is another thing than a system that cannot read now: another replica's copy may be sound, this one may be
    asked again."""
    kind = ServiceUnavailableError if isinstance(error, StoreUnavailableError) else DataLossError
    return kind(str(error))

"""The digest of an epoch, as ``digest`` prints it."""

from loader_service.client import LoaderClient, StreamSpec
from loader_service.commands.digest import StreamDigest


def epoch_digest(client: LoaderClient, spec: StreamSpec, epoch: int) -> str:
    """The SHA-256 of one epoch of ``spec``, in hexadecimal."""
    digest = StreamDigest()
    with client.stream(spec, epoch=epoch) as stream:
        for batch in stream:
            digest.add(batch)
    return digest.hexdigest()

"""What users may import: a name that goes, or comes, is a decision."""

from loader_service import client


def test_the_client_has_these_names_and_no_others() -> None:
    assert client.__all__ == [
        *("AccessError", "Batch", "BatchStream", "ClientOptions", "ColourScale", "DataLossError", "Description"),
        *("InvalidRequestError", "Limits", "LoaderClient", "LoaderError", "MismatchError", "OverloadedError"),
        *("PixelFormat", "Security", "ServiceUnavailableError", "StreamSpec", "Transport", "View"),
    ]
    assert all(hasattr(client, name) for name in client.__all__)

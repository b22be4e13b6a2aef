"""What tests of lying replicas share; the module says which service is the ``sound`` one."""

from collections.abc import Iterator

import pytest

from loader_service.client import Batch, LoaderClient
from tests.loader_service.liars import OPTIONS, SPEC, Liar, lying


@pytest.fixture(scope="module")
def truth(sound: str) -> list[Batch]:
    """What the sound service streams."""
    with LoaderClient([sound], OPTIONS) as client, client.stream(SPEC) as stream:
        return list(stream)


@pytest.fixture(scope="module")
def shared_liar(sound: str) -> Iterator[Liar]:
    """A liar beside it, for all tests of the module."""
    with lying(sound) as liar:
        yield liar

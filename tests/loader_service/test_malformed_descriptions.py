"""What a replica says of itself, of names and of when to come back, where that cannot be: it is done without."""

import logging
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader_service.client import Batch, ClientOptions, LoaderClient, LoaderError, Security
from loader_service.client.replica import Replica
from loader_service.v1 import loader_pb2 as pb
from tests.loader_service.liars import OPTIONS, SPEC, Liar, lying
from tests.loader_service.test_malformed_answers import expect_equal
from tests.thoroughness import NUM_EXAMPLES


@pytest.fixture(scope="module")
def sound(loader_target: str) -> str:
    return loader_target


@settings(max_examples=5 * NUM_EXAMPLES, deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 7)), max_size=8),
    cut=st.none() | st.integers(0, 49_000),
    content=st.none() | st.binary(max_size=100),
)
def test_a_description_is_one_or_an_error_that_names_the_replica(
    shared_liar: Liar, places: list[tuple[int, int]], cut: int | None, content: bytes | None
) -> None:
    """And so are names."""

    def change(answer: bytes) -> bytes:
        changed = bytearray(answer if content is None else content)[:cut]
        for place, bit in places:
            if changed:  # where it begins, and where it ends: between them are the pixels of the mean
                changed[(place if place < 1000 else -place) % len(changed)] ^= 1 << bit
        return bytes(changed)

    shared_liar.describe = shared_liar.names = change
    with Replica(target=shared_liar.target, security=Security()).connect() as connection:
        for ask in (connection.describe, lambda timeout_s: connection.names("f", "train", [1, 2], timeout_s)):
            try:
                ask(60)
            except LoaderError as error:
                assert str(error).startswith(shared_liar.target)  # noqa: PT017  # either is right
    shared_liar.describe = shared_liar.names = lambda answer: answer


@pytest.mark.parametrize(
    "change",
    [
        {"image_side": 2**32 - 1},
        {"image_side": 0},
        {"mean_image": b"1234"},
        {"mean_image": np.full((64, 64, 3), np.nan, "<f4").tobytes()},
        {"eigenvalues": [1.0]},
        {"eigenvectors": [float("inf")] * 9},
        {"eigenvectors": []},
        {"classes": []},
        {"fingerprint": ""},
        {"limits": pb.Limits()},
    ],
)
def test_a_description_that_cannot_be_is_done_without(
    sound: str, truth: list[Batch], caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    def describe(answer: bytes) -> bytes:
        response = pb.DescribeResponse.FromString(answer)
        for name in change:
            response.ClearField(name)
        response.MergeFrom(pb.DescribeResponse(**change))
        return response.SerializeToString()

    with lying(sound) as liar:
        liar.describe = describe
        with caplog.at_level(logging.WARNING), LoaderClient([liar.target, sound], OPTIONS) as client:
            client.describe()
            with client.stream(SPEC) as stream:
                expect_equal(list(stream), truth)
        assert liar.num_streams == 0
        with LoaderClient([liar.target], ClientOptions(unavailable_timeout_s=0.5)) as client:
            with pytest.raises(LoaderError, match=f"{liar.target}: expected a description, found another"):
                client.describe()


@pytest.mark.parametrize("hint", ["9" * 5000, "9" * 400, "²", "-1", "1e9", "", "nan"])
def test_a_hint_that_is_no_number_is_none(sound: str, truth: list[Batch], hint: str) -> None:
    if not hint.isascii():  # no header; what comes in one is not looked at before
        with Replica(target=sound, security=Security()).connect() as connection:
            connection.translate(Overload(hint))
        return
    with lying(sound) as liar:
        liar.stream, liar.trailers = (lambda messages: messages[:1]), (("retry-after-ms", hint),)
        with LoaderClient([liar.target, sound], OPTIONS) as client, client.stream(SPEC) as stream:
            expect_equal(list(stream), truth)


class Overload(grpc.RpcError):
    """RESOURCE_EXHAUSTED with a hint."""

    def __init__(self, hint: str) -> None:
        self._hint = hint

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.RESOURCE_EXHAUSTED

    def details(self) -> str:
        return "too much"

    def trailing_metadata(self) -> Any:
        return (("retry-after-ms", self._hint),)

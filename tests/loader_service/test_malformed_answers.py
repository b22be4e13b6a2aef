"""A replica that says what cannot be is dropped, and named; beside a sound one, a client never notices."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader_service.client import Batch, LoaderClient, LoaderError, MismatchError, Security, StreamSpec
from loader_service.client.expected import Expected
from loader_service.client.replica import Replica
from loader_service.v1 import loader_pb2 as pb
from loader_service.wire.codec import unpack_header
from loader_service.wire.translate import range_to_request
from tests.conftest import LIMITS, serving
from tests.loader_service.liars import OPTIONS, SPEC, Field, Liar, fields_of, lying, message_of, with_field
from tests.stores import make_store
from tests.thoroughness import NUM_EXAMPLES

NUMBERS = {each.name: each.number for each in pb.Batch.DESCRIPTOR.fields}
NUM_STEPS = 10
SHAPE = (10, 56, 56, 3)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(make_store(tmp_path_factory.mktemp("malformed") / "store")) as target:
        yield target


def each_message(name: str, value: "int | bytes") -> Callable[[list[bytes]], list[bytes]]:
    """Says so of a field in every message."""
    return lambda messages: [with_field(message, NUMBERS[name], value) for message in messages]


def of_arrays(name: str, value: float) -> Callable[[list[bytes]], list[bytes]]:
    """Says so of the first image's label, index or colour."""

    def change(message: bytes) -> bytes:
        content = dict(fields_of(message))[NUMBERS[name]]
        assert isinstance(content, bytes)
        array = np.frombuffer(content, "<f4" if name == "colour_shifts" else "<i8").copy()
        array[0] = value
        return with_field(message, NUMBERS[name], array.tobytes())

    return lambda messages: [change(message) for message in messages]


IMPOSSIBLE: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a slice of 2**44 images": each_message("slice_size", 2**44),
    "2**44 images": each_message("num_images", 2**44),
    "2**69 images": each_message("num_images", 2**69),
    "no image": lambda messages: [with_field(message, NUMBERS["num_images"], 0) for message in messages],
    "another shape": each_message("height", 57),
    "a large shape": each_message("width", 2**32 - 1),
    "other crops": each_message("num_crops", 10),
    "another type": each_message("pixel_format", 1),
    "no such type": each_message("pixel_format", 7),
    "another epoch": each_message("epoch", 1),
    "another step": each_message("step", 2**63),
    "another place": each_message("offset", 5),
    "a class too many": of_arrays("labels", 10),
    "a negative label": of_arrays("labels", -1),
    "an image too many": of_arrays("indices", 100),
    "a colour that is no number": of_arrays("colour_shifts", float("nan")),
    "no labels": each_message("labels", b""),
    "half a label": each_message("labels", b"1234"),
    "pixels that are missing": each_message("images", b"123"),
    "pixels in memory that nobody shares": lambda messages: [
        message_of([(NUMBERS["slot"], 1), *[each for each in fields_of(message) if each[0] != NUMBERS["images"]]])
        for message in messages
    ],
    "nothing": lambda messages: [],
    "messages of nothing": lambda messages: [b"" for _ in messages],
    "no protobuf": lambda messages: [b"\xff" * 1000 for _ in messages],
    "a header without end": lambda messages: [message_of([(NUMBERS["labels"], bytes(2**22))])],
    "all twice": lambda messages: [message for message in messages for _ in range(2)],
    "too few": lambda messages: messages[:-1],
    "too many": lambda messages: [*messages, messages[-1]],
}


class Allocator:
    """Makes arrays, and knows of which shapes."""

    def __init__(self) -> None:
        self.shapes: set[tuple[int, ...]] = set()

    def __call__(self, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        self.shapes.add(shape)
        assert shape == SHAPE, "memory is made for what was asked for alone"
        return np.empty(shape, dtype)


def expect_equal(found: list[Batch], truth: list[Batch]) -> None:
    assert [batch.step for batch in found] == [batch.step for batch in truth]
    for ours, theirs in zip(found, truth, strict=True):
        for name in ("images", "labels", "indices", "colour_shifts"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("lie", IMPOSSIBLE)
def test_what_cannot_be_drops_a_replica(
    sound: str, truth: list[Batch], caplog: pytest.LogCaptureFixture, lie: str
) -> None:
    """Beside a sound one: the stream is the same, and the log names who was dropped. Alone: an error names it."""
    with lying(sound) as liar:
        liar.stream = IMPOSSIBLE[lie]
        allocate = Allocator()
        with caplog.at_level(logging.WARNING), LoaderClient([liar.target, sound], OPTIONS) as client:
            with client.stream(SPEC, allocate=allocate) as stream:
                expect_equal(list(stream), truth)
        if liar.num_streams:
            assert f"refused: {liar.target}: " in caplog.text
        assert liar.num_streams <= OPTIONS.streams_per_replica
        with LoaderClient([liar.target], OPTIONS) as client, client.stream(SPEC, allocate=allocate) as stream:
            with pytest.raises(LoaderError, match=liar.target) as caught:
                list(stream)
        assert isinstance(caught.value, MismatchError)


EXTREMES = st.sampled_from([0, 1, 2, 9, 10, 11, 56, 2**31, 2**32 - 1, 2**44, 2**63, 2**64 - 1, 2**69])


@st.composite
def lies(draw: st.DrawFn) -> Callable[[list[bytes]], list[bytes]]:
    """What a replica makes of its messages: other values or order of fields, flipped, cut, invented, out of order."""
    kind = draw(st.sampled_from(["field", "order", "flip", "cut", "random", "sequence"]))
    which = draw(st.integers(0, 3))
    content = draw(st.binary(max_size=200))
    number, value = draw(st.integers(1, 16)), draw(EXTREMES | st.binary(max_size=100))
    places = draw(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 7)), min_size=1, max_size=8))

    def change(message: bytes) -> bytes:
        if kind == "field":
            return with_field(message, number, value)
        if kind == "order":
            fields: list[Field] = fields_of(message)
            return message_of([*fields[which:], *fields[:which]])
        if kind == "flip":
            changed = bytearray(message)
            for place, bit in places:
                changed[place % len(changed)] ^= 1 << bit
            return bytes(changed)
        return message[: places[0][0]] if kind == "cut" else content

    def lie(messages: list[bytes]) -> list[bytes]:
        if kind == "sequence":
            return messages[which:] + messages[: which // 2]
        place = which % max(len(messages), 1)
        return [change(message) if number == place else message for number, message in enumerate(messages)]

    return lie


@settings(max_examples=NUM_EXAMPLES, deadline=None)
@given(lie=lies())
def test_no_answer_ends_a_client_that_has_another_replica(
    sound: str, shared_liar: Liar, truth: list[Batch], lie: Callable[[list[bytes]], list[bytes]]
) -> None:
    """All steps come, in order, each of the shape that was asked for, and of images and classes that there are."""
    shared_liar.stream = lie
    with LoaderClient([shared_liar.target, sound], OPTIONS) as client:
        with client.stream(SPEC, allocate=Allocator()) as stream:
            found = list(stream)
    assert [batch.step for batch in found] == list(range(NUM_STEPS))
    for batch, true in zip(found, truth, strict=True):
        assert batch.images.shape == SHAPE
        assert batch.images.dtype == np.uint8
        assert ((batch.labels >= 0) & (batch.labels < 10) & (batch.indices >= 0) & (batch.indices < 100)).all()
        assert batch.colour_shifts.shape == true.colour_shifts.shape


@settings(max_examples=20 * NUM_EXAMPLES, deadline=None)
@given(lie=lies())
def test_a_header_is_one_that_was_asked_for_or_an_error(
    sound: str, shared_liar: Liar, lie: Callable[[list[bytes]], list[bytes]]
) -> None:
    messages, expected = one_answer(sound)
    for message in lie(messages):
        try:
            header = unpack_header(memoryview(message), len(message))
            if header is not None:
                expected.check(header, 4)
        except ValueError:
            continue
        if header is not None:
            assert header.shape[1:] == (1, *SHAPE[1:])
            assert 1 <= header.shape[0] <= header.slice_size == SHAPE[0]


def one_answer(sound: str, known: "dict[str, tuple[list[bytes], Expected]]" = {}) -> tuple[list[bytes], Expected]:  # noqa: B006  # asked for once
    """The messages of step 4, and what they are held against."""
    if sound not in known:
        with Replica(target=sound, security=Security()).connect() as connection:
            description = connection.describe(60)
            call = connection.stream_batches(range_to_request(SPEC.steps(4, 5, epoch=0), description))
            messages = [bytes(message.read()) for message in call]
        known[sound] = messages, Expected(SPEC.steps(4, 5, epoch=0), description)
    return known[sound]


def test_a_message_of_the_largest_header_is_read(tmp_path: Path) -> None:
    """The bound of what may come before the pixels is above what does."""
    with serving(make_store(tmp_path / "store", num_train=1024, num_val=1, side=8), limits=LIMITS) as target:
        spec = StreamSpec(batch_size=1024, crop_size=1)
        with LoaderClient([target], OPTIONS) as client, client.stream(spec) as stream:
            assert [batch.num_images for batch in stream] == [1024]

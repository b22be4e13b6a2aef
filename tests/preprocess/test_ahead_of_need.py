"""Sources that can only be read in order are read while the images before are decoded."""

import time
from collections.abc import Generator

import pytest

from preprocess.sources.reading import ahead_of_need


class Source:
    """Numbers, and how many have been asked for."""

    def __init__(self, num: int, *, fails: bool = False) -> None:
        self._num, self._fails = num, fails
        self.num_made = 0
        self.is_closed = False

    def numbers(self) -> Generator[int]:
        try:
            for number in range(self._num):
                self.num_made += 1
                yield number
            if self._fails:
                raise OSError("the disk is gone")
        finally:
            self.is_closed = True


def test_the_next_ones_are_made_meanwhile() -> None:
    source = Source(100)
    numbers = ahead_of_need(source.numbers(), 5)
    assert next(numbers) == 0
    deadline = time.monotonic() + 30
    while source.num_made < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert source.num_made == 6  # this one and five ahead, and no more
    assert list(numbers) == list(range(1, 100))
    assert source.is_closed


def test_an_error_comes_in_its_place() -> None:
    source = Source(3, fails=True)
    numbers = ahead_of_need(source.numbers(), 8)
    assert [next(numbers) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(numbers)
    assert source.is_closed


def test_who_leaves_closes_the_source() -> None:
    source = Source(100)
    numbers = ahead_of_need(source.numbers(), 5)
    next(numbers)
    numbers.close()
    assert source.is_closed
    assert source.num_made <= 7

"""Token files as editors, other systems and slips of the hand leave them."""

import os
import time
from pathlib import Path

import pytest

from loader_service.client import AccessError
from loader_service.server.tokens import TokenFile


def write(path: Path, content: str, *, is_old: bool) -> None:
    """``is_old``: long ago; else as if just now, however slow this machine is."""
    path.write_text(content)
    at = time.time() + (-3600 if is_old else 3600)
    os.utime(path, (at, at))


def admits(tokens: TokenFile, token: str) -> bool:
    """After the file was looked at again."""
    time.sleep(0.02)
    return tokens.identify(f"Bearer {token}") is not None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def read(path: Path) -> TokenFile:
    """The tokens in a file that is looked at again at once."""
    return TokenFile(path, check_interval_s=0.01)


def test_a_file_that_is_being_written_shuts_nobody_out(path: Path) -> None:
    write(path, "first\nsecond\n", is_old=True)
    tokens = read(path)
    write(path, "first\n", is_old=False)
    assert admits(tokens, "second")
    write(path, "first\nsecond\nthird\n", is_old=False)
    assert admits(tokens, "second")
    assert admits(tokens, "third"), "it has stayed the same for a while"
    write(path, "third\n", is_old=False)
    assert admits(tokens, "second")
    assert not admits(tokens, "second"), "it was taken out for good"


def test_a_file_that_changed_long_ago_counts_at_once(path: Path) -> None:
    write(path, "first\n", is_old=True)
    tokens = read(path)
    write(path, "second\n", is_old=True)
    assert admits(tokens, "second")
    assert not admits(tokens, "first")


def test_a_byte_order_mark_is_no_part_of_a_token(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbffirst\r\nsecond\r\n")
    tokens = read(path)
    assert admits(tokens, "first")
    assert admits(tokens, "second")


@pytest.mark.parametrize("token", ["schlüssel", "tab\tinside", "nul\0inside", "\u200binvisible"])
def test_a_token_that_no_header_can_hold(path: Path, token: str, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text(f"# ours\n{token}\n", "utf-8")
    with pytest.raises(AccessError, match=r"tokens: line 2: expected a token of printable ASCII") as caught:
        read(path)
    assert token not in str(caught.value)
    write(path, "first\n", is_old=True)
    tokens = read(path)
    write(path, f"second\n{token}\n", is_old=True)
    assert admits(tokens, "first")
    assert not admits(tokens, "second")
    assert "line 2" in caplog.text
    assert token not in caplog.text

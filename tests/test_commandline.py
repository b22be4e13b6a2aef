"""A dataclass as a command line."""

import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from commandline import Command, Progress, check_options, option, run_program
from commandline.logs import JsonFormatter
from commandline.progress import format_duration
from commandline.values import parse_duration, parse_size


@dataclass(frozen=True, kw_only=True)
class PaintConfig:
    """Options of a command that paints."""

    wall: Path = field(metadata=option("what to paint", positional=True))
    colour: Literal["red", "blue"] = field(default="red", metadata=option("100% of this colour"))
    coats: int = field(default=1, metadata=option("how often", least=1))
    drying_s: float = field(
        default=3600.0,
        metadata=option("between coats", above=0, most=86_400, formerly="drying-minutes", former_unit="m"),
    )
    dry: bool = field(default=False, metadata=option("let it dry"))
    primer: bool = field(default=True, metadata=option("prime it first"))
    budget_bytes: int = field(default=1000, metadata=option("memory"))
    helpers: tuple[str, ...] = field(default=(), metadata=option("who helps"))
    ladder_m: float | None = field(default=None, metadata=option("length of the ladder"))

    def __post_init__(self) -> None:
        check_options(self)


class WetPaintError(Exception):
    """The user's own fault."""


def run(*arguments: str) -> tuple[int, list[PaintConfig]]:
    """The exit code, and the configuration if the command ran."""
    seen: list[PaintConfig] = []

    def paint(config: PaintConfig) -> None:
        seen.append(config)
        if config.helpers == ("nobody",):
            raise WetPaintError("two\nlines")
        if config.helpers == ("ctrl-c",):
            raise KeyboardInterrupt
        if config.helpers == ("bug",):
            raise ZeroDivisionError
        if config.helpers == ("missing",):
            Path("/nowhere/at/all").read_text()

    commands = [Command("paint", PaintConfig, paint, "paint a wall")]
    return run_program("painter", "Paints.", commands, arguments, user_errors=(WetPaintError,)), seen


def test_defaults_and_options() -> None:
    assert run("paint", "w") == (0, [PaintConfig(wall=Path("w"))])
    code, seen = run(
        *("paint", "w", "--colour", "blue", "--coats", "0x10", "--dry", "--no-primer", "--budget-bytes", "2GiB"),
        *("--helpers", "ann, bob", "--ladder-m", "2.5"),
    )
    assert code == 0
    expected = PaintConfig(
        wall=Path("w"),
        colour="blue",
        coats=16,
        dry=True,
        primer=False,
        budget_bytes=2 << 30,
        helpers=("ann", "bob"),
        ladder_m=2.5,
    )
    assert seen == [expected]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["paint", "w", "--coats", "0"], 2, "--coats: expected at least 1, found 0"),
        (["paint", "w", "--drying-s", "0"], 2, "--drying-s: expected more than 0 and at most 86,400, found 0.0"),
        (["paint", "w", "--drying-minutes", "1441"], 2, "--drying-s: expected more than 0 and at most 86,400"),
        (["paint", "w", "--ladder-m", "nan"], 2, "--ladder-m: expected a finite number, found nan"),
        (["paint", "w", "--helpers", "nobody"], 1, "painter paint: error: two lines"),
        (["paint", "w", "--helpers", "missing"], 1, "/nowhere/at/all"),
        (["paint", "w", "--helpers", "ctrl-c"], 130, "interrupted"),
    ],
)
def test_outcomes(arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments)[0] == code
    stderr = capsys.readouterr().err
    assert message in stderr
    assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paint", "w", "--coats", "many"], "expected a whole number, found 'many'"),
        (["paint", "w", "--budget-bytes", "1 potato"], "expected a size such as 512, 64MB or 8GiB"),
        (["paint", "w", "--drying-s", "soon"], "expected a duration such as 90, 90s, 10m or 2h, found 'soon'"),
        (["paint", "w", "--colour", "green"], "invalid choice: 'green'"),
        (["paint", "w", "--coat", "2"], "unrecognized arguments: --coat 2"),
        (["paint"], "required: WALL"),
        ([], "COMMAND"),
    ],
)
def test_usage_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_our_own_mistakes_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run("paint", "w", "--helpers", "bug")


def test_toml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "paint.toml"
    path.write_text('coats = 2\n[paint]\ncolour = "blue"\nhelpers = ["ann"]\nbudget-bytes = "1MB"\nprimer = false\n')
    code, (config,) = run("paint", "w", "--config", str(path), "--colour", "red")
    assert code == 0
    assert (config.colour, config.helpers, config.budget_bytes, config.primer) == ("red", ("ann",), 10**6, False)
    assert config.coats == 1, "the command's own table stands for the whole file"
    for text, message in (
        ("coats = true", "coats: expected a whole number, found 'True'"),
        ('colour = "green"', "colour: expected one of red, blue, found 'green'"),
        ('dry = "yes"', "dry: expected true or false, found 'yes'"),
        ("brush = 1", "unknown option 'brush' for paint; known: budget_bytes"),
        ("[paint", "paint.toml"),
    ):
        path.write_text(text)
        assert run("paint", "w", "--config", str(path)) == (2, [])
        assert message in capsys.readouterr().err


def test_a_former_spelling_keeps_its_unit(tmp_path: Path) -> None:
    path = tmp_path / "paint.toml"
    path.write_text("drying-minutes = 2\n")
    assert run("paint", "w", "--config", str(path))[1][0].drying_s == 120.0
    assert run("paint", "w", "--drying-minutes", "3")[1][0].drying_s == 180.0
    assert run("paint", "w", "--drying-s", "2h")[1][0].drying_s == 7200.0


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("paint", "--help")
    text = capsys.readouterr().out
    for word in ("--colour {red,blue}", "--coats N", "--no-primer", "--budget-bytes SIZE", "100% of this", "--config"):
        assert word in text
    assert text.count("(default: red)") == text.count("(default: on)") == text.count("(default: off)") == 1
    assert "drying-minutes" not in text, "a former spelling works and is not shown"


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("512", 512), ("1.5KiB", 1536), ("64MB", 64 * 10**6), ("2 g", 2 * 10**9), ("7B", 7)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0.0), ("90", 90.0), ("1.5m", 90.0), ("2h", 7200.0), ("5ms", 0.005)]
)
def test_durations_given(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


def test_plain_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("painting", 10, "walls", done=4) as progress:
        progress.advance(3, note="one is wet")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("painting: 7/10 walls, ")
    assert ", one is wet, took " in line


def test_progress_fits_a_terminal_of_80_columns() -> None:
    """The longest that a full run has to say, as a bar and as plain lines."""
    program = (
        "from commandline import Progress\n"
        "with Progress('train', 117_000_000, 'images') as progress:\n"
        "    progress.advance(100_000_000, note='loss 6.908')\n"
    )
    leader, follower = os.openpty()
    environment = os.environ | {"COLUMNS": "80", "TERM": "xterm-256color"}
    subprocess.run([sys.executable, "-c", program], stderr=follower, env=environment, check=True)
    os.close(follower)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(leader, 1 << 16).decode())
    os.close(leader)
    lines = [line for line in re.split(r"[\r\n]+", shown) if line]
    assert any("loss 6.908" in line for line in lines)
    assert max(map(len, lines)) <= 80
    progress = Progress("train", 117_000_000, "images", done=100_000_000)
    progress.advance(1, note="loss 6.908")
    assert len(f"{progress._line()}, 12h07m left") <= 80


def test_nothing_is_said_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("painting", 10, "walls", done=10):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "text"), [(4.24, "4.2s"), (185.0, "3m05s"), (7620.0, "2h07m")])
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_json_logs() -> None:
    record = logging.makeLogRecord({"name": "a", "levelname": "INFO", "msg": "%d walls", "args": (3,), "colour": "red"})
    fields = json.loads(JsonFormatter().format(record))
    assert (fields["message"], fields["colour"], fields["level"]) == ("3 walls", "red", "info")

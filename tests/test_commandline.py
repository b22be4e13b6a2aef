"""A dataclass as a command line."""

import dataclasses
import inspect
import io
import json
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import loader_service.commands.commands
import preprocess.commands
import trainer.commands
from commandline import (
    Command,
    Progress,
    __version__,
    check_options,
    option,
    plain,
    print_line,
    required,
    run_program,
    write_line,
)
from commandline.config_file import read_config_file, write_config_file
from commandline.logs import JsonFormatter, TextFormatter
from commandline.program import function_of
from commandline.progress import format_duration
from commandline.values import parse_duration, parse_size


@dataclass(frozen=True, kw_only=True)
class PaintConfig:
    """Options of a command that paints."""

    wall: Path = required("what to paint", positional=True)
    colour: Literal["red", "blue"] = option("red", "100% of this colour")
    coats: int = option(1, "how often", least=1)
    drying_s: float = option(3600.0, "between coats", above=0, most=86_400, formerly="drying-minutes", former_unit="m")
    dry: bool = option(False, "let it dry")
    primer: bool = option(True, "prime it first")
    budget_bytes: int = option(1000, "memory")
    helpers: tuple[str, ...] = option((), "who helps")
    ladder_m: float | None = option(None, "length of the ladder")

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class MoveConfig:
    """Options of a command that moves ladders."""

    origin: Path = required("where they are", positional=True)
    to: Path = required("where they go")
    ladders: int = option(1, "how many")


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

    commands = [
        Command("paint", PaintConfig, paint, "paint a wall"),
        Command("move", MoveConfig, lambda _: None, "move a ladder"),
    ]
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
        ("paint w --coats 0", 2, "painter paint: error: --coats: expected at least 1, found 0"),
        ("paint w --drying-s 0", 2, "--drying-s: expected more than 0 and at most 86,400, found 0.0"),
        ("paint w --drying-minutes 1441", 2, "--drying-s: expected more than 0 and at most 86,400"),
        ("paint w --ladder-m nan", 2, "--ladder-m: expected a finite number, found nan"),
        ("paint w --helpers nobody", 1, "painter paint: error: two lines"),
        ("paint w --helpers missing", 1, "/nowhere/at: expected a folder, found none"),
        ("paint w --helpers ctrl-c", 130, "painter paint: error: interrupted"),
        ("paint w --coats many", 2, "painter paint: error: --coats: expected a whole number, found 'many'"),
        ("paint w --coats", 2, "--coats: expected one argument"),
        ("paint w --budget-bytes 1potato", 2, "--budget-bytes: expected a size such as 512, 64MB or 8GiB, found"),
        ("paint w --drying-s soon", 2, "--drying-s: expected a duration such as 90, 90s, 10m or 2h, found 'soon'"),
        ("paint w --colour green", 2, "--colour: expected one of red, blue, found 'green'"),
        ("paint w --coat 2", 2, "--coat: no such option; did you mean --coats?"),
        ("paint --coat=2 w", 2, "--coat: no such option; did you mean --coats?"),
        ("paint w --qqq", 2, "--qqq: no such option (see painter paint --help)"),
        ("paint w v", 2, "expected options alone, found 'v' (see painter paint --help)"),
        ("paint", 2, "painter paint: error: WALL must be given (see painter paint --help)"),
        ("move --ladders 1", 2, "painter move: error: ORIGIN, --to must be given (see painter move --help)"),
        ("pant w", 2, "painter: error: pant: no such command; did you mean paint? (known: paint, move;"),
        ("--coats 2", 2, "painter: error: --coats: no such command (known: paint, move; see painter --help)"),
        ("", 2, "painter: error: expected a command (known: paint, move; see painter --help)"),
    ],
)
def test_mistakes_are_one_line(arguments: str, code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments.split())[0] == code
    stderr = capsys.readouterr().err
    assert message in stderr
    assert len(stderr.splitlines()) == 1


def test_our_own_mistakes_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run("paint", "w", "--helpers", "bug")


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "paint.toml"
    options = 'colour = "blue"\nhelpers = ["ann"]\nbudget-bytes = "1MB"\nprimer = false\ncoats = 2\ndrying_s = "2h"\n'
    for text in (options, f"[paint]\n{options}[move]\nto = 'x'\n"):
        path.write_text(text)
        code, (config,) = run("paint", "w", "--config", str(path), "--colour", "red")
        assert code == 0
        assert (config.colour, config.helpers, config.budget_bytes, config.primer) == ("red", ("ann",), 10**6, False)
        assert (config.coats, config.drying_s) == (2, 7200.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("coats = true", "coats: expected a whole number, found true"),
        ('coats = "2"', 'coats: expected a whole number, found "2"'),
        ("coats = 2.0", "coats: expected a whole number, found 2.0"),
        ("coats = [2]", "coats: expected a whole number, found [2]"),
        ('ladder_m = "2"', 'ladder_m: expected a number, found "2"'),
        ('drying_s = "soon"', "drying_s: expected a duration such as 90, 90s, 10m or 2h, found 'soon'"),
        ("drying_s = false", "drying_s: expected a duration such as 90, 90s, 10m or 2h, found false"),
        ("budget_bytes = 1.5", "budget_bytes: expected a size such as 512, 64MB or 8GiB, found 1.5"),
        ("wall = 3", "wall: expected a path, found 3"),
        ("helpers = [3]", "helpers: expected text, found 3"),
        ("colour = 3", "colour: expected one of red, blue, found 3"),
        ('colour = "green"', "colour: expected one of red, blue, found 'green'"),
        ('dry = "yes"', 'dry: expected true or false, found "yes"'),
        ("coats = 0", "--coats: expected at least 1, found 0"),
        ("coat = 1", "unknown option 'coat'; did you mean coats?"),
        ("qqq = 1", "unknown option 'qqq'; --print-config prints those that there are"),
        ("[pant]", "unknown table [pant]; did you mean paint?"),
        ("[qqq]", "unknown table [qqq]; known: paint, move"),
        ("[move]", "expected a table [paint], found [move]"),
        ("coats = 1\n[paint]", "expected options in tables or at the top, found both: [paint], coats"),
        ("[paint", "Expected ']'"),
    ],
)
def test_mistakes_in_a_file_name_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "paint.toml"
    path.write_text(text)
    assert run("paint", "w", "--config", str(path)) == (2, [])
    stderr = capsys.readouterr().err
    assert f"painter paint: error: --config {path}: {message}" in stderr
    assert len(stderr.splitlines()) == 1


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("paint", "w", "--config", str(tmp_path / "none"))[0] == 2
    assert f"--config {tmp_path / 'none'}: No such file" in capsys.readouterr().err


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(
    config=st.builds(
        PaintConfig,
        wall=TEXTS.filter(lambda text: "\0" not in text).map(Path),
        colour=st.sampled_from(["red", "blue"]),
        coats=st.integers(1, 2**62),
        drying_s=st.floats(0, 86_400, exclude_min=True),
        dry=st.booleans(),
        primer=st.booleans(),
        budget_bytes=st.integers(-(2**60), 2**60),
        helpers=st.lists(TEXTS.map(str.strip)).map(tuple),
        ladder_m=st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_a_file_that_is_written_reads_back(config: PaintConfig) -> None:
    text = write_config_file(PaintConfig, "paint", dataclasses.asdict(config))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "paint.toml"
        path.write_text(text, "utf-8", newline="")
        assert PaintConfig(**read_config_file(path, PaintConfig, "paint", ["paint"])) == config


def test_print_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is given stands there as it is, the rest commented; with every comment's option taken up nothing changes."""
    assert run("paint", "--coats", "3", "--helpers", "ann,bob", "--print-config") == (0, [])
    text = capsys.readouterr().out
    for line in (
        "coats = 3",
        'helpers = ["ann", "bob"]',
        "#wall = PATH",
        '#colour = "red"',
        "#ladder_m = X",
        "# how often",
    ):
        assert f"\n{line}\n" in text
    assert all(f"\n{field.name} = " in text.replace("#", "") for field in dataclasses.fields(PaintConfig))
    path = tmp_path / "paint.toml"
    for content in (text, re.sub(r"^#(?=\w+ = (?!PATH|X$))", "", text, flags=re.MULTILINE)):
        path.write_text(content)
        assert run("paint", "w", "--config", str(path))[1] == [
            PaintConfig(wall=Path("w"), coats=3, helpers=("ann", "bob"))
        ]
    assert run("paint", "w", "--coats", "0", "--print-config") == (2, [])


def test_a_former_spelling_keeps_its_unit(tmp_path: Path) -> None:
    path = tmp_path / "paint.toml"
    path.write_text("drying-minutes = 2\n")
    assert run("paint", "w", "--config", str(path))[1][0].drying_s == 120.0
    assert run("paint", "w", "--drying-minutes", "3")[1][0].drying_s == 180.0
    assert run("paint", "w", "--drying-s", "2h")[1][0].drying_s == 7200.0


@pytest.mark.parametrize(
    "command",
    [*preprocess.commands.COMMANDS, *loader_service.commands.commands.COMMANDS, *trainer.commands.COMMANDS],
    ids=lambda command: command.name,
)
def test_what_runs_a_command_is_there_and_takes_its_options(command: Command) -> None:
    (parameter,) = inspect.signature(function_of(command)).parameters.values()
    assert parameter.annotation is command.config


def test_the_program_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help")[0] == run("-h")[0] == 0
    text = capsys.readouterr().out
    assert "paint a wall" in text
    assert "--version" in text
    assert run("--version")[0] == 0
    assert capsys.readouterr().out == f"painter {__version__}\n"


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("paint", "--help")
    text = capsys.readouterr().out
    for word in ("--colour {red,blue}", "--coats N", "--no-primer", "--budget-bytes SIZE", "100% of this", "--config"):
        assert word in text
    assert text.startswith("usage: painter paint WALL [OPTION...]\n")
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
    assert re.fullmatch(r"painting: 7/10 walls, took 0\.\ds, [\d,]+ walls/s, one is wet", line)


@given(
    done=st.integers(0, 10**10),
    amount=st.integers(1, 10**9),
    left=st.integers(0, 10**10),
    note=st.text(st.characters(categories=["L", "N", "P"]), max_size=100),
)
@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_line_of_progress_fits_and_keeps_count_and_time(
    is_terminal: bool, done: int, amount: int, left: int, note: str
) -> None:
    """Whatever the numbers and the note: a line that is cut loses its end, and on a terminal rich cuts none."""
    total = done + amount + left
    written = io.StringIO()
    environment = {"FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "xterm"} if is_terminal else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", written)
        patch.setattr("commandline.progress.PLAIN_INTERVAL_S", 0.0)
        for name, value in environment.items():
            patch.setenv(name, value)
        with Progress("preprocess", total, "images", done=done) as progress:
            progress.advance(amount, note=note)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.getvalue()).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= 80
    counted = [line for line in lines if f"{done + amount:,}/{total:,} images" in line]
    assert counted
    assert any(re.search(r" images, \S.* left", line) or " took " in line for line in counted)


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.24, "4.2s"), (185.0, "3m05s"), (7620.0, "2h07m"), (1e12, "over 9999h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_json_logs() -> None:
    record = logging.makeLogRecord({"name": "a", "levelname": "INFO", "msg": "%d walls", "args": (3,), "colour": "red"})
    fields = json.loads(JsonFormatter().format(record))
    assert (fields["message"], fields["colour"], fields["level"]) == ("3 walls", "red", "info")


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_nothing_that_is_printed_is_obeyed(text: str) -> None:
    assert plain(text).replace("\t", "").isprintable()
    assert plain(plain(text)) == plain(text)
    if text.isprintable():
        assert plain(text) == text


def test_escapes_name_what_they_stand_for() -> None:
    assert plain("caf\u00e9 \x1b[31mred\r\n\udcff\u202e\t.") == "caf\u00e9 \\x1b[31mred\\r\\n\\xff\\u202e\t."


def test_names_go_to_terminals_and_logs_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "\x1b]0;owned\x07.jpg"

    def fail(config: PaintConfig) -> None:
        raise OSError(f"{name}: cannot be read")

    print_line(name)
    write_line(name)
    with Progress("paint", 1, "images") as progress:
        progress.advance(note=name)
    assert run_program("paint", "", [Command("paint", PaintConfig, fail, "")], ["paint", "--colour", name]) != 0
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s", (name,), None)
    told = capsys.readouterr()
    for text in (told.out, told.err, TextFormatter("%(message)s").format(record), JsonFormatter().format(record)):
        assert "\x1b" not in text
        assert "\x07" not in text
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    print_line("caf\u00e9")
    stdout.seek(0)
    assert stdout.read() == "caf\\xe9\n"

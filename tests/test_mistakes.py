"""Thirty mistakes that people make with the three programs: each is told in one line that says what was expected."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

import loader_service.__main__
import preprocess.__main__
import trainer.__main__
from tests.preprocess.conftest import make_folder
from tests.trainer.runs import train

PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "preprocess": preprocess.__main__.main,
    "loader": loader_service.__main__.main,
    "trainer": trainer.__main__.main,
}
# What is typed, and what is answered, after the program's and the command's name. RUN is a run's folder.
MISTAKES = """
preprocess rnu                              | rnu: no such command; did you mean run?
preprocess run                              | --source, --out must be given
preprocess run --sorce IMAGES               | --sorce: no such option; did you mean --source?
preprocess run --source gone --out st       | gone: expected a folder, found nothing
preprocess run --source empty --out st      | empty: expected images in some layout, found an empty folder
preprocess run --source file --out st       | file: expected a folder, found a file: give the folder that holds it
preprocess run --source IMAGES --out file   | file: expected a folder or nothing, found a file
preprocess run --source IMAGES --out IMAGES/st | expected a folder outside --source IMAGES, found one within it
preprocess run --source IMAGES --out st --encoding jpg | --encoding: expected one of jpeg, yuv420, raw, found 'jpg'
preprocess verify IMAGES                    | IMAGES: expected a store with manifest.json, found a folder without one
preprocess info STORE --contact-sheet a.jpg | --contact-sheet: expected a file name that ends in .png, found 'a.jpg'
loader serve --store gone                   | gone: expected a store with manifest.json, found no such folder
loader serve --store STORE --listen 7000    | --listen: expected HOST:PORT, found '7000'
loader serve --store STORE --listen 0.0.0.0:7000 | --listen 0.0.0.0:7000: expected a loopback address, or --tls-cert
loader serve --store STORE --tls-cert a.crt | --tls-cert and --tls-key go together: one of them is missing
loader serve --store STORE --token-file gone | gone: the tokens cannot be read: No such file or directory
loader serve --store STORE --cache-bytes 1Gig | --cache-bytes: expected a size such as 512, 64MB or 8GiB, found '1Gig'
loader digest --target 127.0.0.1:1 --service-timeout-s 1 | UNAVAILABLE: cannot connect: Connection refused
loader digest --target http://127.0.0.1:7000 | --target: expected HOST:PORT, found 'http://127.0.0.1:7000'
loader digest --target TARGET --tls-ca ca.crt --service-timeout-s 1 | the service speaks clear text: no --tls-ca
loader digest --target TARGET --split test  | split: expected one of train, val, found 'test'
trainer train                               | --target, --run-dir must be given
trainer train --target TARGET --run-dir file | file: expected a folder, or nothing, found a file
trainer train --target TARGET --run-dir RUN --batch-size 16 --crop 64 | RUN holds checkpoints: continue them with
trainer train --target TARGET --run-dir r --batch-size 500 | --batch-size: split 'train' has 100 images, less than
trainer train --target TARGET --run-dir r --epochs 5 --lr-drops 10 | --lr-drops: expected epochs before the last, 5
trainer train --config trian.toml           | --config trian.toml: unknown table [trian]; did you mean train?
trainer train --config rate.toml            | unknown option 'learning_rate'; --print-config prints those that there are
trainer train --config gone.toml            | --config gone.toml: No such file or directory
trainer train --target TARGET --run-dir RUN --resume auto --crop 64 --batch-size 16 | another run: --init was
trainer evaluate --target TARGET --checkpoint empty | empty: expected a checkpoint or a run folder that holds one
trainer predict file --checkpoint RUN       | file: not a picture that can be read: expected an image
trainer report empty                        | empty: expected a run's metrics, found none
trainer watch RUN --metrics localhost:9000  | --metrics: expected http://HOST:PORT/metrics, found 'localhost:9000'
"""


@pytest.fixture(scope="module")
def folder(loader_target: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the mistakes are made: images, a run, and what is of no use."""
    folder = tmp_path_factory.mktemp("mistaken")
    make_folder(folder / "images")
    assert train(loader_target, folder / "run", "--epochs", "1") == 0
    (folder / "trian.toml").write_text("[trian]\nlr = 1\n")
    (folder / "rate.toml").write_text("[train]\nlearning_rate = 1\n")
    trustme.CA().cert_pem.write_to_path(str(folder / "ca.crt"))
    (folder / "file").write_text("no picture")
    (folder / "empty").mkdir()
    return folder


def left_in(folder: Path) -> list[Path]:
    """All that lies there, but for the lock of a run that was not to be."""
    return sorted(path for path in folder.rglob("*") if path.name not in ("r", "run.lock"))


@pytest.mark.parametrize("mistake", MISTAKES.strip().splitlines(), ids=lambda line: line.partition("|")[0].strip())
def test_a_mistake_is_told_in_a_line(
    mistake: str,
    folder: Path,
    tiny_store: Path,
    loader_target: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    before = left_in(folder)
    stands_for = {"IMAGES": "images", "STORE": str(tiny_store), "TARGET": loader_target, "RUN": "run"}
    for word, meaning in stands_for.items():
        mistake = re.sub(rf"\b{word}\b", meaning, mistake)
    typed, expected = (part.strip() for part in mistake.split(" | "))
    program, *words = typed.split()
    assert PROGRAMS[program](words) in (1, 2)
    told = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(told) == 1
    assert re.match(rf"alexnet-{program}(?: {words[0]})?: error: ", told[0])
    assert expected in told[0]
    assert "Errno" not in told[0]
    assert left_in(folder) == before, "nothing half-written"

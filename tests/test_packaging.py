"""What is distributed: the wheel, the source distribution, and what a program says when it cannot start."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("commandline", "loader_service", "preprocess", "trainer")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
NOT_DISTRIBUTED = (".ci/", ".gitignore", "deploy/compose/.gitignore", "deploy/.yamllint")


def tracked() -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("needs git's list of files")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}


def built(kind: str, tree: Path, out: Path) -> Path:
    """A distribution of ``tree``, made without touching the network."""
    command = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    subprocess.run([sys.executable, "-c", command], cwd=tree, capture_output=True, check=True)
    (path,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return path


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    for name in tracked():
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / "tree" / name)
    return built("sdist", folder / "tree", folder / "out")


def test_the_source_distribution_is_the_whole_tree(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in tracked() - found if not name.startswith(NOT_DISTRIBUTED)} == set()


def test_the_wheel_of_the_source_distribution(sdist: Path, tmp_path: Path) -> None:
    """It holds the four packages, with types and the proto, and nothing else; its commands exist."""
    subprocess.run(["tar", "-xf", str(sdist), "-C", str(tmp_path)], check=True)  # tarfile's filter is not in 3.11.2
    with zipfile.ZipFile(built("wheel", tmp_path / f"alexnet_pipeline-{VERSION}", tmp_path / "out")) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        scripts = ConfigParser()
        scripts.read_string(wheel.read(f"alexnet_pipeline-{VERSION}.dist-info/entry_points.txt").decode())
    assert names == {name for name in tracked() if name.split("/")[0] in PACKAGES}
    assert names >= {f"{package}/py.typed" for package in PACKAGES}
    assert names >= {"loader_service/v1/loader.proto", "loader_service/v1/loader_pb2.pyi"}
    for place in scripts["console_scripts"].values():
        module, _, function = place.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_there_is_one_version() -> None:
    for package in PACKAGES:
        assert importlib.import_module(package).__version__ == VERSION
    dockerfile = (ROOT / "deploy/containers/Dockerfile").read_text("utf-8").splitlines()
    assert {line for line in dockerfile if line.startswith("ARG VERSION")} == {f"ARG VERSION={VERSION}"}
    tags = re.compile(r"(?:image: alexnet-\w+:(?:\$\{VERSION:-)?|name: alexnet-\w+, newTag: )([\d.]+)")
    deployed = [path.read_text("utf-8") for path in (ROOT / "deploy").rglob("*.y*ml")]
    assert {tag for text in deployed for tag in tags.findall(text)} == {VERSION}
    assert f"\n## {VERSION} (" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_importing_a_package_does_nothing() -> None:
    for package in ("loader_service", "preprocess", "trainer"):
        body = ast.parse((ROOT / package / "__init__.py").read_text("utf-8")).body
        assert [type(statement) for statement in body] == [ast.Expr, ast.Assign]


def failing(*command: str, cwd: Path = ROOT, path: Path | str = "") -> str:
    """The one line that a program writes when it cannot start; ``path`` comes first where modules are looked for."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    command = (sys.executable, *command)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=cwd)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    return str(line)


@pytest.mark.parametrize(
    ("package", "missing", "arguments", "extra"),
    [
        ("loader_service", "grpc", ["serve", "--store", "/nowhere"], "loader"),
        ("loader_service", "lmdb", ["serve", "--store", "/nowhere"], "loader"),
        ("loader_service", "hpack", ["digest", "--target", "127.0.0.1:1"], "loader"),
        ("preprocess", "lmdb", ["info", "/nowhere"], "preprocess"),
        ("preprocess", "PIL", ["sample", "--out", "/nowhere"], "preprocess"),
        ("trainer", "torch", ["train", "--target", "127.0.0.1:1", "--run-dir", "/nowhere"], "trainer"),
    ],
)
def test_a_missing_extra_is_named(package: str, missing: str, arguments: list[str], extra: str) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None; from {package}.__main__ import main; sys.exit(main())"
    compiles = ", which compiles pillow-simd, or without a compiler 'alexnet-pipeline[preprocess-portable]'"
    assert failing("-c", script, *arguments) == (
        f"alexnet-{extra}: error: the package {missing!r} is not installed; "
        f"needs: pip install 'alexnet-pipeline[{extra}]'{compiles if missing == 'PIL' else ''}"
    )


def test_the_portable_extra_differs_in_pillow_alone() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    preprocess, portable = set(extras["preprocess"]), set(extras["preprocess-portable"])
    assert portable - preprocess == {"pillow>=12.1"}
    assert all(line.startswith(("pillow-simd>=12.1 ;", "pillow>=12.1 ;")) for line in preprocess - portable)


def test_what_hides_a_package_is_named(tmp_path: Path) -> None:
    """A file of that name beside whoever starts it; a folder too."""
    (tmp_path / "trainer.py").write_text("raise SystemExit('not ours')")
    (tmp_path / "elsewhere").mkdir()
    script = "import sys; from commandline import start; sys.exit(start.trainer())"
    hidden = (
        f"{tmp_path / 'trainer.py'} hides this program's package 'trainer': rename it, or start from another folder"
    )
    assert failing("-c", script, cwd=tmp_path / "elsewhere", path=tmp_path) == f"alexnet-trainer: error: {hidden}"
    assert failing("-m", "loader_service", "serve", cwd=tmp_path) == f"alexnet-loader: error: {hidden}"


def test_what_was_installed_over_a_package_is_named(tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package)
    (tmp_path / "trainer" / "__init__.py").write_text('__version__ = "0.0.36"\n')
    assert failing("-m", "trainer", "describe", cwd=tmp_path, path=tmp_path) == (
        "alexnet-trainer: error: another distribution's 'trainer' was installed over this one: "
        "use an environment of its own"
    )

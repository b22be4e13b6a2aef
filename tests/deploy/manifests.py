"""What is deployed, as data: rendered Kubernetes objects, compose services, and every command line in them."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

DEPLOY = Path(__file__).parents[2] / "deploy"


@cache
def rendered(overlay: str) -> tuple[dict[str, Any], ...]:
    """The objects of an overlay, as ``kubectl kustomize`` makes them."""
    folder = DEPLOY / "kubernetes/overlays" / overlay
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    return tuple(yaml.safe_load_all(done.stdout))


def compose() -> dict[str, Any]:
    """The compose file, without its variables."""
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose/compose.yml").read_text("utf-8"))
    return document


def pod_specs(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every pod that an object makes."""
    spec = document.get("spec", {})
    if document["kind"] in ("Deployment", "Job"):
        yield spec["template"]["spec"]
    elif document["kind"] == "RayJob":
        cluster = spec["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            yield group["template"]["spec"]


def script_commands(path: Path) -> Iterator[list[str]]:
    """Each use of a program in a shell script or a systemd unit, its variables replaced by plausible values."""
    text = re.sub(r"\\\n", " ", path.read_text("utf-8"))
    for line in text.splitlines():
        found = re.search(
            r"(alexnet-loader|alexnet-preprocess|alexnet-trainer|-m trainer) (serve|run|train) (.*)", line
        )
        if found is None or line.lstrip().startswith("#"):
            continue
        rest = re.sub(r"\|\|.*|&$", "", found[3]).replace("%i", "7000").replace('"$@"', "")
        rest = re.sub(r"\$\(cat [^)]*\)", "host:1", rest)
        rest = re.sub(r"\$\{?(\w+)\}?", lambda match: _plausible(match[1]), rest)
        program = "alexnet-trainer" if found[1] == "-m trainer" else found[1]
        yield [program, found[2], *shlex.split(rest)]


def _plausible(variable: str) -> str:
    known = {"devices": "cuda:0,cuda:1", "port": "30000", "metrics_port": "30016", "processes": "8"}
    return known.get(variable, "x")

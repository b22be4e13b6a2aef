"""What an engine or a cluster reads from deploy/, checked against schemas, linters and our own programs."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from commandline import Command, run_program
from loader_service.commands.config import HealthcheckConfig, ServeConfig
from preprocess.config import RunConfig
from tests.deploy.manifests import DEPLOY, compose, pod_specs, rendered, script_commands
from trainer.config import TrainConfig

BIN = Path(sys.executable).parent
OVERLAYS = ("local", "gpu")
KUBERNETES = "1.33"
HAS_KUBECTL = pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl")


def needs(tool: str) -> Callable[[Any], Any]:
    """A test that runs ``tool``, which may be in the environment or on PATH."""
    there = (BIN / tool).exists() or shutil.which(tool)
    return pytest.mark.skipif(not there, reason=f"needs {tool}")


def run(tool: str, *arguments: str | Path, cwd: Path = DEPLOY) -> None:
    """Runs a checker, which must be content."""
    path = BIN / tool if (BIN / tool).exists() else tool
    done = subprocess.run([str(path), *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{tool}: {done.stdout}{done.stderr}"


@needs("hadolint")
def test_dockerfile_is_clean() -> None:
    run("hadolint", "containers/Dockerfile")


@needs("shellcheck")
def test_shell_scripts_are_clean() -> None:
    run("shellcheck", "tls/make", "local/cluster", *sorted(DEPLOY.glob("slurm/*.sbatch")), "../scripts/cluster")


@needs("yamllint")
def test_yaml_is_clean() -> None:
    run("yamllint", "--strict", "-c", ".yamllint", ".")


@needs("check-jsonschema")
def test_compose_fits_its_schema() -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose/compose.yml", "compose/gpu.yml")


@HAS_KUBECTL
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_objects_are_valid(overlay: str) -> None:
    """Kubernetes' own kinds against its published schemas, strictly; KEDA's and KubeRay's against ours."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    jsonschema = pytest.importorskip("jsonschema")
    ours = {}
    for path in (DEPLOY / "kubernetes/schemas").glob("*.json"):
        schema = json.loads(path.read_text("utf-8"))
        ours[schema["properties"]["kind"]["const"]] = jsonschema.Draft202012Validator(schema)
    seen = set()
    for document in rendered(overlay):
        if document["kind"] in ours:
            ours[document["kind"]].validate(document)
            for spec in pod_specs(document):
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
                kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        else:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        seen.add(document["kind"])
    assert {"Deployment", "Service", "PodDisruptionBudget", "Job", "NetworkPolicy"} <= seen
    assert ({"ScaledObject", "RayJob"} <= seen) == (overlay == "gpu")


@HAS_KUBECTL
def test_our_schemas_refuse_slips() -> None:
    """A misspelt field would be dropped in silence by a cluster; here it fails."""
    jsonschema = pytest.importorskip("jsonschema")
    for name, kind, slip in (
        ("scaledobject", "ScaledObject", ("spec", "maxReplicas")),
        ("rayjob", "RayJob", ("spec", "rayCluster")),
    ):
        schema = json.loads((DEPLOY / f"kubernetes/schemas/{name}.json").read_text("utf-8"))
        document = json.loads(json.dumps(next(d for d in rendered("gpu") if d["kind"] == kind)))
        document[slip[0]][slip[1]] = 1
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, schema)


@HAS_KUBECTL
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_pass_the_restricted_standard(overlay: str) -> None:
    for document in rendered(overlay):
        for spec in pod_specs(document):
            assert spec["securityContext"]["runAsNonRoot"]
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in spec["containers"]:
                security = container["securityContext"]
                assert not security["allowPrivilegeEscalation"]
                assert security["capabilities"]["drop"] == ["ALL"]
                assert container["resources"]["limits"]["memory"]
                assert ":" in container["image"], f"{container['image']}: no version"


@HAS_KUBECTL
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_references_between_objects_hold(overlay: str) -> None:
    documents = rendered(overlay)
    names = {(document["kind"], document["metadata"]["name"]) for document in documents}
    secrets = {"alexnet-loader-tls", "alexnet-token"}  # made by hand: docs/operations.md
    claims_of_others = {"imagenet-source"}
    for document in documents:
        for spec in pod_specs(document):
            volumes = {volume["name"] for volume in spec["volumes"]}
            for container in spec["containers"]:
                assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            for volume in spec["volumes"]:
                if "configMap" in volume:
                    assert ("ConfigMap", volume["configMap"]["name"]) in names
                if "secret" in volume:
                    assert volume["secret"]["secretName"] in secrets
                if "persistentVolumeClaim" in volume:
                    claim = volume["persistentVolumeClaim"]["claimName"]
                    assert ("PersistentVolumeClaim", claim) in names or claim in claims_of_others
        if document["kind"] == "ScaledObject":
            assert ("Deployment", document["spec"]["scaleTargetRef"]["name"]) in names
            query = document["spec"]["triggers"][0]["metadata"]["query"]
            rules = (DEPLOY / "prometheus/rules.yml").read_text("utf-8")
            assert f"record: {query.removeprefix('max(').removesuffix(')')}\n" in rules
        if document["kind"] == "Service":
            selector = document["spec"]["selector"]
            templates = [other["spec"]["template"] for other in documents if other["kind"] == "Deployment"]
            found = [template for template in templates if selector.items() <= template["metadata"]["labels"].items()]
            assert len(found) == 1
            ports = {port["name"] for port in found[0]["spec"]["containers"][0]["ports"]}
            assert {port["targetPort"] for port in document["spec"]["ports"]} <= ports


def parsed(command: list[str]) -> Any:
    """The options that one of our programs makes of a command line; fails as the program would."""
    configs: list[Any] = []
    commands = [
        Command("serve", ServeConfig, configs.append, ""),
        Command("healthcheck", HealthcheckConfig, configs.append, ""),
        Command("train", TrainConfig, configs.append, ""),
        Command("run", RunConfig, configs.append, ""),
    ]
    assert run_program(command[0], "", commands, command[1:]) == 0, command
    return configs[0]


def kubernetes_commands() -> Iterator[list[str]]:
    for overlay in OVERLAYS:
        for document in rendered(overlay):
            for spec in pod_specs(document):
                for container in spec["containers"]:
                    if container["image"].startswith("alexnet-") and "args" in container:
                        yield [container["image"].partition(":")[0], *container["args"]]
                    for probe in ("startupProbe", "readinessProbe"):
                        if "exec" in container.get(probe, {}):
                            yield container[probe]["exec"]["command"]
            if document["kind"] == "RayJob":
                yield document["spec"]["entrypoint"].split()


@HAS_KUBECTL
def test_kubernetes_command_lines_are_ours() -> None:
    configs = [parsed(command) for command in kubernetes_commands()]
    assert {type(config) for config in configs} == {ServeConfig, HealthcheckConfig, TrainConfig, RunConfig}


@HAS_KUBECTL
def test_the_grace_period_is_longer_than_the_drain() -> None:
    for document in rendered("gpu"):
        if document["kind"] == "Deployment" and document["metadata"]["name"] == "alexnet-loader":
            spec = document["spec"]["template"]["spec"]
            config = parsed(["alexnet-loader", *spec["containers"][0]["args"]])
            assert spec["terminationGracePeriodSeconds"] > config.drain_s
            return
    pytest.fail("no loader")


def test_compose_command_lines_are_ours() -> None:
    services = compose()["services"]
    commands = {name: service for name, service in services.items() if name.startswith(("loader", "trainer", "pre"))}
    configs = {
        name: parsed([service["image"].partition(":")[0], *service["command"]]) for name, service in commands.items()
    }
    assert len([config for config in configs.values() if isinstance(config, ServeConfig)]) == 3
    assert configs["trainer"].target == ("loader-0:7000", "loader-1:7000", "loader-2:7000")
    grace = services["loader-0"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > configs["loader-0"].drain_s
    options = services["loader-0"]["environment"]["HEALTHCHECK_OPTIONS"].split()
    parsed(["alexnet-loader", "healthcheck", *options])


def test_scripts_command_lines_are_ours() -> None:
    paths = [*DEPLOY.glob("slurm/*.sbatch"), *DEPLOY.glob("systemd/*.service")]
    assert len(paths) == 5
    for path in paths:
        commands = list(script_commands(path))
        assert len(commands) == 1, path
        command = commands[0]
        if "--config" in command:
            name = command[command.index("--config") + 1].rpartition("/")[2]
            command[command.index("--config") + 1] = str(DEPLOY / "systemd" / name)
        parsed(command)


@needs("systemd-analyze")
def test_units_are_valid(tmp_path: Path) -> None:
    for path in DEPLOY.glob("systemd/*.service"):
        # It wants the programs to be there; these are not installed under /opt here.
        text = path.read_text("utf-8").replace("/opt/alexnet/bin/alexnet-loader", "/bin/true")
        (tmp_path / path.name).write_text(text.replace("/opt/alexnet/bin/alexnet-trainer", "/bin/true"), "utf-8")
        run("systemd-analyze", "verify", tmp_path / path.name)


def test_units_read_secrets_as_credentials() -> None:
    """What deploy/tls/make writes lies in a folder for root alone: a unit's own user sees only what it is handed."""
    for path in DEPLOY.glob("systemd/*.service"):
        text = path.read_text("utf-8").replace("\\\n", " ")
        command = next(line for line in text.splitlines() if line.startswith("ExecStart="))
        handed = dict(re.findall(r"^LoadCredential=(\S+):(\S+)$", text, re.MULTILINE))
        assert "User=" in text
        assert "/etc/alexnet/tls" not in command
        assert set(re.findall(r"\$\{CREDENTIALS_DIRECTORY\}/(\S+)", command)) == handed.keys()
        assert all(place == f"/etc/alexnet/tls/{name}" for name, place in handed.items())


def test_keys_stay_their_owners() -> None:
    """No file here lets others read a key or a token, or tells anybody to."""
    texts = [path for path in (*DEPLOY.rglob("*"), *DEPLOY.parent.glob("docs/*.md")) if path.is_file()]
    for path in texts:
        for mode, names in re.findall(r"chmod 0?([0-7]{3}|\S*\+\S*r\S*) (.*)", path.read_text("utf-8")):
            assert mode.endswith("00") or not re.search(r"\.key|token", names), f"{path}: chmod {mode} {names}"


@HAS_KUBECTL
def test_a_ray_that_others_reach_asks_for_a_token() -> None:
    for document in rendered("gpu"):
        if document["kind"] == "RayJob":
            assert document["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
            return
    pytest.fail("no RayJob")


@needs("promtool")
def test_kubernetes_prometheus_configuration(tmp_path: Path) -> None:
    """Debian's promtool knows no Kubernetes, so all but the discovery of pods is checked."""
    path = DEPLOY / "kubernetes/components/monitoring/config/prometheus.yml"
    document = yaml.safe_load(path.read_text("utf-8"))
    for job in document["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs")
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(document), "utf-8")
    run("promtool", "check", "config", "--syntax-only", tmp_path / "prometheus.yml")

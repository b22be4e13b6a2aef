"""deploy/ray: loader replicas as Ray actors on two real nodes, one of which is killed under a client."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from loader_service.client import LoaderClient, StreamSpec
from loader_service.commands.digest import StreamDigest
from preprocess.job.cluster import start_ray
from tests.conftest import serving
from tests.processes import free_port
from tests.stores import make_store
from tests.waiting import wait_until

SCRIPT = Path(__file__).parents[2] / "deploy/ray/serve.py"
SPEC = StreamSpec(seed=5, batch_size=8)
NUM_EPOCHS = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head, where the driver connects, and one more node: two raylets, as on two machines."""
    from ray.cluster_utils import Cluster

    nodes: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 100 << 20}
    # A dead node is noticed after a second and a half, not fifteen.
    noticing = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    head = nodes | {"include_dashboard": False, "_system_config": noticing}
    cluster = start_ray(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        start_ray(lambda: cluster.add_node(**nodes))
        yield cluster
    finally:
        cluster.shutdown()


@contextmanager
def replicas_on(address: str, store: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, str(SCRIPT), "--store", str(store), "--ray-address", address, "--host", "127.0.0.1"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def digest(targets: list[str], at_step: Any = lambda step: None) -> str:
    result = StreamDigest()
    with LoaderClient(targets) as client, client.stream(SPEC, epoch=0, num_epochs=NUM_EPOCHS) as stream:
        for step, batch in enumerate(stream):
            result.add(batch)
            at_step(step)
    return result.hexdigest()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray's own pipes and sockets
def test_no_store_is_said_in_one_line(cluster: Any, tmp_path: Path) -> None:
    with replicas_on(cluster.address, tmp_path / "none", "--replicas", "1", "--cpus", "1") as process:
        _, errors = process.communicate(timeout=500)
    assert process.returncode == 1
    assert "manifest" in errors
    assert errors.startswith("serve: error: ")
    assert len(errors.splitlines()) == 1


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_node_dies_under_a_client(cluster: Any, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    with serving(store) as target:
        expected = digest([target])
    options = ("--replicas", "2", "--cpus", "1", "--port", str(free_port()))
    with replicas_on(cluster.address, store, *options) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        places = dict(_place(process.stdout) for _ in range(2))
        last = process.stdout.readline()
        assert last.startswith("targets: "), last
        targets = last.split()[1].split(",")
        assert len(targets) == 2
        assert len(set(places.values())) == 2, "replicas were not spread"
        victim = next(iter(cluster.worker_nodes))

        def kill(step: int) -> None:
            if step == 5:
                cluster.remove_node(victim, allow_graceful=False)

        assert digest(targets, kill) == expected
        # Ray starts the lost replica on the node that is left, which here has the same address.
        address, node = _place(process.stdout)
        assert address in targets
        assert node in set(places.values()) - {places[address]}
        assert digest([address]) == expected
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0, process.stderr.read()
    wait_until(lambda: not any(map(_answers, targets)), "replicas to end with their actors")


def _place(lines: IO[str] | None) -> tuple[str, str]:
    """Address and node from the next line ``replica 0: ADDRESS on node ID``; Ray writes lines between ours."""
    assert lines is not None
    line = next(line for line in lines if line.startswith("replica "))
    return line.split()[2], line.split()[-1]


def _answers(target: str) -> bool:
    host, _, port = target.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0

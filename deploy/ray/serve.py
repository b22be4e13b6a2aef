"""Loader replicas on a Ray cluster: actors spread over its nodes, restarted by Ray when a process or a node dies.

For those who just preprocessed there: each node that may get a replica needs the store at the same path on a disk of
its own. Prints the targets for the trainer, and says when a replica moves. Ctrl-C or SIGTERM drains and ends all.

    python deploy/ray/serve.py --store /data/store --replicas 4 -- --tls-cert server.crt --tls-key server.key

Replica i listens on its node's address at --port + i, so one that comes back on its node has its old address. What
follows -- goes to `alexnet-loader serve`.
"""

import argparse
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from commandline.program import EXIT_FAILED, EXIT_INTERRUPTED
from commandline.stopping import StopRequests

_PORT_TIMEOUT_S = 20.0
_LOOK_INTERVAL_S = 2.0
_ANSWER_TIMEOUT_S = 5.0
# Longer than `serve --drain-s`.
_STOP_TIMEOUT_S = 20.0


class Replica:
    """One `alexnet-loader serve` process, which lives as long as this actor; the actor ends when the process does."""

    def __init__(self, host: str | None, port: int, arguments: Sequence[str]) -> None:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise RuntimeError("expected the command setpriv (util-linux): a replica must end with its actor")
        host = host or str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        # The kernel kills the process when this one is gone, even by SIGKILL: Ray may then start it anew.
        command = [setpriv, "--pdeathsig", "KILL", sys.executable, "-m", "loader_service", "serve"]
        command += ["--listen", f"[{host}]:{port}" if ":" in host else f"{host}:{port}", *arguments]
        self._stopping = False
        _wait_for_port(host, port)
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("serving "):
            errors = self._process.communicate()[1].strip().splitlines()
            raise RuntimeError(errors[-1] if errors else f"`serve` ended with {self._process.returncode}")
        self._address = line.split()[-1]
        threading.Thread(target=self._pass_on_log, daemon=True).start()
        threading.Thread(target=self._end_with_process, daemon=True).start()

    def place(self) -> tuple[str, str]:
        """The address it serves on, and the id of its node."""
        return self._address, str(ray.get_runtime_context().get_node_id())

    def stop(self) -> None:
        """Drains and ends the process."""
        self._stopping = True
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _pass_on_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            sys.stderr.write(line)

    def _end_with_process(self) -> None:
        self._process.wait()
        if not self._stopping:
            os._exit(1)  # Ray starts the actor again


def _wait_for_port(host: str, port: int) -> None:
    """Returns when nobody listens there: the process before this one may still be ending. Gives up after a while."""
    deadline = time.monotonic() + _PORT_TIMEOUT_S
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            if probe.connect_ex((host, port)) != 0:
                return
        time.sleep(0.2)


def serve(num_replicas: int, num_cpus: int, host: str | None, port: int, arguments: Sequence[str]) -> None:
    """Runs replicas on the connected cluster until Ctrl-C or SIGTERM, then drains them (a second Ctrl-C does not wait).

    Prints where they are, and where they move.
    """
    # Unlimited restarts; SPREAD puts them on different nodes while there are any.
    actor: Any = ray.remote(Replica)
    actor = actor.options(num_cpus=num_cpus, max_restarts=-1, scheduling_strategy="SPREAD")
    with StopRequests() as stop:
        replicas = [actor.remote(host, port + number, arguments) for number in range(num_replicas)]
        try:
            _report(replicas, stop)
        finally:
            ray.wait([replica.stop.remote() for replica in replicas], num_returns=num_replicas, timeout=_STOP_TIMEOUT_S)


def _report(replicas: Sequence[Any], stop: StopRequests) -> None:
    """Prints where replicas are and where they move, until ``stop`` is requested."""
    places: dict[int, tuple[str, str]] = {}
    announced = ""
    while not stop.requested:
        for number, replica in enumerate(replicas):
            place = _place(replica)
            if place is not None and places.get(number) != place:
                places[number] = place
                print(f"replica {number}: {place[0]} on node {place[1][:8]}", flush=True)
        targets = ",".join(sorted({address for address, _ in places.values()}))
        if len(places) == len(replicas) and targets != announced:
            announced = targets
            print(f"targets: {targets}", flush=True)
        stop.wait(_LOOK_INTERVAL_S)


def _place(replica: Any) -> tuple[str, str] | None:
    """Where the replica is; None while Ray is starting it. Raises when it cannot be started."""
    try:
        place: tuple[str, str] = ray.get(replica.place.remote(), timeout=_ANSWER_TIMEOUT_S)
    except (ray.exceptions.GetTimeoutError, ray.exceptions.ActorUnavailableError):
        return None
    return place


def main() -> int:
    """Reads the command line, connects to the cluster and serves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--store", type=Path, required=True, metavar="PATH", help="the store, at this path on each node"
    )
    parser.add_argument("--replicas", type=int, default=2, metavar="N", help="how many (default: 2)")
    parser.add_argument("--cpus", type=int, default=2, metavar="N", help="cores of each, and its threads (default: 2)")
    parser.add_argument("--port", type=int, default=7000, metavar="N", help="port of the first (default: 7000)")
    parser.add_argument(
        "--host", metavar="ADDRESS", help="listen here, not at the node's own address: to try it on one machine"
    )
    parser.add_argument("--ray-address", default="auto", metavar="ADDRESS", help="the cluster (default: auto)")
    parser.add_argument("serve_options", nargs="*", metavar="SERVE-OPTION", help="after --: for alexnet-loader serve")
    options = parser.parse_args()
    arguments = ["--store", str(options.store), "--threads", str(options.cpus), *options.serve_options]
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing about these machines is sent anywhere
    try:
        ray.init(address=options.ray_address, log_to_driver=False, logging_level=logging.ERROR)
        serve(options.replicas, options.cpus, options.host, options.port, arguments)
    except (ConnectionError, ray.exceptions.RayActorError) as error:
        print(f"serve: error: {_reason(error)}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("serve: error: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _reason(error: Exception) -> str:
    """The last line of what Ray says, which names the cause; before it come the actor's traceback and ids."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "Error: " in line), lines[-1] if lines else type(error).__name__)


if __name__ == "__main__":
    sys.exit(main())

"""The service as its operator runs it: processes, metrics, logs, shared work."""

import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest

from loader_service.__main__ import main
from loader_service.client import ClientOptions, LoaderClient, Security, StreamSpec, Transport
from loader_service.client.replica import Replica
from loader_service.client.shared_memory import SharedMemorySession
from loader_service.commands.digest import StreamDigest
from loader_service.pipeline.metrics import Metrics
from loader_service.pipeline.pipeline import Pipeline
from loader_service.pipeline.sharing import StreamPopulation
from loader_service.server.server import LoaderServer
from loader_service.wire.codec import unpack_part
from loader_service.wire.translate import range_to_request
from preprocess.store import Store
from tests.conftest import LIMITS
from tests.processes import LoaderProcess, free_port
from tests.stores import make_store
from tests.waiting import wait_until


def read_metrics(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
        lines = response.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def test_metrics_count_what_was_sent(tiny_store: Path) -> None:
    port = free_port()
    replica = LoaderProcess(tiny_store, "--no-shared-memory", "--metrics-listen", f"127.0.0.1:{port}")
    try:
        # One request, which its client ends as soon as it has the last message: a stream may ask for a step again.
        with LoaderClient([replica.target]) as client:
            description = client.describe()
        request = range_to_request(StreamSpec(batch_size=10).steps(0, 10, epoch=0), description)
        with Replica(target=replica.target, security=Security()).connect() as connection:
            call = connection.stream_batches(request)
            num_received = sum(len(unpack_part(message.read())[0].labels) for message in islice(call, 10))
            call.cancel()
        assert num_received == 100
        wait_until(lambda: read_metrics(port)["alexnet_loader_active_streams"] == 0, "the request to have ended")
        metrics = read_metrics(port)
        assert metrics['alexnet_loader_images_total{split="train",view="train"}'] == 100
        assert metrics["alexnet_loader_sent_bytes_total"] > 100 * 56 * 56 * 3
        assert metrics["alexnet_loader_make_seconds_count"] == metrics["alexnet_loader_wait_seconds_count"]
        assert metrics["process_resident_memory_bytes"] > 1e6
    finally:
        replica.end()


@contextmanager
def serve(store: Path, *options: str, port: int = 0) -> Iterator[subprocess.Popen[str]]:
    """``serve`` in a session of its own, as a terminal starts it: what it says is the test's to read. Killed at the
    end."""
    command = [sys.executable, "-m", "loader_service", "serve", "--store", str(store), "--listen", f"127.0.0.1:{port}"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        try:
            yield server
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)


def ready_targets(server: subprocess.Popen[str], count: int) -> list[str]:
    """Where it serves, once ``count`` of its processes do."""
    assert server.stdout is not None
    return [server.stdout.readline().split()[-1] for _ in range(count)]


def loaders_of(supervisor: subprocess.Popen[str]) -> list[int]:
    """The process ids of the loaders that it has started."""
    command = ["pgrep", "-P", str(supervisor.pid), "-f", "spawn_main"]
    return [int(pid) for pid in subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()]


def test_several_processes_and_one_crash(tiny_store: Path) -> None:
    """Two processes on two ports; one is killed, is started again alone, and SIGTERM stops both."""
    port = free_port()
    with serve(tiny_store, "--log-format", "json", "--processes", "2", port=port) as supervisor:
        ready = sorted(ready_targets(supervisor, 2))
        assert ready == [f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"]
        os.kill(loaders_of(supervisor)[-1], signal.SIGKILL)
        (again,) = ready_targets(supervisor, 1)
        assert again in ready
        with LoaderClient(ready, ClientOptions(unavailable_timeout_s=10)) as client:
            with client.stream(StreamSpec(batch_size=10)) as stream:
                assert len(list(stream)) == 10
        supervisor.send_signal(signal.SIGTERM)
        _, stderr = supervisor.communicate(timeout=300)
    assert supervisor.returncode == 0
    records = [json.loads(line) for line in stderr.splitlines()]
    crashes = [record for record in records if "exit_code" in record]
    assert [crash["exit_code"] for crash in crashes] == [-9]
    assert {"time", "level", "logger", "message"} <= set(crashes[0])


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (["--token-file", "/nowhere"], "/nowhere: the tokens cannot be read"),
        (["--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "/nowhere, /nowhere: expected a certificate and its key"),
        (["--metrics-listen", "taken"], "--metrics-listen 127.0.0.1:"),  # the second process's port may be taken too
        (["--listen", "taken"], "127.0.0.1:{port}: cannot listen there: "),
    ],
)
def test_processes_that_cannot_start_are_not_started_for_ever(tiny_store: Path, option: list[str], reason: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        option = [word.replace("taken", f"127.0.0.1:{port}") for word in option]
        command = [sys.executable, "-m", "loader_service", "serve", "--store", str(tiny_store)]
        result = subprocess.run(
            [*command, "--processes", "2", "--listen", "127.0.0.1:0", "--log-level", "error", *option],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert result.returncode == 1
    assert reason.format(port=port) in result.stderr
    assert "Traceback" not in result.stderr


def test_output_that_nobody_reads_stops_nothing(tiny_store: Path) -> None:
    port = free_port()
    with serve(tiny_store, port=port) as server:
        assert server.stdout is not None
        server.stdout.close()
        with LoaderClient([f"127.0.0.1:{port}"]) as client:
            assert client.describe().splits["train"] == 100
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=300)
    assert server.returncode == 0
    assert "Traceback" not in errors


@contextmanager
def unread_stream(target: str, transport: Transport) -> Iterator[None]:
    """A request for two thousand images, of which one message is read."""
    with LoaderClient([target]) as client:
        description = client.describe()
    request = range_to_request(StreamSpec(batch_size=100).steps(0, 20, epoch=0), description)
    with Replica(target=target, security=Security()).connect() as connection, ExitStack() as stack:
        token = None
        if transport == "shm":
            token = stack.enter_context(SharedMemorySession(description.shared_memory_socket)).token
        call = connection.stream_batches(request, token)
        next(call)
        yield
        call.cancel()


@pytest.mark.parametrize("transport", ["grpc", "shm"])
def test_a_client_that_does_not_read_does_not_hold_up_the_end(tmp_path: Path, transport: Transport) -> None:
    replica = LoaderProcess(make_store(tmp_path / "store", num_train=2000), "--drain-s", "1")
    try:
        with unread_stream(replica.target, transport):
            replica.send(signal.SIGTERM)
            assert replica.wait(12) == 0  # TCP would give the client up after 20 seconds
    finally:
        replica.end()


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("transport", ["grpc", "shm"])
def test_a_second_ctrl_c_does_not_wait_for_streams(tmp_path: Path, processes: str, transport: Transport) -> None:
    """A terminal sends Ctrl-C to the whole group."""
    path = make_store(tmp_path / "store", num_train=2000)
    with serve(path, "--drain-s", "60", "--processes", processes) as server:
        assert server.stderr is not None
        targets = ready_targets(server, int(processes))
        with unread_stream(targets[0], transport):
            os.killpg(server.pid, signal.SIGINT)
            next(line for line in server.stderr if "stopping" in line)
            time.sleep(1)
            assert server.poll() is None
            os.killpg(server.pid, signal.SIGINT)
            _, errors = server.communicate(timeout=300)
    assert server.returncode == 130
    assert "interrupted" in errors.splitlines()[-1]
    assert "Traceback" not in errors


@pytest.mark.parametrize("ready", [False, True])
def test_processes_leave_ctrl_c_to_the_one_that_started_them(tiny_store: Path, ready: bool) -> None:
    """Whether they still import or serve: a terminal sends it to all of them, and SIGTERM comes from that one."""
    with serve(tiny_store, "--processes", "2") as supervisor:
        wait_until(lambda: len(loaders_of(supervisor)) == 2, "two processes")
        if ready:
            targets = ready_targets(supervisor, 2)
        loaders = loaders_of(supervisor)
        for _ in range(2):
            for pid in loaders:
                os.kill(pid, signal.SIGINT)
            time.sleep(0.2)
        if not ready:
            targets = ready_targets(supervisor, 2)
        with LoaderClient(targets) as client, client.stream(StreamSpec(batch_size=10)) as stream:
            assert len(list(stream)) == 10
        assert loaders_of(supervisor) == loaders
        supervisor.send_signal(signal.SIGINT)
        _, errors = supervisor.communicate(timeout=300)
    assert supervisor.returncode == 0
    assert "Traceback" not in errors


@contextmanager
def balancer(targets: list[str]) -> Iterator[str]:
    """The address of a TCP balancer, which gives each new connection to the next of ``targets`` (may be changed)."""
    turns = count()

    class Forward(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            host, _, port = targets[next(turns) % len(targets)].rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                back = threading.Thread(target=pass_on, args=(server, self.request))
                back.start()
                pass_on(self.request, server)
                back.join()

    def pass_on(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(1 << 16):
                sink.sendall(content)
        for end in (source, sink):
            with suppress(OSError):  # ended already
                end.shutdown(socket.SHUT_RDWR)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Forward) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_new_replica_behind_a_balancer_gets_work(tiny_store: Path) -> None:
    """Connections end when they are old, after the request under way, and the client notices nothing of it."""
    ports = [free_port(), free_port()]
    replicas: list[LoaderProcess] = []

    def start(port: int) -> str:
        options = ("--max-connection-age-s", "0.5", "--metrics-listen", f"127.0.0.1:{port}")
        replicas.append(LoaderProcess(tiny_store, *options))
        return replicas[-1].target

    def num_images(port: int) -> float:
        return read_metrics(port).get('alexnet_loader_images_total{split="train",view="train"}', 0.0)

    spec, digests = StreamSpec(batch_size=10, seed=3), [StreamDigest(), StreamDigest()]
    try:
        targets = [start(ports[0])]
        options = ClientOptions(unavailable_timeout_s=20, transport="grpc")
        with balancer(targets) as target, LoaderClient([target], options) as client:
            with client.stream(spec, num_epochs=None) as stream:
                for _ in range(10):
                    digests[0].add(next(stream))
                targets[:] = [start(ports[1])]
                deadline = time.monotonic() + 300
                while not num_images(ports[1]):
                    assert time.monotonic() < deadline, "the new replica got no work"
                    digests[0].add(next(stream))
                    time.sleep(0.02)
                assert not stream._delivery.failures
        with LoaderClient([replicas[0].target]) as client, client.stream(spec, num_epochs=None) as stream:
            while digests[1].num_images < digests[0].num_images:
                digests[1].add(next(stream))
        assert digests[0].hexdigest() == digests[1].hexdigest()
    finally:
        for replica in replicas:
            replica.end()


@pytest.mark.parametrize("transport", ["grpc", "shm"])
def test_several_clients_of_one_stream_share_the_work(tmp_path: Path, transport: Transport) -> None:
    path = make_store(tmp_path / "store", num_train=400)
    metrics = Metrics()
    with (
        Store(path) as store,
        Pipeline(store, num_threads=2, message_bytes=100_000, share_bytes=50_000_000, metrics=metrics) as pipeline,
        LoaderServer(pipeline, "127.0.0.1:0", LIMITS, metrics=metrics) as server,
    ):
        target = f"127.0.0.1:{server.port}"
        num_steps = 0
        with ExitStack() as stack:
            clients = [
                stack.enter_context(LoaderClient([target], ClientOptions(transport=transport))) for _ in range(4)
            ]
            streams = [
                stack.enter_context(client.stream(StreamSpec(batch_size=20), num_epochs=2)) for client in clients
            ]
            for first, *others in zip(*streams, strict=True):  # so that none is further ahead than its window
                assert all(np.array_equal(first.images, other.images) for other in others)
                num_steps += 1
        sent, made = (metrics.registry.get_sample_value(f"alexnet_loader_{n}_seconds_count") for n in ("wait", "make"))
    assert num_steps == 40
    assert sent is not None
    assert made is not None
    assert made < sent / 2, f"{made} messages were made for {sent} sent"


def test_who_shares_a_stream() -> None:
    population = StreamPopulation()
    assert not population.note("stream", "a", 40, reach=10)
    assert not population.note("stream", "a", 42, reach=10)
    assert population.is_solitary
    assert not population.note("stream", "again from the start", 0, reach=10)
    assert not population.note("another stream", "b", 42, reach=10)
    assert population.note("stream", "b", 50, reach=10)
    assert not population.is_solitary


def test_a_taken_port(tiny_store: Path, loader_target: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--store", str(tiny_store), "--listen", loader_target]) == 1
    stderr = capfd.readouterr().err
    assert f"{loader_target}: cannot listen there" in stderr
    assert len(stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["digest", "bench", "preview", "healthcheck"])
def test_unreachable_target(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = f"127.0.0.1:{free_port()}"
    assert main([command, "--target", target, "--service-timeout-s", "0.5"]) == 1
    stderr = capsys.readouterr().err
    assert target in stderr
    assert len(stderr.strip().splitlines()) == 1


def test_digest_preview_and_bench(loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digests = set()
    for batch_size in ("7", "100"):
        assert main(["digest", "--target", loader_target, "--batch-size", batch_size, "--json"]) == 0
        digests.add(json.loads(capsys.readouterr().out)["sha256"])
    assert len(digests) == 1
    out = tmp_path / "crops.png"
    assert main(["preview", "--target", loader_target, "--out", str(out), "--count", "3"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    bench = ["bench", "--target", loader_target, "--batch-size", "10", "--duration-s", "0.3", "--warmup-s", "0.1"]
    assert main([*bench, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images_per_s"] > 0


SERVE = ["serve", "--store", "/nowhere"]
DIGEST = ["digest", "--target", "127.0.0.1:1"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (SERVE, 1, "/nowhere: expected a store with manifest.json, found no such folder"),
        ([*SERVE, "--listen", "127.0.0.1:²"], 2, "--listen: expected HOST:PORT, found '127.0.0.1:²'"),
        ([*SERVE, "--listen", "localhost.example.org:7000"], 2, "expected a loopback address, or --tls-cert"),
        ([*SERVE, "--metrics-listen", "127.0.0.1:99999"], 2, "--metrics-listen: expected a port from 0 to 65535"),
        ([*SERVE, "--listen", "127.0.0.1:65535", "--processes", "2"], 2, "ports for 2 processes, found 65536"),
        (
            [*SERVE, "--listen", "127.0.0.1:7000", "--metrics-listen", "127.0.0.1:7001", "--processes", "2"],
            2,
            "--metrics-listen 127.0.0.1:7001: port 7001 is one of --listen too",
        ),
        (
            [*SERVE, "--max-batch-size", "5000000000"],
            2,
            "--max-batch-size: expected 1 to 2,147,483,647, found 5000000000",
        ),
        ([*SERVE, "--message-bytes", "5GB"], 2, "--message-bytes: expected 1 to 1,073,741,824, found 5000000000"),
        (
            [*SERVE, "--max-connection-age-s", "1e300"],
            2,
            "--max-connection-age-s: expected 0 to 1,000,000, found 1e+300",
        ),
        ([*SERVE, "--drain-s", "nan"], 2, "--drain-s: expected 0 to 1,000,000, found nan"),
        ([*DIGEST, "--seed", "-1"], 2, "--seed: expected 0 to 18,446,744,073,709,551,615, found -1"),
        (
            [*DIGEST, "--epoch", "4294967296"],
            2,
            "--epoch: expected 0 to 4,294,967,295, found 4294967296",
        ),
        ([*DIGEST, "--crop-size", "-1"], 2, "--crop-size: expected 1 to 4,294,967,295, found -1"),
        ([*DIGEST, "--token-file", "/nowhere"], 1, "/nowhere: the token cannot be read: "),
        ([*DIGEST, "--tls-ca", __file__], 1, f"{__file__}: expected the certificate of an authority, found: "),
        ([*DIGEST, "--tls-server-name", "x"], 2, "--tls-server-name needs --tls-ca"),
        (["digest"], 2, "--target must be given"),
        (
            ["digest", "--target", "127.0.0.1:82636"],
            2,
            "--target: expected a port from 1 to 65535, found '127.0.0.1:82636'",
        ),
        (["preview", *DIGEST[1:], "--count", "0"], 2, "--count: expected 1 to 200, found 0"),
        (
            ["preview", *DIGEST[1:], "--draws", "2", "--epoch", "4294967295"],
            2,
            "--epoch: expected at most 4,294,967,294",
        ),
        (["preview", *DIGEST[1:], "--out", "crops.xyz"], 2, "--out: expected a file name that ends in .png"),
        (["bench", *DIGEST[1:], "--duration-s", "0"], 2, "--duration-s: expected 0.001 to 1,000,000, found 0.0"),
        (["healthcheck", *DIGEST[1:], "--timeout-s", "nan"], 2, "--timeout-s: expected 0.001 to 1,000,000, found nan"),
        (
            ["healthcheck", "--target", "dns:no-such-name.invalid:7000"],
            1,
            "dns:no-such-name.invalid:7000: expected addresses of that name, found none",
        ),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    stderr = capsys.readouterr().err
    assert message in stderr
    assert len(stderr.strip().splitlines()) == 1


def test_options_from_toml(loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "loader.toml"
    config.write_text(f'[digest]\ntarget = ["{loader_target}"]\nseed = 5\njson = true\n')
    assert main(["digest", "--config", str(config)]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 5
    assert main(["digest", "--config", str(config), "--seed", "6"]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 6
    config.write_text("[digest]\nseeed = 5\n")
    assert main(["digest", "--config", str(config)]) == 2
    assert "unknown option 'seeed'" in capsys.readouterr().err


@pytest.mark.parametrize(("is_ignored", "code"), [(False, 0), (True, -signal.SIGKILL)])
def test_a_terminal_that_hangs_up(tiny_store: Path, is_ignored: bool, code: int) -> None:
    """SIGHUP drains as SIGTERM does; under ``nohup`` it is nothing."""
    command = [sys.executable, "-m", "loader_service", "serve", "--store", str(tiny_store), "--listen", "127.0.0.1:0"]
    prefix = ["nohup"] if is_ignored else []
    with subprocess.Popen([*prefix, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        (target,) = ready_targets(server, 1)
        server.send_signal(signal.SIGHUP)
        if is_ignored:
            with LoaderClient([target]) as client:
                assert client.num_steps(StreamSpec(batch_size=10)) == 10
            server.kill()
        assert server.wait(300) == code


def test_a_store_whose_name_is_not_ascii_in_the_oldest_locale(tiny_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "Läden \u4e2d"
    store.symlink_to(tiny_store)
    command = [sys.executable, "-m", "loader_service", "serve", "--store", str(store), "--listen", "127.0.0.1:0"]
    environment = {**os.environ, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        server.terminate()
        _, stderr = server.communicate(timeout=300)
        assert line.startswith(b"serving "), stderr.decode()
        assert b"Traceback" not in stderr
        assert server.returncode == 0


@pytest.mark.parametrize(
    ("redirection", "found"),
    [(">&-", "expected somewhere to write to, found standard output closed"), (">/dev/full", "No space left on dev")],
)
def test_a_result_that_cannot_be_written_is_an_error(loader_target: str, redirection: str, found: str) -> None:
    command = f"{sys.executable} -m loader_service digest --target {loader_target} {redirection}"
    result = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=300, check=False)
    assert result.returncode == 1
    assert found in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_waiting_for_a_service_says_so_and_ends_at_once(tmp_path: Path) -> None:
    """Within two seconds, on one line; Ctrl-C and SIGTERM end it, whatever was being waited for."""
    for stop, code in ((signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)):
        command = [sys.executable, "-m", "loader_service", "digest", "--target", f"127.0.0.1:{free_port()}"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as client:
            assert client.stderr is not None
            line = client.stderr.readline()
            assert line.startswith("waiting up to 60 s for 127.0.0.1:"), line
            assert "Connection refused" in line
            client.send_signal(stop)
            assert client.wait(300) == code


def test_one_dead_address_of_two_is_worth_a_warning_once(loader_target: str, caplog: pytest.LogCaptureFixture) -> None:
    dead = f"127.0.0.1:{free_port()}"
    with LoaderClient([dead, loader_target]) as client:
        for epoch in range(3):
            with client.stream(StreamSpec(batch_size=10), epoch=epoch) as stream:
                assert len(list(stream)) == 10
    warnings = [record.getMessage() for record in caplog.records if "doing without" in record.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"doing without a replica: {dead}: UNAVAILABLE: cannot connect")

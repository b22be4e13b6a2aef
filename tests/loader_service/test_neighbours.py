"""What others do beside a service: install stores over its own, take its descriptors, and say nothing."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from loader_service.client import ClientOptions, LoaderClient, Security, StreamSpec
from loader_service.commands.digest import StreamDigest
from loader_service.wire.errors import DataLossError, LoaderError, MismatchError
from loader_service.wire.status import STATUS_OF_ERROR, status_of
from preprocess.errors import StoreUnavailableError
from tests.loader_service.digests import epoch_digest
from tests.loader_service.test_operation import loaders_of, ready_targets, serve
from tests.processes import free_port
from tests.stores import make_store, without_digests
from tests.waiting import wait_until

SPEC = StreamSpec(batch_size=10, drop_last=False)


@pytest.fixture(scope="module")
def raw_stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two stores whose files have the same sizes."""
    folder = tmp_path_factory.mktemp("neighbours")
    one, other = (make_store(folder / f"{seed}", side=32, encoding="raw", seed=seed) for seed in (0, 1))
    return one, other


def digest(*targets: str, options: ClientOptions | None = None, split: str = "train") -> str:
    with LoaderClient(targets, options or ClientOptions(unavailable_timeout_s=60)) as client:
        return epoch_digest(client, replace(SPEC, split=split), 0)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_link_that_leads_elsewhere_while_it_serves(
    raw_stores: tuple[Path, Path], tmp_path: Path, processes: int
) -> None:
    """The stream stays the same, also of a split that nobody has read before; and a process that is started again
    serves what the others serve."""
    one, other = raw_stores
    link = tmp_path / "store"
    link.symlink_to(one)
    with serve(one) as server:
        expected_val = digest(*ready_targets(server, 1), split="val")
    port = free_port()
    with serve(link, "--processes", str(processes), port=port) as server:
        targets = ready_targets(server, processes)
        expected = digest(targets[0])
        link.unlink()
        link.symlink_to(other)
        assert digest(targets[0]) == expected
        assert digest(targets[0], split="val") == expected_val
        if processes > 1:
            os.kill(loaders_of(server)[-1], signal.SIGKILL)
            (again,) = ready_targets(server, 1)
            assert digest(again) == expected


def test_a_store_that_is_copied_over_one_that_is_served(raw_stores: tuple[Path, Path], tmp_path: Path) -> None:
    """In place, so that what is open has the other's pixels: an error, and none of them under the first's name."""
    one, other = shutil.copytree(raw_stores[0], tmp_path / "one"), raw_stores[1]
    with serve(one) as server:
        (target,) = ready_targets(server, 1)
        digest(target)
        for shard in (other / "shards").glob("*.lmdb"):
            shutil.copyfile(shard, one / "shards" / shard.name)
        with pytest.raises(DataLossError, match=r"\.lmdb: key \d+: expected checksum"):
            digest(target)


def refusal(store: Path, *options: str) -> str:
    """The one line with which ``serve`` ends."""
    command = [
        sys.executable,
        "-m",
        "loader_service",
        "serve",
        "--store",
        str(store),
        "--listen",
        "127.0.0.1:0",
        *options,
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = [line for line in result.stderr.splitlines() if "error" in line]
    return line


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_foreign_shard_is_found_at_the_start(raw_stores: tuple[Path, Path], tmp_path: Path, processes: str) -> None:
    store = shutil.copytree(raw_stores[0], tmp_path / "store")
    shutil.copy(raw_stores[1] / "shards/val-00000.lmdb", store / "shards/val-00000.lmdb")
    line = refusal(store, "--processes", processes)
    assert "val-00000.lmdb: expected the shard of content SHA-256" in line


def test_verify_reads_all_of_a_store_that_says_less(raw_stores: tuple[Path, Path], tmp_path: Path) -> None:
    """A store of an earlier release is served as it is; with ``--verify``, only if every image is the store's."""
    one, other = (without_digests(shutil.copytree(store, tmp_path / store.name)) for store in raw_stores)
    for processes in ("1", "2"):
        with serve(one, "--verify", "--processes", processes) as server:
            targets = ready_targets(server, int(processes))
            with serve(raw_stores[0]) as new:
                assert digest(*targets) == digest(*ready_targets(new, 1))
    shutil.copy(other / "shards/train-00001.lmdb", one / "shards/train-00001.lmdb")
    with serve(one) as server:
        ready_targets(server, 1)  # nothing that is looked at says so
    for processes in ("1", "2"):
        line = refusal(one, "--verify", "--processes", processes)
        assert "train-00001.lmdb: expected content SHA-256" in line


@contextmanager
def silent(target: str, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that say nothing."""
    host, _, port = target.rpartition(":")
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(count)]


FEW_FILES = 640


@pytest.mark.parametrize("secured", ["clear text", "TLS"])
def test_as_many_silent_connections_as_there_are_descriptors(
    raw_stores: tuple[Path, Path], tmp_path: Path, secured: str
) -> None:
    """Before any token. A stream that is under way is not disturbed, new clients get theirs, and nothing is damaged."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    (tmp_path / "token").write_text("right\n")
    options, security = ["--token-file", str(tmp_path / "token")], Security(token_file=tmp_path / "token")
    if secured == "TLS":
        import trustme

        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / "server.crt"))
        issued.private_key_pem.write_to_path(str(tmp_path / "server.key"))
        options += ["--tls-cert", str(tmp_path / "server.crt"), "--tls-key", str(tmp_path / "server.key")]
        security = Security(token_file=tmp_path / "token", tls_ca=tmp_path / "ca.pem")
    few_files = ["sh", "-c", f'ulimit -n {FEW_FILES} && exec "$@"', "sh"]
    command = [
        sys.executable,
        "-m",
        "loader_service",
        "serve",
        "--store",
        str(raw_stores[0]),
        "--listen",
        "127.0.0.1:0",
    ]
    with subprocess.Popen([*few_files, *command, *options], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            target = server.stdout.readline().split()[-1]
            patient = ClientOptions(unavailable_timeout_s=60, transport="grpc", security=security)
            expected = digest(target, options=patient)
            found = StreamDigest()
            with LoaderClient([target], patient) as client, client.stream(SPEC) as stream:
                found.add(next(stream))
                with silent(target, FEW_FILES + 60):
                    num_open = len(os.listdir(f"/proc/{server.pid}/fd"))
                    assert digest(target, options=patient) == expected  # once the silent ones are over their time
                    for batch in stream:
                        found.add(batch)
            assert found.hexdigest() == expected
            assert num_open < FEW_FILES - 100, "some are left to shared memory and all else"
            wait_until(lambda: digest(target, options=patient) == expected, "others to be served")
        finally:
            server.kill()


def test_a_limit_of_descriptors_that_serves_nobody_is_said(raw_stores: tuple[Path, Path]) -> None:
    command = ["sh", "-c", f'ulimit -n {FEW_FILES} && exec "$@"', "sh", sys.executable, "-m", "loader_service", "serve"]
    options = ["--store", str(raw_stores[0]), "--listen", "127.0.0.1:0", "--max-streams", "300"]
    result = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert f"open files, for 300 streams, found {FEW_FILES}; raise it" in result.stderr


WITHOUT_DESCRIPTORS = """
    import os, resource, sys
    from pathlib import Path
    from loader_service.client import ServiceUnavailableError, StreamSpec
    from loader_service.pipeline.pipeline import Pipeline
    from preprocess.store import Store

    def steps(split):
        return StreamSpec(split=split, batch_size=4).cropped(32).steps(0, 1, epoch=0)

    with Store(Path(sys.argv[1])) as store, Pipeline(store, num_threads=1, message_bytes=10**6) as pipeline:
        list(pipeline.messages(steps("val")))  # what is imported when it is first needed
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))), hard))
        try:
            list(pipeline.messages(steps("train")))
        except ServiceUnavailableError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        print(sum(message.num_images for message in pipeline.messages(steps("train"))))
"""


def test_descriptors_that_have_run_out_are_no_damage(raw_stores: tuple[Path, Path]) -> None:
    command = [sys.executable, "-c", textwrap.dedent(WITHOUT_DESCRIPTORS), str(raw_stores[0])]
    refused, served = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert refused.endswith(".lmdb: cannot be read now: Too many open files")
    assert served == "4"


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError(), PermissionError(1, "no")])
def test_the_systems_troubles_are_told_as_such(error: Exception) -> None:
    assert status_of(error) == grpc.StatusCode.UNAVAILABLE


def test_each_error_has_its_status() -> None:
    for kind, code in STATUS_OF_ERROR.items():
        assert status_of(kind("")) == code
    assert status_of(MismatchError("")) == grpc.StatusCode.FAILED_PRECONDITION
    assert status_of(LoaderError("")) == status_of(StoreUnavailableError("")) == grpc.StatusCode.UNKNOWN

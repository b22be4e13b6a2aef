"""What a machine says of itself, and how many processes that makes: descriptions of machines that are not here."""

from pathlib import Path

import pytest

from loader_service.client import ClientOptions
from loader_service.client.machine import Processors, available_bytes, processors
from loader_service.commands.config import ServeConfig
from loader_service.commands.sizing import num_threads, summary


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def topology(num_cores: int, threads_per_core: int) -> dict[str, str]:
    """Hardware threads numbered as Linux does it: first one of each core, then the others."""
    return {
        f"sys/devices/system/cpu/cpu{core + turn * num_cores}/topology/thread_siblings_list": ",".join(
            str(core + other * num_cores) for other in range(threads_per_core)
        )
        for core in range(num_cores)
        for turn in range(threads_per_core)
    }


def test_cores_and_their_threads(tmp_path: Path) -> None:
    write(tmp_path, topology(8, 2))
    assert processors(tmp_path, range(16)) == Processors(num_threads=16, num_cores=8)
    assert processors(tmp_path, range(8)) == Processors(num_threads=8, num_cores=8)
    assert processors(tmp_path, [0, 8, 1]) == Processors(num_threads=3, num_cores=2)
    assert processors(tmp_path / "nothing", range(3)) == Processors(num_threads=3, num_cores=3)


GROUPS = {
    "none": ({}, None),
    "no limit": ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/cpu.max": "max 100000"}, None),
    "version 2": ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/cpu.max": "250000 100000"}, 2.5),
    "an outer one": (
        {
            "proc/self/cgroup": "0::/a/b",
            "sys/fs/cgroup/a/cpu.max": "150000 100000",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000",
        },
        1.5,
    ),
    "in a container": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
    "version 1": (
        {
            "proc/self/cgroup": "5:memory:/a\n4:cpu,cpuacct:/a\n0::/",
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "400000",
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000",
        },
        4.0,
    ),
    "version 1, no limit": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        None,
    ),
    "version 1, the path is the host's": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/0123",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        3.0,
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_quota(tmp_path: Path, name: str) -> None:
    files, quota = GROUPS[name]
    assert processors(write(tmp_path, files), range(8)).quota == quota


def test_memory(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None
    write(tmp_path, {"proc/meminfo": "MemTotal:  32000000 kB\nMemAvailable:  16000000 kB"})
    assert available_bytes(tmp_path) == 16_384_000_000
    group = {
        "proc/self/cgroup": "0::/a",
        "sys/fs/cgroup/a/memory.max": "4000000000",
        "sys/fs/cgroup/a/memory.current": "3000000000",
        "sys/fs/cgroup/a/memory.stat": "anon 1000000000\ninactive_file 300000000\nactive_file 200000000",
    }
    assert available_bytes(write(tmp_path, group)) == 1_500_000_000
    older = {
        "proc/self/cgroup": "5:memory:/a",
        "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "2000000000",
        "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "500000000",
        "sys/fs/cgroup/memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 0\ntotal_active_file 0",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "9000000000",
    }
    assert available_bytes(write(tmp_path, older)) == 1_500_000_000


@pytest.mark.parametrize(
    ("found", "processes", "threads_of_one"),
    [
        (Processors(num_threads=1, num_cores=1), 1, 1),
        (Processors(num_threads=2, num_cores=2), 2, 2),
        (Processors(num_threads=16, num_cores=8), 12, 4),
        (Processors(num_threads=16, num_cores=16), 14, 4),
        (Processors(num_threads=128, num_cores=64), 96, 4),
        (Processors(num_threads=128, num_cores=64, quota=6.5), 6, 4),
        (Processors(num_threads=64, num_cores=64, quota=0.5), 1, 1),
    ],
)
def test_how_many(found: Processors, processes: int, threads_of_one: int) -> None:
    assert found.num_decode_threads == processes
    assert num_threads(found, processes) == 1
    assert num_threads(found, 1) == threads_of_one
    config = ServeConfig(store=Path("store"), processes="auto").decided(found)
    assert (config.processes, config.threads) == (processes, 1)
    config = ServeConfig(store=Path("store"), threads=3).decided(found)
    assert (config.processes, config.threads) == (1, 3)


def test_what_was_decided_is_said() -> None:
    found = Processors(num_threads=16, num_cores=8)
    assert summary(found, 1, 4) == (
        "1 process of 4 decode threads, on 8 cores, 16 hardware threads; --processes auto would start 12"
    )
    limited = Processors(num_threads=16, num_cores=8, quota=2.0)
    assert summary(limited, 2, 1) == (
        "2 processes of 1 decode thread, on 8 cores, 16 hardware threads, of which 2 may be used"
    )


def test_ports_for_as_many_processes_as_were_decided() -> None:
    config = ServeConfig(store=Path("store"), listen="127.0.0.1:65530", processes="auto")
    with pytest.raises(ValueError, match="expected ports for 12 processes, found 65536"):
        config.decided(Processors(num_threads=16, num_cores=8))


def test_memory_that_a_client_may_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of what is available, at most 4 GB, and two steps whatever their size."""

    def most_steps(options: ClientOptions, step_bytes: int) -> int:
        window = options.window(step_bytes)
        window.grow(10**9, num_replicas=10**6)
        return window.size

    monkeypatch.setattr("loader_service.client.options.available_bytes", lambda: 8_000_000_000)
    assert most_steps(ClientOptions(), 20_000_000) == 50
    assert most_steps(ClientOptions(), 2_000_000_000) == 2
    assert most_steps(ClientOptions(prefetch_bytes=300_000_000), 20_000_000) == 15
    assert most_steps(ClientOptions(prefetch_steps=70), 2_000_000_000) == 70
    monkeypatch.setattr("loader_service.client.options.available_bytes", lambda: 10**12)
    assert most_steps(ClientOptions(), 20_000_000) == 200
    monkeypatch.setattr("loader_service.client.options.available_bytes", lambda: None)
    assert most_steps(ClientOptions(), 20_000_000) == 25

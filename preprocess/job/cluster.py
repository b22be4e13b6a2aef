"""The Ray graph: one task a shard, as many in flight as keep the cluster busy. The only file that imports ray."""

import itertools
import logging
import os
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self, TypeVar

from commandline import one_line, write_line
from commandline.stopping import StopRequests
from preprocess.errors import PreprocessError
from preprocess.job.reachable import check_reachable

_Work = TypeVar("_Work")
_Result = TypeVar("_Result")

# In flight for each processor: one that runs and one that waits, so that no worker idles between tasks.
_TASKS_PER_CPU = 2
# A worker that is killed (out of memory, a lost node) is replaced this often for each task.
_MAX_RETRIES = 5
_WAIT_S = 0.25
_MAX_SLOW_STARTS = 2
# For cancelled tasks to end, so that what they had half-written can be removed.
_CANCEL_S = 10.0
# Results are a few hundred bytes and arguments tens of kilobytes: the smallest store that Ray takes will do.
_OBJECT_STORE_BYTES = 100 << 20

# Read by Ray when it is imported.
_RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing about this machine is sent anywhere
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # no advice about accelerators
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # the first error ends the run; those of tasks in flight would bury it
}
# Where a cluster is joined: a service that is none is given up in seconds rather than minutes.
_JOIN_ENVIRONMENT = {
    "RAY_NUM_REDIS_GET_RETRIES": "1",
    "RAY_py_gcs_connect_timeout_s": "5",
}


class Cluster:
    """A Ray to run tasks on: the one at ``address``, or a local one of ``workers`` processes. Use as a context manager.

    Nothing is started before the first task, since a local Ray takes seconds; what was started ends with the block.
    A Ray that this process has started already is used as it is. ``memory_bytes`` is reserved for each task.
    """

    def __init__(self, *, address: str | None, workers: int | None, memory_bytes: int) -> None:
        self._address = address
        self._workers = workers
        self._memory_bytes = memory_bytes
        self._connected = False
        self._started_here = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._started_here:
            import ray

            ray.shutdown()

    def connect(self) -> None:
        """Starts or joins the Ray. Raises PreprocessError when it is not reached or has no room for a task."""
        if self._connected:
            return
        for name, value in (_RAY_ENVIRONMENT | (_JOIN_ENVIRONMENT if self._address is not None else {})).items():
            os.environ.setdefault(name, value)
        import ray

        logging.getLogger("ray").setLevel(logging.ERROR)
        if not ray.is_initialized():
            self._init()
            self._started_here = True
        self._connected = True
        most = max((resources.get("memory", 0) for resources in _nodes()), default=0)
        if most < self._memory_bytes:
            raise PreprocessError(
                f"--task-memory-bytes: expected a node with {self._memory_bytes:,} bytes for a task, found at most "
                f"{int(most):,}"
            )

    def _init(self) -> None:
        import ray

        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if self._address is not None:
            check_reachable(self._address)
            try:
                ray.init(address=self._address, **options)
            except (ConnectionError, ValueError, RuntimeError) as error:
                hint = "" if "RAY_AUTH_MODE" in os.environ else "; if it asks for a token, set RAY_AUTH_MODE=token"
                raise PreprocessError(
                    f"--ray-address {self._address}: no Ray is reached{hint}: {one_line(error)}"
                ) from None
            return
        # Ray's own processes would inherit it, and do not start without their docstrings.
        os.environ.pop("PYTHONOPTIMIZE", None)
        try:
            # Said outright: without the address Ray would join whatever cluster it finds on this machine.
            start_ray(
                lambda: ray.init(
                    address="local",
                    num_cpus=self._workers,
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    **options,
                )
            )
        except Exception as error:  # of any kind: what its processes found is told by one of them, or by none
            home, temporary = os.path.expanduser("~"), os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
            raise PreprocessError(
                f"a local Ray does not start: {one_line(error)[:300]}; it needs a HOME that it can write (now {home}) "
                f"and a short TMPDIR, since its sockets' names have at most 107 bytes (now {temporary})"
            ) from None

    @property
    def num_cpus(self) -> int:
        """Processors of all nodes that are alive now."""
        self.connect()
        return max(1, int(sum(resources.get("CPU", 0) for resources in _nodes())))

    def map(self, function: Callable[[_Work], _Result], work: Iterable[_Work]) -> Iterator[_Result]:
        """Runs ``function`` on each item as a task and yields the results as they come, in any order.

        Takes from ``work`` only as the cluster has room. A task whose worker or node dies is started again, so
        ``function`` must be safe to repeat. Exceptions that it raises are raised here, and PreprocessError when
        a task's workers die again and again. Tasks in flight are cancelled when the caller stops early.
        """
        self.connect()
        import ray

        task = ray.remote(function).options(
            num_cpus=1, memory=self._memory_bytes, max_retries=_MAX_RETRIES, scheduling_strategy="SPREAD"
        )
        # Ctrl-C is remembered, and obeyed between Ray's calls: in the middle of one it was seen to abort the process.
        with StopRequests(signal.SIGINT) as stop:
            yield from self._results(task, iter(work), stop)

    def _results(self, task: Any, items: Iterator[Any], stop: StopRequests) -> Iterator[Any]:
        import ray

        pending: list[Any] = []
        try:
            while True:
                if stop.requested:
                    raise KeyboardInterrupt
                room = max(0, _TASKS_PER_CPU * self.num_cpus - len(pending))
                pending.extend(task.remote(item) for item in itertools.islice(items, room))
                if not pending:
                    return
                # The deadline lets Ctrl-C be obeyed, and notices nodes that have joined since.
                ready, pending = ray.wait(pending, num_returns=1, timeout=_WAIT_S)
                for reference in ready:
                    yield _get(reference)
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)
            if pending:
                ray.wait(pending, num_returns=len(pending), timeout=_CANCEL_S, fetch_local=False)


def start_ray(start: Callable[[], _Result]) -> _Result:
    """What ``start`` returns. Ray gives its own processes 30 seconds to start, whatever else the machine does: where
    that was too short it is called again, by when the system has their files in memory."""
    import ray

    for _ in range(_MAX_SLOW_STARTS):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            write_line("waiting: Ray has not started in the 30 s that it gives itself, and is started again")
    return start()


def _nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive."""
    import ray

    nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    return [node["Resources"] for node in nodes() if node["Alive"]]


def _get(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, (PreprocessError, OSError)):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())
        raise PreprocessError(f"a task's worker died {_MAX_RETRIES + 1} times: {reason[:300]}") from None

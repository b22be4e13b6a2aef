"""The Ray graph: one task a shard, as many in flight as keep the cluster busy. The only file that imports ray."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from preprocess.errors import PreprocessError

_Work = TypeVar("_Work")
_Result = TypeVar("_Result")

# In flight for each processor: one that runs and one that waits, so that no worker idles between tasks.
_TASKS_PER_CPU = 2
# A worker that is killed (out of memory, a lost node) is replaced this often for each task.
_MAX_RETRIES = 5
_WAIT_S = 1.0
# Results are a few hundred bytes and arguments tens of kilobytes: the smallest store that Ray takes will do.
_OBJECT_STORE_BYTES = 100 << 20


@contextmanager
def ray_cluster(*, address: str | None, workers: int | None) -> Iterator["Cluster"]:
    """A Ray to run tasks on: the one at ``address``, or a local one that ends with the block.

    A Ray that this process has already started is used as it is. Raises PreprocessError when ``address`` is not
    reached.
    """
    # Read by Ray when it is imported: no statistics leave the machine, and no advice is given about accelerators.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    started_here = not ray.is_initialized()
    if started_here:
        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        try:
            if address is not None:
                ray.init(address=address, **options)
            else:
                ray.init(
                    num_cpus=workers,
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    **options,
                )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise PreprocessError(f"--ray-address {address}: no Ray cluster is reached: {error}") from None
    try:
        yield Cluster()
    finally:
        if started_here:
            ray.shutdown()


class Cluster:
    """The Ray that this process is connected to."""

    @property
    def num_cpus(self) -> int:
        """Processors of all nodes that are alive now."""
        return max(1, int(sum(resources.get("CPU", 0) for resources in _nodes())))

    @property
    def num_nodes(self) -> int:
        return sum(1 for resources in _nodes() if resources.get("CPU"))

    def map(
        self, function: Callable[[_Work], _Result], work: Iterable[_Work], *, memory_bytes: int
    ) -> Iterator[_Result]:
        """Runs ``function`` on each item as a task and yields the results as they come, in any order.

        Takes from ``work`` only as the cluster has room. A task whose worker or node dies is started again, so
        ``function`` must be safe to repeat. Exceptions that it raises are raised here; so is PreprocessError when
        a task's workers die again and again, or when no node has ``memory_bytes``. Tasks in flight are cancelled
        when the caller stops early.
        """
        import ray

        self._check_memory(memory_bytes)
        task = ray.remote(function).options(
            num_cpus=1, memory=memory_bytes, max_retries=_MAX_RETRIES, scheduling_strategy="SPREAD"
        )
        items = iter(work)
        pending: list[Any] = []
        exhausted = False
        try:
            while True:
                while not exhausted and len(pending) < _TASKS_PER_CPU * self.num_cpus:
                    try:
                        pending.append(task.remote(next(items)))
                    except StopIteration:
                        exhausted = True
                if not pending:
                    return
                # The deadline lets Ctrl-C in, and notices nodes that have joined since.
                ready, pending = ray.wait(pending, num_returns=1, timeout=_WAIT_S)
                for reference in ready:
                    yield _get(reference)
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)

    def _check_memory(self, memory_bytes: int) -> None:
        most = max((resources.get("memory", 0) for resources in _nodes()), default=0)
        if most < memory_bytes:
            raise PreprocessError(
                f"--task-memory-bytes: expected a node with {memory_bytes:,} bytes for a task, found at most "
                f"{int(most):,}"
            )


def _nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


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

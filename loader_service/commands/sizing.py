"""How many processes and threads a machine is worth, from what it says of its processors."""

from loader_service.client.machine import Processors

_MOST_THREADS = 4
"""Of one process: more wait for each other's hold of the interpreter longer than they decode."""
_CORES_PER_CLIENT = 8
"""Of so many cores one is left to whoever reads the images, where no core has a second hardware thread for that."""


def num_processes(found: Processors) -> int:
    """Of one decode thread each: the cores, and half of the hardware threads beyond those, which clients need too."""
    if found.num_threads > found.num_cores:
        count = found.num_cores + (found.num_threads - found.num_cores) // 2
    else:
        count = found.num_cores - found.num_cores // _CORES_PER_CLIENT
    return max(min(count, _whole_quota(found)), 1)


def num_threads(found: Processors, processes: int) -> int:
    """Decode threads of each of so many processes."""
    return max(min(num_processes(found) // processes, _MOST_THREADS), 1)


def summary(found: Processors, processes: int, threads: int) -> str:
    """One line that says what was decided, and from what."""
    quota = "" if found.quota is None else f", of which {found.quota:g} may be used"
    machine = f"{_some(found.num_cores, 'core')}, {_some(found.num_threads, 'hardware thread')}{quota}"
    chosen = f"{_some(processes, 'process', 'es')} of {_some(threads, 'decode thread')}"
    best = num_processes(found)
    advice = f"; --processes auto would start {best}" if processes * threads < best else ""
    return f"{chosen}, on {machine}{advice}"


def _some(count: int, noun: str, plural: str = "s") -> str:
    return f"{count} {noun}{plural if count != 1 else ''}"


def _whole_quota(found: Processors) -> int:
    return found.num_threads if found.quota is None else int(found.quota)

"""``python -m trainer.experiments.child MODULE ARGUMENTS``: runs a module, and ends when whoever started it has.

Standard input is a pipe that nobody writes to: it closes when the other end's process does, however that ends.
"""

import os
import runpy
import signal
import sys
import threading


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

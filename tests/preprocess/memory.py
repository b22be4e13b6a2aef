"""The most memory that something takes, in a process of its own."""

import subprocess
import sys

_MEASURE = """
import sys
def status(name):
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
{before}
open("/proc/self/clear_refs", "w").write("5")  # the peak is counted from here
start = status("VmRSS")
{during}
print(status("VmHWM") - start)
"""


def peak_bytes(before: str, during: str, *arguments: str, stdin: bytes = b"") -> int:
    """By how much a process grows at most while it runs the statement ``during``, after ``before``."""
    code = _MEASURE.format(before=before, during=during)
    done = subprocess.run([sys.executable, "-c", code, *arguments], input=stdin, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return int(done.stdout)

"""AlexNet, trained from the loader service: two columns on two devices."""

import os

PARENT_PID = os.getppid()
"""What started this process, noted before anything slow is imported: a rank ends with it."""
__version__ = "0.1.0"

"""What started this process, noted as soon as the trainer's command begins: a rank ends with it."""

import os

PARENT_PID = os.getppid()

"""How long tests that try things at random look: CONTRIBUTING.md names the variables."""

import os
import random

NUM_EXAMPLES = int(os.environ.get("ALEXNET_FUZZ_EXAMPLES", "10"))
"""Inputs of a kind."""

NUM_KILLS = int(os.environ.get("ALEXNET_KILLS", "3"))
"""Moments at which a program is killed."""


def moments() -> random.Random:
    """Draws them; other ones with another ALEXNET_KILL_SEED."""
    return random.Random(int(os.environ.get("ALEXNET_KILL_SEED", "1")))

"""How long fuzzers of the wire look."""

import os

NUM_EXAMPLES = int(os.environ.get("ALEXNET_FUZZ_EXAMPLES", "10"))
"""Inputs of a kind."""

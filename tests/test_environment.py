"""What the environment may hold."""

import importlib.metadata
import platform

import pytest


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="pillow-simd is for x86-64 only")
def test_no_distribution_is_called_pillow() -> None:
    """pillow and pillow-simd share a folder: whichever is installed last wins, so only one may be there."""
    names = {(distribution.metadata["Name"] or "").lower() for distribution in importlib.metadata.distributions()}
    assert "pillow" not in names
    assert "pillow-simd" in names

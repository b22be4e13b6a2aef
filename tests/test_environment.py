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


def test_modules_run_as_groups(request: pytest.FixtureRequest) -> None:
    """Two releases that do not fit each other would scatter a module's tests, and make twice what they share."""
    if not request.config.getoption("loadgroup", False):
        pytest.skip("one process runs all tests, or any of several any test")
    assert request.node.nodeid.endswith("@test_environment")

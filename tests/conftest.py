"""Set what must be set before jax starts, and say which tests this machine cannot run."""

import os
from pathlib import Path

import pytest
from as_users import UNOPTIMISED

from mjx_serl.platform import prepare_platform

# Compiled programs are kept between runs, workers and interpreters: most of a test's time is XLA.
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "jax"
# Off-screen drawing of curve.png, whatever DISPLAY says.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {UNOPTIMISED}".strip()
# MJX is among what is tested, so its flag is set for the whole suite.
prepare_platform(mjx_on_cpu=True, cache_dir=CACHE)


def has_accelerator() -> bool:
    """Say whether jax sees anything but the CPU."""
    import jax

    return jax.default_backend() != "cpu"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip gpu tests, with the reason, where jax has only the CPU."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_items and not has_accelerator():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="jax sees no accelerator here"))

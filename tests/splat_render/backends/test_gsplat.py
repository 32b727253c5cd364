import importlib.util

import pytest
from peer_env import TORCH, check_in

from splat_render.backend import BackendError, choose_backend
from splat_render.backends import gsplat as gsplat_backend

INSTALLED = all(importlib.util.find_spec(name) for name in ("torch", "gsplat"))


@pytest.mark.slow  # and once the time to install torch
def test_gsplat_is_given_and_gives_what_the_reference_does():
    """How arrays and pictures change hands, and the reference against gsplat's own functions.

    One process: importing torch beside jax takes seconds.
    """
    check_in(TORCH, "gsplat_checks.py", "reference_checks.py", here=INSTALLED)


@pytest.mark.skipif(INSTALLED, reason="torch and gsplat are installed here")
def test_it_says_what_to_install():
    assert "pip install 'mjx-serl[gsplat]'" in str(gsplat_backend.unavailable())
    with pytest.raises(BackendError, match=r"'gsplat' cannot run here: \w+ is not installed"):
        choose_backend("gsplat")

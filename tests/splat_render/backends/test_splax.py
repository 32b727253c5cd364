import importlib.util
import subprocess
import sys

import jax
import pytest
from peer_env import PeerEnv, check_in

from splat_render.backends import splax as splax_backend

# warp-lang 1.18 is the first that can emulate blocks of threads on a CPU.
ENV = PeerEnv(
    "splax",
    bare=(
        *("splax==0.2.3", "plyfile==1.1.5", "warp-lang==1.19.0"),
        *("jax==0.10.2", "jaxlib==0.10.2"),
    ),
)
INSTALLED = importlib.util.find_spec("splax") is not None


@pytest.mark.slow  # a minute, most of it compiling
def test_the_real_kernels_draw_what_the_reference_draws():
    check_in(ENV, "splax_checks.py", here=splax_backend.unavailable() is None)


@pytest.mark.skipif(INSTALLED, reason="splax is installed here")
def test_it_says_that_it_is_opt_in():
    assert "pip install 'mjx-serl[splax]'" in str(splax_backend.unavailable())
    assert "GPLv3" in str(splax_backend.unavailable())


def test_an_old_jax_or_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(jax, "__version_info__", (0, 9, 2))
    assert "needs jax 0.10 or newer" in str(splax_backend.unavailable())
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 0))
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert "needs an NVIDIA GPU" in str(splax_backend.unavailable())
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert splax_backend.unavailable() is None


def test_neither_the_gpl_nor_torch_comes_with_our_modules():
    """Asking what is available imports neither, even where both are installed."""
    code = (
        "import sys; from splat_render import backend; "
        "from splat_render.backends import gsplat, splax; "
        "gsplat.unavailable; splax.unavailable(); "
        "print([m for m in ('splax', 'plyfile', 'torch', 'gsplat') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr

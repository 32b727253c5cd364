"""A run's policy behind a server: batches of any size answer as the policy itself does."""

from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_bundle import drawn_policy, summary_of, tiny_run

from mjx_serl.agents.chunks import FlowNetConfig
from mjx_serl.agents.flow_bc import FlowBCConfig
from mjx_serl.agents.ppo import PPOConfig
from mjx_serl.export.bundle import write_bundle
from mjx_serl.export.served import ServedPolicy
from mjx_serl.run.loop import Run
from mjx_serl.training.on_policy import OnPolicyConfig
from mjx_serl.training.state import PolicyParams
from robot_bridge.deploy.serve import steerable
from robot_bridge.openpi.client import RemotePolicy, RemotePolicyConfig
from robot_bridge.openpi.server import PolicyServer, PolicyServerConfig
from robot_bridge.policy.bundle import load_bundle

HORIZON, MOST = 2, 3
FLOW = FlowBCConfig(flow=FlowNetConfig(hidden=(16, 16), steps=2), horizon=HORIZON)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, PolicyParams]:
    """Of a flow, which starts from noise."""
    run = tiny_run(tmp_path_factory.mktemp("flow"), agent=FLOW)
    return run, drawn_policy(run)


@pytest.fixture(scope="module")
def policy(trained) -> ServedPolicy:
    run, params = trained
    return ServedPolicy(run.trainer, run.observer, params, most=MOST)


def observations(run: Run, count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    fields = run.observer.contract.obs.fields
    return [
        {f.name: rng.normal(size=f.shape).astype(f.dtype) * f.scale for f in fields}
        for _ in range(count)
    ]


def chosen(run: Run, params: PolicyParams, obs: dict[str, np.ndarray], noise=None) -> np.ndarray:
    """What the trainer's own policy does."""
    batch = {name: x[None] for name, x in obs.items()}
    if noise is not None:
        return np.asarray(run.trainer.explore(params, batch, noise[None]).action[0])
    key = jax.random.key(0)
    return np.asarray(run.trainer.choose(params, batch, key, deterministic=True).action[0])


def test_a_batch_of_any_size_is_answered_in_order(trained, policy: ServedPolicy):
    run, params = trained
    obs = observations(run, MOST)
    assert policy.sizes == (1, 2, 3) and policy.horizon == HORIZON
    for count in (1, 2, 3):
        answers = policy.act_batch(obs[:count])
        for one, actions in zip(obs, answers, strict=False):
            np.testing.assert_allclose(actions, chosen(run, params, one), atol=1e-6)
    with pytest.raises(ValueError, match="4 observations at once, allowed: up to 3"):
        policy.act_batch(observations(run, MOST + 1))


def test_noise_steers_those_that_chose_it(trained, policy: ServedPolicy):
    run, params = trained
    plain, steered, other = observations(run, 3)
    noise = np.random.default_rng(1).normal(size=policy.noise_shape).astype(np.float32)
    answers = policy.act_batch([plain, steered | {"noise": noise}, other])
    np.testing.assert_allclose(answers[0], chosen(run, params, plain), atol=1e-6)
    np.testing.assert_allclose(answers[1], chosen(run, params, steered, noise), atol=1e-6)
    np.testing.assert_allclose(answers[2], chosen(run, params, other), atol=1e-6)
    assert np.abs(answers[1] - chosen(run, params, steered)).max() > 1e-3
    # A flow's own deterministic choice is that from the middle of its noise.
    middle = policy.act(steered | {"noise": 0.0 * noise})
    np.testing.assert_allclose(middle, policy.act(steered), atol=1e-6)


def test_it_is_served(trained, policy: ServedPolicy):
    run, params = trained
    contract = run.observer.contract
    obs = observations(run, 1)[0]
    config = PolicyServerConfig(port=0, horizon=policy.horizon)
    with PolicyServer(policy, contract, config) as server:
        where = RemotePolicyConfig(uri=f"ws://127.0.0.1:{server.port}", timeout=2.0)
        with RemotePolicy(contract, where) as remote:
            remote.wait(5.0)
            assert remote.noise_shape == (HORIZON, contract.action.dim)
            actions = remote.act(obs, noise=np.ones(remote.noise_shape, np.float32))
    np.testing.assert_allclose(actions, chosen(run, params, obs, np.ones_like(actions)), atol=1e-6)


def test_its_bundle_can_be_steered_too(trained, policy: ServedPolicy, tmp_path: Path):
    """Without JAX: the bundle says what the policy does from other noise."""
    run, params = trained
    write_bundle(run, params, tmp_path / "b", summary=summary_of(run), explores=True)
    bundle = steerable(load_bundle(tmp_path / "b"))
    assert bundle.noise_shape == policy.noise_shape
    obs, noise = observations(run, 1)[0], np.ones(policy.noise_shape, np.float32)
    for asked in (obs, obs | {"noise": noise}):
        np.testing.assert_allclose(bundle.act(asked), policy.act(asked), atol=1e-5)


def test_an_agent_that_starts_from_no_noise_cannot_be_steered(tmp_path: Path):
    run = tiny_run(tmp_path, method=OnPolicyConfig(agent=PPOConfig(hidden=(16, 16))))
    served = ServedPolicy(run.trainer, run.observer, drawn_policy(run), most=1)
    assert served.noise_shape is None
    assert served.act(observations(run, 1)[0]).shape == (1, run.env.action_dim)

"""When the expert takes over from a policy, and what is learned from what it did."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import STEPS, ToyEnv, ToyState
from whole_runs import assert_same

from mjx_serl.agents.sac import SACConfig
from mjx_serl.envs.observation import Observer
from mjx_serl.training.off_policy import DEMOS, ONLINE, LoopConfig, OffPolicy, OffPolicyConfig
from mjx_serl.training.state import TrainState
from mjx_serl.training.takeover import Takeover, TakeoverConfig, TakeoverState
from mjx_serl.types import Choice, Transition, choice

EXPERT = [0.5, 1.0]  # what the toy expert does, whatever it sees
FAR = [0.5, -0.5]  # 1.5 from it
KEY = jax.random.key(0)


def worlds_at(*t: int) -> ToyState:
    worlds = jax.vmap(ToyEnv().reset)(jax.random.split(KEY, len(t)))
    return worlds.replace(t=jnp.array(t))


def asked(
    gate: Takeover, worlds: ToyState, own: Any, *, state: Any = None, steps: float = 0.0
) -> tuple[TakeoverState, Choice]:
    state = gate.init(len(own)) if state is None else state
    return gate.choose(state, worlds, choice(jnp.array(own)), KEY, jnp.float32(steps))


def takes(gate: Takeover, owns: list[Any], *, start: int = 0) -> list[bool]:
    """Whether it drives at each step of one world whose policy chooses `owns`."""
    state, taken = gate.init(1), []
    for t, own in enumerate(owns, start):
        state, chosen = asked(gate, worlds_at(t), [own], state=state)
        taken.append(bool(chosen.expert[0]))
    return taken


def test_the_expert_takes_over_where_it_differs_or_time_has_passed() -> None:
    worlds = worlds_at(0, 0, STEPS // 2 - 1, STEPS // 2)
    own = jnp.array([[0.5, 0.5], FAR, [0.0, 1.0], [0.5, 1.0]])
    gate = Takeover(TakeoverConfig(far=1.0, patience=0.5), ToyEnv())
    _, chosen = asked(gate, worlds, own)
    np.testing.assert_array_equal(chosen.expert, [False, True, False, True])
    np.testing.assert_allclose(chosen.action[:, 0], [own[0], EXPERT, own[2], EXPERT])
    never = Takeover(TakeoverConfig(far=2.0, patience=1.0), ToyEnv())
    assert not asked(never, worlds, -own)[1].expert.any()


def test_it_reacts_late_and_lets_go_late() -> None:
    """0.2 s at 10 Hz are two steps of need before the one it drives in; it drives three."""
    gate = Takeover(TakeoverConfig(patience=1.0, reaction=0.2, hold=0.3), ToyEnv())
    straying = [FAR] * 3 + [EXPERT] * 4
    assert takes(gate, straying, start=1) == [False, False, True, True, True, False, False]
    # A need that goes away sooner is none.
    assert not any(takes(gate, [FAR, FAR, EXPERT, FAR, FAR], start=1))


def test_a_new_episode_begins_with_the_policy() -> None:
    gate = Takeover(TakeoverConfig(patience=1.0, hold=0.5), ToyEnv())
    state, chosen = asked(gate, worlds_at(3), [FAR])
    assert chosen.expert.all()
    assert not asked(gate, worlds_at(0), [EXPERT], state=state)[1].expert.any()


def test_it_watches_a_share_of_the_episodes_that_halves() -> None:
    gate = Takeover(TakeoverConfig(attend=0.8, half_life=1000.0), ToyEnv())
    worlds, own = worlds_at(*[0] * 400), jnp.array([FAR] * 400)
    for steps, want in ((0, 0.8), (1000, 0.4), (3000, 0.1)):
        share = float(asked(gate, worlds, own, steps=steps)[1].expert.mean())
        assert share == pytest.approx(want, abs=0.07)
    # Which ones is drawn when they begin.
    state, chosen = asked(gate, worlds, own)
    later = asked(gate, worlds_at(*[1] * 400), own, state=state, steps=1e6)[1]
    np.testing.assert_array_equal(later.expert, chosen.expert)


def test_its_hand_is_unsteady_but_not_on_the_gripper() -> None:
    gate = Takeover(TakeoverConfig(noise=0.01), ToyEnv())  # of 0.1 m: 0.1
    driven = np.asarray(asked(gate, worlds_at(*[0] * 400), [FAR] * 400)[1].action[:, 0])
    assert driven[:, 0].std() == pytest.approx(0.1, rel=0.15)
    np.testing.assert_array_equal(driven[:, 1], 1.0)


def test_only_what_the_expert_did_is_learned_from() -> None:
    flags = np.array([True, False])
    steps = Transition({}, flags, flags, ~flags, ~flags, valid=np.ones(2, bool), expert=flags)
    shown = Takeover(TakeoverConfig(), ToyEnv()).shown(steps)
    np.testing.assert_array_equal(shown.valid, [True, False])
    every = Takeover(TakeoverConfig(keep="all"), ToyEnv()).shown(steps)
    assert every.valid.all()


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("attend", 1.5, r"takeover\.attend 1\.5, allowed"),
        ("hold", -1.0, r"takeover\.hold -1\.0, allowed"),
        ("far", float("nan"), r"takeover\.far nan, allowed"),
    ],
)
def test_numbers_out_of_range_are_refused(field: str, value: float, line: str) -> None:
    takeover = dataclasses.replace(TakeoverConfig(), **{field: value})
    with pytest.raises(ValueError, match=line):
        OffPolicyConfig(takeover=takeover).check(num_envs=1)


def test_chunks_cannot_be_taken_over() -> None:
    method = OffPolicyConfig(agent=SACConfig(horizon=5), takeover=TakeoverConfig())
    with pytest.raises(ValueError, match=r"--takeover\.attend above 0 plays single actions"):
        method.check(num_envs=1)


# -- off-policy learning with one ----------------------------------------------------------------


@pytest.fixture(scope="module")
def helped(make_toy: Callable) -> OffPolicy:
    """Six worlds with demonstrations and an expert that watches all of them."""
    demos = make_toy().trainer.demos
    loop = LoopConfig(
        batch_size=32, updates_per_step=2, steps_per_epoch=5, warmup_steps=12, buffer_size=600
    )
    takeover = TakeoverConfig(keep="all", far=1.0, patience=1.0)
    method = OffPolicyConfig(agent=SACConfig(hidden=(8,)), loop=loop, takeover=takeover)
    trainer = method.build(Observer(ToyEnv()), num_envs=6)
    ring = dataclasses.replace(trainer.sources[ONLINE], fraction=0.5)
    sources = {ONLINE: ring, DEMOS: make_toy().trainer.sources[DEMOS]}
    return dataclasses.replace(trainer, demos=demos, sources=sources)


@pytest.fixture(scope="module")
def begun(helped: OffPolicy) -> TrainState:
    return helped.init(jax.random.key(0))


def test_without_interventions_a_batch_is_what_it_was(helped: OffPolicy, begun: TrainState) -> None:
    alone = dataclasses.replace(helped, takeover=None, interventions=())
    assert not begun.data[ONLINE].data.expert.any(), "the warm-up is nobody's"
    assert_same(helped._sample(begun, KEY, 2), alone._sample(begun, KEY, 2))


def test_interventions_are_drawn_among_the_demonstrations(
    helped: OffPolicy, begun: TrainState
) -> None:
    state, metrics = jax.jit(helped.epoch)(begun)
    ring = state.data[ONLINE]
    intervened = int(helped.buffers[ONLINE].experts(ring)[-1])
    shown = int(helped.sources[DEMOS].buffer.size(state.data[DEMOS]))
    assert 0 < float(metrics["takeover/share"]) <= 1 and intervened > 0
    batch = helped._sample(state, KEY, 200)
    expert = np.asarray(batch.expert)
    assert expert[:, 16:].all(), "the demonstrations' half is people's"
    # Those of the ring are told apart by their age: nothing else is at the toy demonstrations'.
    alone = dataclasses.replace(helped, interventions=())._sample(state, KEY, 200)
    swapped = np.any(np.asarray(batch.obs["x"] != alone.obs["x"]), axis=-1)
    assert not swapped[:, :16].any()
    want = intervened / (intervened + shown)
    assert swapped[:, 16:].mean() == pytest.approx(want, abs=0.04)


def test_interventions_have_the_share_to_themselves_without_demonstrations(
    helped: OffPolicy, begun: TrainState
) -> None:
    state = jax.jit(helped.epoch)(begun)[0]
    sources = {ONLINE: dataclasses.replace(helped.sources[ONLINE], fraction=1.0)}
    batch = dataclasses.replace(helped, sources=sources, demos=None)._sample(state, KEY, 20)
    assert np.asarray(batch.expert)[:, 16:].all()
    assert not np.asarray(batch.expert)[:, :16].all()

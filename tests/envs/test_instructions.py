"""What worlds are told: drawn by their own keys, observed as numbers, unseen in evaluations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.envs.env import Env, EnvState
from mjx_serl.envs.instructions import Instructions, build_told
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.task import TASKS
from mjx_serl.envs.vector import vectorize
from mjx_serl.tasks.put_cube_on_plate import SAID
from mjx_serl.training import evaluate as evaluating
from mjx_serl.training.evaluate import with_unseen_words
from robot_bridge.policy.observation import Words
from scenes.contract.language import INSTRUCTION, TokenizerConfig, tokens_of
from scenes.contract.policy_contract import Contract
from scenes.contract.serialize import digest, from_json, to_json

SILENT, TASK = "franka/put_cube_on_plate", "franka/put_cube_on_plate_instructed"
WORLDS = 48


@pytest.fixture(scope="module")
def env(make_native) -> Env:
    return make_native(TASK)


@pytest.fixture(scope="module")
def told(env: Env) -> EnvState:
    """Starts of many worlds."""
    return jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(3), WORLDS))


def test_each_world_draws_a_phrasing_and_shows_its_numbers(env: Env, told: EnvState):
    which = np.asarray(told.told)
    assert set(which) == set(range(len(SAID.train))), "all of them, and none that is held out"
    tokenizer = TokenizerConfig().build()
    wanted = np.stack([tokens_of(tokenizer, SAID.train[i]) for i in which])
    np.testing.assert_array_equal(told.obs[INSTRUCTION], wanted)
    assert told.obs[INSTRUCTION].dtype == jnp.int32
    assert env.obs_spec.of_kind("tokens") == (env.obs_spec[INSTRUCTION],)


def test_a_world_alone_draws_what_it_draws_among_others(env: Env, told: EnvState):
    alone = env.reset(jax.random.split(jax.random.key(3), WORLDS)[5])
    assert int(alone.told) == int(told.told[5])


def test_words_change_nothing_else(make_native, env: Env, told: EnvState):
    """Neither where the episode starts nor what it does, bit for bit."""
    silent = make_native(SILENT)
    assert silent.told is None and INSTRUCTION not in silent.obs_spec.names
    assert env.obs_spec.fields[:-1] == silent.obs_spec.fields
    start = jax.jit(jax.vmap(silent.reset))(jax.random.split(jax.random.key(3), WORLDS))
    same = told.replace(told=(), obs={k: x for k, x in told.obs.items() if k != INSTRUCTION})
    jax.tree.map(np.testing.assert_array_equal, start, same)


def test_a_phrasing_lasts_an_episode(env: Env):
    worlds = vectorize(dataclasses.replace(env, task=short(env)), num_envs=4, pool_size=16)
    step = jax.jit(lambda state: worlds.step(state, jnp.zeros((4, env.action_dim))))
    state = jax.jit(worlds.reset)(jax.random.key(0))
    seen = []
    for _ in range(6):  # three episodes of two steps
        state, rows = step(state)
        seen.append(np.asarray(rows.obs[INSTRUCTION]))
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        np.testing.assert_array_equal(first, second)
    assert any((a != b).any() for a, b in zip(seen[1:-1:2], seen[2::2], strict=True))


def short(env: Env):
    return dataclasses.replace(env.task, config=dataclasses.replace(TASKS[TASK], episode_steps=2))


def test_an_episode_that_goes_on_from_the_last_is_told_anew(env: Env, told: EnvState):
    one = jax.tree.map(lambda x: x[0], told)
    keys = jax.random.split(jax.random.key(1), 16)
    on = jax.jit(jax.vmap(env.carry_on, (None, 0)))(one, keys)
    assert len(set(np.asarray(on.told).tolist())) > 1
    tokens = np.asarray(env.told.tokens)[np.asarray(on.told)]
    np.testing.assert_array_equal(on.obs[INSTRUCTION], tokens)


def test_evaluations_are_told_what_nobody_was_trained_with(env: Env):
    observer = with_unseen_words(Observer(env))
    worlds = jax.vmap(observer.env.reset)(jax.random.split(jax.random.key(0), 32))
    texts = {observer.env.told.texts[i] for i in np.asarray(worlds.told)}
    assert texts == set(SAID.held_out)


@pytest.mark.parametrize("seen_words", [False, True])
def test_an_evaluation_plays_worlds_that_are_told_so(env: Env, monkeypatch, seen_words: bool):
    played: list[Observer] = []
    monkeypatch.setattr(
        evaluating, "play_episodes", lambda observer, *_, **__: (played.append(observer), None)
    )
    key = jax.random.key(0)
    evaluating.evaluate(Observer(env), None, key, episodes=2, seen_words=seen_words)
    phrasings = len(SAID.train), len(env.told.texts)
    assert played[0].env.told.span == ((0, phrasings[0]) if seen_words else phrasings)


def test_without_words_to_hold_out_or_any_evaluations_are_as_training(env: Env, make_native):
    observer = Observer(make_native(SILENT))
    assert with_unseen_words(observer) is observer
    known = build_told(Instructions(train=("a", "b")), TokenizerConfig())
    assert known.held_out.span == known.span == (0, 2)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"train": ()}, "no phrasing"),
        ({"train": ("pick", "pick ")}, "'pick' stands twice"),
        ({"train": ("pick",), "held_out": ("pick",)}, "'pick' stands twice"),
    ],
)
def test_phrasings_are_checked(fields: dict, said: str):
    with pytest.raises(ValueError, match=said):
        Instructions(**fields)


def test_a_phrasing_that_does_not_fit_is_told_when_the_world_is_built():
    with pytest.raises(ValueError, match="takes 41 numbers, allowed: 40"):
        build_told(SAID, TokenizerConfig(slots=40))


def test_the_bridge_makes_the_same_numbers(env: Env):
    """Of any phrasing, from the contract as it stands in a bundle."""
    contract = from_json(Contract, to_json(Observer(env).contract))
    assert digest(contract) == digest(Observer(env).contract)
    for text, tokens in zip(env.told.texts, env.told.tokens, strict=True):
        np.testing.assert_array_equal(Words(prompt=text).observed(contract)[INSTRUCTION], tokens)
    usual = Words().observed(contract)[INSTRUCTION]
    np.testing.assert_array_equal(usual, env.told.tokens[0])


def test_a_contract_with_words_nobody_can_make_is_refused(env: Env):
    contract = Observer(env).contract
    with pytest.raises(ValueError, match="words observed as instruction, allowed"):
        dataclasses.replace(contract, language=None)

"""Success of a policy on episodes it was not trained on."""

import dataclasses

import jax

from mjx_serl.envs.env import EnvState
from mjx_serl.envs.observation import Observer
from mjx_serl.training.episodes import EpisodeResult, episode_keys, play_episodes
from mjx_serl.training.policies import Policy
from mjx_serl.types import Actions, Obs, PRNGKey

# Streams of episode starts: training worlds, demonstrations, the evaluations during a run and
# the final one never share a key.
TRAIN, DEMOS, CHECK, FINAL, ON_DEMAND = range(5)


def stream_key(seed: int, stream: int) -> PRNGKey:
    """Return the key of one of the streams of a run."""
    return jax.random.fold_in(jax.random.key(seed), stream)


def evaluate(
    observer: Observer,
    policy: Policy,
    key: PRNGKey,
    *,
    episodes: int,
    horizon: int = 1,
    seen_words: bool = False,
) -> EpisodeResult:
    """Return how one episode goes in each of `episodes` fresh worlds.

    Where worlds are told what to do, it is in words that nobody was trained with, if the task has
    such, or in those of training (`seen_words`). `horizon` is that of the policy's actions
    (`play_episodes`).
    """
    observer = observer if seen_words else with_unseen_words(observer)

    def act(worlds: EnvState, pictures: Obs, key: PRNGKey) -> Actions:
        return policy(observer.observe(worlds, pictures), key)

    keys = episode_keys(key, episodes=episodes, steps=observer.env.task.episode_steps)
    return play_episodes(observer, act, keys, horizon=horizon, pause=True)[0]


def with_unseen_words(observer: Observer) -> Observer:
    """Return it with worlds that are told what to do in words held out of training."""
    if observer.env.told is None:
        return observer
    return dataclasses.replace(observer, env=observer.env.held_out)

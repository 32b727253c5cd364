"""An actor as SERL's examples are: an environment of Gymnasium and agentlace's TrainerClient.

    python -m benchmarks.agentlace_actor --bundle RUN/actor --port 5488 --log FILE --path FOLDER

The client is not ours: `agentlace` is imported from the folders given, as it is published.
Observations are one flat "state", as SERL's wrappers make it; parameters come by its broadcast.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from numpy.typing import NDArray

from benchmarks.options import read_options
from mjx_serl.adapters.gymnasium import env_id
from mjx_serl.learning.agentlace_feed import ENV, PEOPLE
from robot_bridge.learning.learned_policy import LearnedPolicy
from robot_bridge.learning.link import LearningConfig
from robot_bridge.network.parameters import Parameters
from robot_bridge.policy.bundle import load_bundle

_HELD = 2000  # rows that SERL's actors keep
_SEND_EVERY = 30  # steps
_HELPED, _HELPED_UNTIL, _HELPED_STEPS = 4, 100, 8  # a person begins every 4th of 100 episodes
_STEP_M = 0.025  # that an action of 1 moves [m]


@dataclass(frozen=True, kw_only=True)
class ActorConfig:
    """An actor.

    Attributes:
        bundle: that it starts with.
        port: of the learner.
        log: grows by a line for each step that is put into agentlace's store.
        path: folders in which agentlace and what it imports are looked for last.
        rate: steps a second.
        patience: seconds without an answer after which it ends.
    """

    bundle: Path
    port: int
    log: Path
    path: tuple[str, ...] = ()
    rate: float = 40.0
    patience: float = 60.0


class SerlActor:
    """Plays episodes; rows go to the learner, parameters come back."""

    def __init__(self, cfg: ActorConfig) -> None:
        import gymnasium
        from agentlace.data.data_store import QueuedDataStore  # pyright: ignore[reportMissingImports]
        from agentlace.trainer import (  # pyright: ignore[reportMissingImports]
            TrainerClient,
            TrainerConfig,
        )

        bundle = load_bundle(cfg.bundle)
        self._cfg, self.taken = cfg, 0
        self._policy: LearnedPolicy = LearningConfig().policy(bundle)
        self._env = gymnasium.make(env_id(bundle.manifest.task))
        self._stores = {name: QueuedDataStore(_HELD) for name in (ENV, PEOPLE)}
        config = TrainerConfig(
            port_number=cfg.port, broadcast_port=cfg.port + 1, request_types=["send-stats"]
        )
        self._client = TrainerClient(
            ENV, "127.0.0.1", config, data_stores=self._stores, wait_for_server=True
        )
        self._client.recv_network_callback(self._take)
        self._due = self._answered = time.monotonic()
        self._steps = 0

    def play(self) -> None:
        """Play until the learner has been gone for long."""
        seed = time.monotonic_ns() % 2**31  # another after each start
        with self._cfg.log.open("a") as log:
            episode = 0
            while time.monotonic() - self._answered < self._cfg.patience:
                solved = self._episode(seed + episode, episode, log)
                episode += 1
                print(f"episode {episode} solved {solved:d} parameters {self.taken}", flush=True)
        self._client.stop()

    def _episode(self, seed: int, episode: int, log: Any) -> bool:
        obs, _ = self._env.reset(seed=seed)
        helped = episode < _HELPED_UNTIL and episode % _HELPED == 0
        at, ended, reward = 0, False, 0.0
        while not ended:
            driven = helped and at < _HELPED_STEPS
            action = _toward(obs) if driven else self._policy.act(dict(obs))[0]
            after, reward, terminated, truncated, _ = self._env.step(action)
            ended = terminated or truncated
            row = {
                "observations": {"state": _flat(obs)[None]},
                "actions": action,
                "next_observations": {"state": _flat(after)[None]},
                "rewards": float(reward),
                "masks": 1.0 - float(terminated),
                "dones": ended,
            }
            for name in (ENV, PEOPLE) if driven else (ENV,):
                self._stores[name].insert(row)
            log.write(json.dumps([os.getpid(), driven, _flat(obs).tolist()]) + "\n")
            log.flush()
            obs, at = after, at + 1
            self._keep_pace()
        return float(reward) > 0

    def _keep_pace(self) -> None:
        self._steps += 1
        if self._steps % _SEND_EVERY == 0 and self._client.update():
            self._answered = time.monotonic()
        self._due = max(self._due + 1.0 / self._cfg.rate, time.monotonic() - 1.0)
        time.sleep(max(0.0, self._due - time.monotonic()))

    def _take(self, tree: Mapping[str, Any]) -> None:
        arrays: Any = flatten_dict(dict(tree), sep="/")
        why = self._policy.take(Parameters(self.taken, arrays))
        self.taken += why is None


def _toward(obs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """What a person would do first: go to the cube, gripper open."""
    step = np.clip(np.asarray(obs["cube_from_ee"]) / _STEP_M, -1.0, 1.0)
    return np.append(step, -1.0).astype(np.float32)


def _flat(obs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    return np.concatenate([np.ravel(x) for x in obs.values()]).astype(np.float32)


if __name__ == "__main__":
    options = read_options(ActorConfig, __doc__)
    sys.path += options.path  # behind what is installed: only what is missing comes from there
    SerlActor(options).play()

"""A task's own expert as the policy of a simulated arm behind the whole bridge."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from mjx_serl import tasks as tasks  # fills TASKS
from mjx_serl.envs.env import make_env
from mjx_serl.envs.observation import Observer
from mjx_serl.run.simulated_arm import SimulatedArm
from robot_bridge.deploy.deployment import DeployConfig, Deployment, Talk
from robot_bridge.deploy.rigs import sim_rig
from robot_bridge.messages import Tick


class Expert:
    """The task's own expert as a policy: it knows the world, and the goal from the newest tick."""

    def __init__(self, observer: Observer, world: SimulatedArm) -> None:
        self.world, self.newest = world, None
        self._choose = jax.jit(observer.env.task.demonstrate)

    def note(self, tick: Tick) -> None:
        self.newest = tick

    def reset(self) -> None:
        self.newest = None

    def act(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        command = self.world._command
        if self.newest is not None:
            goal = self.newest.goal
            command = command.replace(
                target=np.asarray(goal.position, np.float32),
                target_quat=np.asarray(goal.quat, np.float32),
                gripper=np.asarray(goal.closure, np.float32),
            )
        action = self._choose(self.world._sim, command, self.world._task_state)
        return np.asarray(action)[None]


def expert_arm(task: str, **options: Any) -> tuple[Deployment, SimulatedArm]:
    """A deployment of so many episodes that has not begun, and its world."""
    observer = Observer(make_env(task, physics="native"))
    world = SimulatedArm(observer, seed=0, episodes=options["episodes"])
    expert = Expert(observer, world)
    bundle: Any = SimpleNamespace(
        contract=observer.contract,
        digest="0" * 64,
        policy=expert,
        manifest=SimpleNamespace(task=task, measured=None, horizon=1),
    )
    rig = dataclasses.replace(sim_rig(world, observer.contract), sinks=(expert.note,))
    talk = Talk(lambda line: None, lambda line: "")
    return Deployment(DeployConfig(**options), bundle, rig, talk), world

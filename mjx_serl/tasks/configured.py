"""What tasks take from their config, and what most of them observe and remember alike."""

from typing import Any, Generic, TypeVar

from mjx_serl.envs.control.controller import Command, Control, ControlConfig
from mjx_serl.envs.physics.protocol import SimState
from mjx_serl.envs.readings import read
from mjx_serl.envs.task import TaskState
from mjx_serl.types import Obs
from scenes.build import Scene
from scenes.contract.policy_contract import observe
from scenes.contract.specs import ObsSpec

C = TypeVar("C", bound=Control)


class ConfiguredTask(Generic[C]):
    """A task whose time limit and control stand in its config.

    Attributes:
        config: with `episode_steps` and `control`.
        scene: compiled.
        obs_spec: what is observed.
    """

    config: Any
    scene: Scene
    obs_spec: ObsSpec

    @property
    def episode_steps(self) -> int:
        """Time limit in control steps."""
        return self.config.episode_steps

    @property
    def control(self) -> C:
        """How actions act."""
        return self.config.control

    def advance(self, sim: SimState, command: Command, task_state: TaskState) -> TaskState:
        """Nothing to carry on."""
        del sim, command
        return task_state


class EndEffectorTask(ConfiguredTask[ControlConfig]):
    """A task of one arm that observes readings by their names."""

    def observe(self, sim: SimState, command: Command, task_state: TaskState) -> Obs:
        """What `obs_spec` names, as it is measured."""
        del task_state
        readings = read(self.scene, sim, command, start=self.control.orientation)
        return observe(self.obs_spec.names, readings)

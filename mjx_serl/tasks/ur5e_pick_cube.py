"""Pick a cube off the table with a UR5e and its Robotiq 2F-85: gym-hil's sparse task, another arm.

What is not said here is `pick_cube`'s. Ours, because no ancestor has this task: the start above the
middle of the table. Targets are followed at the pace that the bridge's governor keeps.
"""

import dataclasses

from mjx_serl.envs.control.controller import ControlConfig
from mjx_serl.envs.task import TASKS
from mjx_serl.tasks.pick_cube import PickCube, PickCubeConfig, obs_of
from scenes import layouts as worlds
from scenes.build import Scene
from scenes.contract.policy_contract import Pace
from scenes.robots.ur5e import ur5e_2f85
from scenes.specs import SceneSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ur5ePickCubeConfig(PickCubeConfig):
    """The pick task's, in the UR5e's scene."""

    def scene(self) -> SceneSpec:
        """UR5e, table, cube, front and wrist camera."""
        spec = worlds.pick_cube(ur5e_2f85())
        return dataclasses.replace(spec, name="ur5e_pick_cube", home=self.home)

    def build(self, scene: Scene) -> PickCube:
        """The task for a compiled scene."""
        spec = obs_of(scene.spec.robot.num_joints)
        return PickCube(config=self, scene=scene, obs_spec=spec, near_x=0.0)


PICK = Ur5ePickCubeConfig(
    reward="sparse",
    home=ur5e_2f85().home,
    spawn_low=(0.3, -0.15),
    spawn_high=(0.5, 0.15),
    leave_margin=0.05,
    control=ControlConfig(rate=10.0, inner_rate=40.0, scale=0.025, pace=Pace()),
)

TASKS.register("ur5e/pick_cube")(PICK)

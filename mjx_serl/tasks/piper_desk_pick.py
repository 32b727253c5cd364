"""Pick a cube off the desk with an AgileX Piper: gym-hil's sparse pick task on another arm.

What is not said here is `pick_cube`'s. Ours, because no ancestor has this task: the box of cubes,
the start, and a hand that leans forward (`scenes.robots.piper.LEAN`). Targets are followed at the
pace that the bridge's governor keeps on a Piper (reference robot_bridge.md section 3, rows 4, 5).
"""

import dataclasses

from mjx_serl.envs.control.controller import ControlConfig
from mjx_serl.envs.task import TASKS
from mjx_serl.tasks.pick_cube import PickCube, PickCubeConfig, obs_of
from scenes import layouts as worlds
from scenes.build import Scene
from scenes.contract.policy_contract import Pace
from scenes.contract.specs import CameraSpec
from scenes.robots.piper import LEANING, piper
from scenes.specs import SceneSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class PiperDeskPickConfig(PickCubeConfig):
    """The pick task's, in the Piper's scene."""

    def scene(self) -> SceneSpec:
        """Piper, desk, cube; the front camera nearer than a Franka's, and one on the hand."""
        return dataclasses.replace(
            worlds.pick_cube(piper()),
            name="piper_desk_pick",
            cameras=(_front_camera(), worlds.wrist_camera()),
            home=self.home,
        )

    def build(self, scene: Scene) -> PickCube:
        """The task for a compiled scene."""
        spec = obs_of(scene.spec.robot.num_joints)
        return PickCube(config=self, scene=scene, obs_spec=spec, near_x=0.0)


def _front_camera() -> CameraSpec:
    """In front of the desk, as gym-hil's for the Panda, at two thirds of its distance (by eye)."""
    front = worlds.front_camera()
    return dataclasses.replace(front, pos=(0.95, 0.0, 0.45))


DESK = PiperDeskPickConfig(
    reward="sparse",
    home=piper().home,
    spawn_low=(0.24, -0.12),
    spawn_high=(0.40, 0.12),
    leave_margin=0.05,
    control=ControlConfig(
        rate=10.0,
        inner_rate=40.0,
        scale=0.02,
        orientation=LEANING,
        pace=Pace(speed=0.2, acceleration=0.8, leash=0.03),
    ),
)

TASKS.register("piper/desk_pick")(DESK)

"""The sparse task on an arm of two joints, which MJX compiles in half the time of a real arm's.

What a run promises (exact resume, one trace, no transfer) does not depend on how many joints there
are; that the engines agree on the real arms is shown in tests/envs/physics/test_parity.py.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from mjx_serl.envs.task import TASKS
from mjx_serl.tasks.pick_cube import SPARSE, PickCubeConfig
from scenes import layouts
from scenes.contract.robot import GeomSpec, LinkSpec, RobotSpec
from scenes.contract.rotations import UNIT_QUAT, Quat, Vec3
from scenes.robots.panda import panda
from scenes.shapes import Sphere
from scenes.specs import ObjectSpec, SceneSpec

NAME = "test/two_joints"
JOINTS = ("shoulder", "elbow")


def _link(name: str, pos: Vec3, quat: Quat = UNIT_QUAT) -> LinkSpec:
    inertia = (0.01, 0.01, 0.01, 0.0, 0.0, 0.0)
    return LinkSpec(name=name, pos=pos, quat=quat, mass=1.0, com=(0.0, 0.0, 0.0), inertia=inertia)


def two_joint_arm() -> RobotSpec:
    """A shoulder about the vertical, an elbow about the horizontal, the Panda's fingers."""

    def both(x: float) -> tuple[float, float]:
        return x, x

    half = math.sqrt(0.5)
    return RobotSpec(
        name="two_joints",
        joint_names=JOINTS,
        q_min=both(-2.0),
        q_max=both(2.0),
        dq_max=both(2.0),
        ddq_max=both(10.0),
        jerk_max=both(1000.0),
        tau_max=both(50.0),
        home=both(0.0),
        kp=both(100.0),
        kd=both(10.0),
        armature=both(0.1),
        damping=both(1.0),
        links=(
            _link("base", (0.0, 0.0, 0.0)),
            _link("upper", (0.0, 0.0, 0.3)),
            _link("fore", (0.3, 0.0, 0.0), (half, half, 0.0, 0.0)),
        ),
        gripper=panda().gripper,
        # Round pads: two boxes that touch are the dearest pair to compile.
        geoms=(GeomSpec(body="finger", kind="sphere", size=(0.01,), role="pad"),),
        flange_pos=(0.0, 0.0, 0.0),
        ee_pos=(0.0, 0.0, 0.1),
        ee_quat=UNIT_QUAT,
        workspace_low=(-1.0, -1.0, 0.0),
        workspace_high=(1.0, 1.0, 1.0),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoJoints(PickCubeConfig):
    """The sparse task's numbers with another arm."""

    def scene(self) -> SceneSpec:
        """The arm, the table and a ball as the cube, no cameras; few iterations of the solver."""
        ball = ObjectSpec(name="cube", mass=0.1, shape=Sphere(0.02), pos=(0.5, 0.0, 0.02))
        return dataclasses.replace(
            layouts.pick_cube(two_joint_arm()),
            # All round: MJX compiles what touches a box dearest.
            objects=(ball,),
            cameras=(),
            home=self.home,
            solver_iterations=2,
            line_search_iterations=4,
        )


@contextlib.contextmanager
def registered(**changes: Any) -> Iterator[str]:
    """File the task, with `changes`, under a name while the context lasts; yields the name."""
    fields = {field.name: getattr(SPARSE, field.name) for field in dataclasses.fields(SPARSE)}
    TASKS.register(NAME)(TwoJoints(**fields | {"home": (0.0, 0.0)} | changes))
    try:
        yield NAME
    finally:
        TASKS._entries.pop(NAME)

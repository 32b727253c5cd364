"""What the bridge knows of the Piper by name: its limits and how it is connected.

The limits are the Piper column of robot_bridge.md section 3 ("the table").
"""

from robot_bridge.driver import ArmDriver
from robot_bridge.drivers.registry import Connection, register_driver
from robot_bridge.safety.limits import Limits, register_limits
from scenes.contract.robot import RobotSpec
from scenes.contract.rotations import Vec3

_LOW: Vec3 = (-0.65, -0.65, 0.02)
_HIGH: Vec3 = (0.65, 0.65, 0.75)


@register_limits("piper")
def piper_limits(robot: RobotSpec) -> Limits:
    """The table's limits, inside its own box for the tool centre."""
    return Limits(
        q_min=robot.q_min,
        q_max=robot.q_max,
        joint_speed=tuple(min(1.0, v) for v in robot.dq_max),
        joint_acceleration=tuple(min(3.0, a) for a in robot.ddq_max),
        joint_jerk=tuple(min(20.0, j) for j in robot.jerk_max),
        tcp_speed=0.20,
        tcp_acceleration=0.8,
        tcp_jerk=16.0,
        leash_position=0.030,
        workspace_low=_highest(robot.workspace_low, _LOW),
        workspace_high=_lowest(robot.workspace_high, _HIGH),
        gripper_force=min(40.0, robot.parallel_gripper.force_max),
        state_max_age=0.050,
        path_length=12.0,
    )


def _highest(a: Vec3, b: Vec3) -> Vec3:
    return max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2])


def _lowest(a: Vec3, b: Vec3) -> Vec3:
    return min(a[0], b[0]), min(a[1], b[1]), min(a[2], b[2])


@register_driver("piper", summary="AgileX Piper over CAN")
def connect_piper(connection: Connection) -> ArmDriver:
    """Return the driver of the Piper on a CAN channel, can0 unless told otherwise."""
    from robot_bridge.drivers.piper.driver import PiperDriver

    return PiperDriver(connection.address or "can0", clock=connection.clock)

"""What the bridge knows of Universal Robots arms by name: limits and how they are connected.

Reference robot_bridge.md section 3 ("the table") has no column for them: where a number is not
that table's for all arms, it is the Franka's or half of what the arm can do.
"""

from robot_bridge.driver import ArmDriver
from robot_bridge.drivers.registry import Connection, register_driver
from robot_bridge.safety.limits import Limits, register_limits
from scenes.contract.robot import RobotSpec


@register_limits("ur5e_2f85")
def ur5e_limits(robot: RobotSpec) -> Limits:
    """Half of the arm's speed, a Franka's acceleration and tool, readings every 8 ms."""
    return Limits(
        q_min=robot.q_min,
        q_max=robot.q_max,
        joint_speed=tuple(0.5 * v for v in robot.dq_max),
        joint_acceleration=tuple(min(5.0, a) for a in robot.ddq_max),
        joint_jerk=tuple(min(500.0, j) for j in robot.jerk_max),
        workspace_low=robot.workspace_low,
        workspace_high=robot.workspace_high,
        gripper_force=min(40.0, robot.parallel_gripper.force_max),
        state_max_age=0.050,
    )


@register_driver("ur5e", summary="UR5e with a Robotiq 2F-85, RTDE")
def connect_ur5e(connection: Connection) -> ArmDriver:
    """Return the driver of the UR5e whose controller is at an address."""
    from robot_bridge.drivers.ur.driver import UrDriver

    host = connection.require_address("the host of its controller")
    readings = connection.gripper_readings
    return UrDriver(host) if readings is None else UrDriver(host, gripper_readings=readings)

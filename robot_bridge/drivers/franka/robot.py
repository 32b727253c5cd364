"""What the bridge knows of Franka arms by name: their limits and how each library is connected.

The limits are the Franka column of robot_bridge.md section 3 ("the table").
"""

from robot_bridge.driver import ArmDriver
from robot_bridge.drivers.registry import Connection, register_driver
from robot_bridge.safety.limits import BrakingCurve, Limits, register_limits
from scenes.contract.errors import InputError
from scenes.contract.robot import RobotSpec
from scenes.robots.franka import franka_hand

# libfranka 6474466 rate_limiting.h, robot_bridge.md section 6.
FR3_BRAKING = BrakingCurve(
    offset=(0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35),
    deceleration=(6.0, 2.585, 3.5, 4.0, 17.0, 5.5, 17.0),
)
_HOST = "the host of its control box"


@register_limits("panda_2f85")
@register_limits("panda")
def panda_limits(robot: RobotSpec) -> Limits:
    """The table's limits, without a braking curve."""
    return _franka_limits(robot, None)


@register_limits("fr3_2f85")
@register_limits("fr3")
def fr3_limits(robot: RobotSpec) -> Limits:
    """The table's limits, and the FR3's own near a joint limit."""
    return _franka_limits(robot, FR3_BRAKING)


def _franka_limits(robot: RobotSpec, curve: BrakingCurve | None) -> Limits:
    return Limits(
        q_min=robot.q_min,
        q_max=robot.q_max,
        joint_speed=tuple(0.5 * v for v in robot.dq_max),
        joint_acceleration=tuple(min(5.0, a) for a in robot.ddq_max),
        joint_jerk=tuple(min(500.0, j) for j in robot.jerk_max),
        braking_curve=curve,
        torque_max=tuple(0.6 * t for t in robot.tau_max),
        workspace_low=robot.workspace_low,
        workspace_high=robot.workspace_high,
        gripper_force=min(40.0, robot.parallel_gripper.force_max),
    )


@register_driver("franka", summary="FR3, franky-control")
def connect_franky(connection: Connection) -> ArmDriver:
    """Return an FR3's driver; a Panda's policy is checked against the FR3 by the deployment."""
    from robot_bridge.drivers.franka.config import FrankaConfig
    from robot_bridge.drivers.franka.franky import franky_driver

    host = connection.require_address(_HOST)
    return franky_driver(FrankaConfig(host=host, realtime=connection.realtime_kernel))


@register_driver("franka-rs", summary="Panda or FR3, franka-rs")
def connect_franka_rs(connection: Connection) -> ArmDriver:
    """Return the driver of the arm that the policy was trained on."""
    from robot_bridge.drivers.franka.config import FrankaConfig
    from robot_bridge.drivers.franka.franka_rs import franka_rs_driver

    robot = connection.contract.robot
    if robot.gripper_range != franka_hand().finger_range:
        raise InputError(
            f"franka-rs drives the Franka Hand, the policy's robot is a {robot.name}; "
            "allowed: serl-http, whose server drives another gripper"
        )
    host = connection.require_address(_HOST)
    settings = FrankaConfig(host=host, realtime=connection.realtime_kernel)
    return franka_rs_driver(settings, robot=robot)

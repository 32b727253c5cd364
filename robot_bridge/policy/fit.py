"""Was a policy made for an arm like the one that is connected?"""

from robot_bridge.driver import ArmInfo
from scenes.contract.errors import InputError
from scenes.contract.policy_contract import Contract
from scenes.contract.robot import RobotSpec
from scenes.robots import robot_named


def connected_robot(contract: Contract, info: ArmInfo) -> RobotSpec:
    """Return the spec of the connected arm; ValueError where the policy was not made for its like.

    Another arm of the same build will do: the same links up to the same tool centre, and a home
    and workspace within its limits (a Panda's policy on an FR3). Its own limits then hold.
    """
    trained, connected = contract.robot, robot_named(info.robot)
    if _build(trained) != _build(connected):
        raise InputError(
            f"The policy was trained on a {trained.name}, this is a {connected.name}: "
            "its links differ, so the policy's observations and actions mean something else"
        )
    connected.check_pose(contract.home, what="home of the policy")
    return connected


def _build(robot: RobotSpec) -> tuple[object, ...]:
    frames = tuple((link.pos, link.quat) for link in robot.links)
    return frames, robot.flange_pos, robot.ee_pos, robot.ee_quat, robot.gripper_range

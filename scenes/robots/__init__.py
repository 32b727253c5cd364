"""Robots by name; each is a function in a file of its own here, or in a user's package.

@register_robot("my_arm")
def my_arm() -> RobotSpec: ...
"""

from scenes.contract.robot import RobotSpec
from scenes.robots.registry import ROBOTS, register_robot

__all__ = ["ROBOTS", "register_robot", "robot_named"]


def robot_named(name: str) -> RobotSpec:
    """Return the spec of a robot; raises KeyError naming the allowed ones."""
    return ROBOTS[name]()

"""Robots by name; each is a function in a file of its own that returns a RobotSpec."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from scenes.contract.names import unknown_name
from scenes.contract.robot import RobotSpec
from scenes.robots.fr3 import fr3
from scenes.robots.panda import panda
from scenes.robots.piper import piper

ROBOTS: Mapping[str, Callable[[], RobotSpec]] = MappingProxyType(
    {"panda": panda, "fr3": fr3, "piper": piper}
)


def robot_named(name: str) -> RobotSpec:
    """Return the spec of a robot; raises KeyError naming the allowed ones."""
    if name not in ROBOTS:
        raise KeyError(unknown_name("robot", name, ROBOTS))
    return ROBOTS[name]()

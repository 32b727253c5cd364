"""Where robots are registered; the files of this package are found by themselves."""

from collections.abc import Callable

from scenes.contract.registry import Registry
from scenes.contract.robot import RobotSpec

ROBOTS: Registry[Callable[[], RobotSpec]] = Registry("robot", found_in="scenes.robots")
register_robot = ROBOTS.register

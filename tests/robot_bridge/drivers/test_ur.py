"""The UR5e's driver against a controller that speaks the real protocols and runs its program."""

import pytest
from driver_conformance import CHECKS, Rig, name_of
from ur_controller import served

from robot_bridge.drivers.ur.driver import UrDriver
from scenes.robots.ur5e import ur5e_2f85

ROBOT = ur5e_2f85()
controller = pytest.fixture(served)


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_conforms(check, controller):
    check(Rig(make=lambda: UrDriver(controller.host), robot=ROBOT))

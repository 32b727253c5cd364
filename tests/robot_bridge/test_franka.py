"""Franka drivers against simulated robots that speak the FCI's own protocol."""

import time

import numpy as np
import pytest
from driver_conformance import CHECKS, Rig, forward, name_of, target_at, token
from franka_server import FrankaServer, SimulatorError, serve

from robot_bridge.driver import DriverError, Mode, Target
from robot_bridge.franka import FrankyDriver
from robot_bridge.franka_config import FrankaConfig
from scenes.robots.fr3 import fr3

pytestmark = pytest.mark.wire

DRIVERS = {"franky": FrankyDriver}


@pytest.fixture(scope="module")
def server():
    try:
        with serve() as server:
            yield server
    except SimulatorError as error:
        pytest.skip(str(error))


def make_driver(kind: str, server: FrankaServer, **changes):
    return DRIVERS[kind](FrankaConfig(host=server.host, realtime=False, **changes))


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
@pytest.mark.parametrize("kind", DRIVERS)
def test_conforms(kind, check, server):
    check(Rig(make=lambda: make_driver(kind, server), robot=fr3()))

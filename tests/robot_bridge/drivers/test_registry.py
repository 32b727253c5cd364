"""A robot that is not ours: its spec, its limits and its driver from one file of a user's."""

from pathlib import Path

import pytest
from bench_arm import bench_contract

from robot_bridge.deploy.rig import RigConfig
from robot_bridge.deploy.rigs import build_rig, describe_robots, rig_makers
from robot_bridge.drivers.registry import DRIVERS
from robot_bridge.safety.limits import LIMITS, default_limits
from scenes.contract.plugins import load_plugins
from scenes.robots import ROBOTS, robot_named

MODULE = """
import dataclasses

from robot_bridge.drivers.dry_run import NullDriver
from robot_bridge.drivers.registry import register_driver
from robot_bridge.safety.limits import default_limits, register_limits, tighten
from scenes.robots import register_robot, robot_named


@register_robot("short_arm")
def short_arm():
    return dataclasses.replace(robot_named("fr3"), name="short_arm")


@register_limits("short_arm")
def short_limits(robot):
    return tighten(default_limits(robot_named("fr3")), tcp_speed=0.1)


@register_driver("short-arm", summary="an arm of the tests", state_max_age=0.02)
def connect(connection):
    connection.require_address("its name")
    contract = connection.contract
    return NullDriver(robot_named("short_arm"), contract.home, connection.clock)
"""


@pytest.fixture
def plugged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (ROBOTS, LIMITS, DRIVERS):
        monkeypatch.setattr(registry, "_table", {name: registry[name] for name in registry})
    (tmp_path / "short_arm_plugin.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    load_plugins(["short_arm_plugin"])


def test_a_robot_of_a_users_package_is_one_file(plugged_in: None) -> None:
    assert default_limits(robot_named("short_arm")).tcp_speed == 0.1
    config = RigConfig(robot="short-arm", address="7", objects=("cube=0.4,0,0.02",))
    rig = build_rig(config, bench_contract(), rig_makers())
    assert rig.driver.info.robot == "short_arm" and rig.state_max_age == 0.02
    assert "short-arm  an arm of the tests" in describe_robots()
    with pytest.raises(ValueError, match="--robot short-arm needs --address, its name"):
        build_rig(
            RigConfig(robot="short-arm", objects=config.objects), bench_contract(), rig_makers()
        )


def test_every_driver_says_what_it_drives() -> None:
    assert set(DRIVERS) == {"franka", "franka-rs", "null", "piper", "serl-http", "ur5e"}
    assert all(entry.summary for entry in DRIVERS.values())

"""robot_fit.json: read without trust, applied to what the task has not set itself."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from robot_fits import make_fit, value

from scenes.contract.robot_fit import (
    fit_ranges,
    fitted_robot,
    load_robot_fit,
    save_robot_fit,
)
from scenes.contract.serialize import to_json
from scenes.robots import robot_named

PANDA = robot_named("panda")


def test_values_replace_the_nominal_ones_and_held_ones_do_not(tmp_path: Path) -> None:
    save_robot_fit(tmp_path / "robot_fit.json", make_fit())
    fit = load_robot_fit(tmp_path)
    assert fit == make_fit() and fit.delay == 0.03
    robot = fitted_robot(PANDA, fit, registered=PANDA)
    assert robot.kp == (PANDA.kp[0], 4000.0, *PANDA.kp[2:]) and robot.kd == PANDA.kd
    assert robot.friction_loss == (0.5, *(0.0,) * 6)
    assert robot.payload == 0.3 and robot.damping == PANDA.damping


def test_what_a_task_has_set_itself_stays() -> None:
    soft = dataclasses.replace(PANDA, kp=(100.0,) * 7)
    robot = fitted_robot(soft, make_fit(), registered=PANDA)
    assert robot.kp == soft.kp and robot.friction_loss[0] == 0.5


def test_intervals_are_ranges() -> None:
    ranges = fit_ranges(make_fit())
    assert [(r.field, r.joints) for r in ranges] == [
        ("kp", ("joint2",)), ("friction_loss", ("joint1",)), ("payload", ()), ("delay", ()),
    ]  # fmt: skip
    assert (ranges[0].low, ranges[0].high) == pytest.approx((3600.0, 4400.0))
    assert len(fit_ranges(make_fit(), held=True)) == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"values": [{"field": "mass"}]}, "Missing field"),
        ({"schema": 2}, "schema 2, allowed: 1"),
        ({"extra": 1}, "Unknown field"),
        ({"robot": 3}, "Field 'robot'"),
    ],
    ids=["value", "schema", "unknown", "type"],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(to_json(make_fit()) | change))
    with pytest.raises(ValueError, match=said) as error:
        load_robot_fit(path)
    assert "\n" not in str(error.value)


def test_a_huge_or_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("[" * 100_000, "{", " " * (1 << 21)):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"is no robot_fit\.json"):
            load_robot_fit(path)


@pytest.mark.parametrize(
    ("field", "joint", "numbers", "said"),
    [
        ("mass", "joint1", {}, "allowed fields here are kp"),
        ("kp", "", {}, "allowed fields here are payload, delay"),
        ("kp", "joint1", {"low": 5000.0}, "in order"),
        ("kp", "joint1", {"value": float("nan")}, "in order"),
        ("payload", "", {"low": -1.0}, "no such number"),
        ("kp", "joint1", {"value": 0.0, "low": 0.0}, "no such number"),
    ],
    ids=["field", "joint", "order", "nan", "negative", "zero"],
)
def test_a_value_that_cannot_be_is_refused(field, joint, numbers, said) -> None:
    with pytest.raises(ValueError, match=said):
        value(field, joint, 4000.0, **numbers)


def test_another_robots_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="is of a 'panda', this robot is a 'piper'"):
        fitted_robot(robot_named("piper"), make_fit(), registered=robot_named("piper"))
    with pytest.raises(ValueError, match="a joint 'joint9'"):
        fitted_robot(PANDA, make_fit(value("kp", "joint9", 1.0)), registered=PANDA)

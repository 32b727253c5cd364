"""Fits of a Panda, made up."""

from typing import Any

from scenes.contract.robot_fit import FitErrors, FittedValue, RobotFit


def value(field: str, joint: str, found: float, **changes: Any) -> FittedValue:
    numbers = {"value": found, "low": 0.9 * found, "high": 1.1 * found, "nominal": 1.0}
    return FittedValue(field=field, joint=joint, **(numbers | changes))


def make_fit(*values: FittedValue, **changes: Any) -> RobotFit:
    errors = FitErrors(
        position_before=1e-2, position_after=1e-5, velocity_before=0.1, velocity_after=1e-3,
        seconds=10.0,
    )  # fmt: skip
    chosen = values or (
        value("kp", "joint2", 4000.0),
        value("friction_loss", "joint1", 0.5),
        value("damping", "joint1", 1.0, held="does what kd joint1 does"),
        value("payload", "", 0.3),
        value("delay", "", 0.03),
    )
    facts = {"robot": "panda", "sim_dt": 0.005, "fitted": errors, "validation": errors}
    return RobotFit(values=chosen, **(facts | changes))

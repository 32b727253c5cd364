"""Devices beside the page: those of the bridge, so that a person drives both arms alike."""

from robot_bridge.operators.browser_operator import BrowserOperator
from robot_bridge.operators.handheld import GamepadOperator, SpaceMouseOperator
from scenes.contract.operator import Axes, Device, Operator, OperatorGroup


def with_device(page: BrowserOperator, device: Device, names: tuple[str, ...]) -> Operator:
    """Return the page, with a device of this machine beside it that goes first.

    Args:
        page: the page's keys and sticks.
        device: which one; "page" is the page alone.
        names: of the action's entries.

    Raises OperatorError, once opened, where there is no such device.
    """
    if device == "page":
        return page
    axes = Axes(names)
    handheld = SpaceMouseOperator(axes) if device == "spacemouse" else GamepadOperator(axes)
    return OperatorGroup(handheld, page)

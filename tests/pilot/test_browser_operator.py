"""The page as an operator's device: held, let go, silent."""

import numpy as np
import pytest

from robot_bridge.operators.browser_operator import SILENCE, BrowserOperator
from robot_bridge.operators.page_wire import InputFrame, pack_frame, parse_frame

NAMES = ("x", "y", "z", "gripper")


def frame(seq: int, *held: str, **axes: float) -> InputFrame:
    return parse_frame(pack_frame(seq, 0, axes, frozenset(held)))


@pytest.fixture
def operator() -> BrowserOperator:
    device = BrowserOperator(NAMES)
    device.open()
    return device


def test_what_is_held_acts_until_it_is_let_go(operator: BrowserOperator) -> None:
    assert operator.poll(0.0) is None
    operator.hear(frame(1, "drive", "close", x=1.0, z=-1.0), 0.0)
    for now in (0.0, 0.1):
        found = operator.poll(now)
        assert found is not None and found.enabled and found.action is not None
        np.testing.assert_allclose(found.action, [1.0, 0.0, -1.0, 1.0])
    operator.hear(frame(2), 0.12)
    assert operator.poll(0.12) is None


def test_silence_is_letting_go(operator: BrowserOperator) -> None:
    operator.hear(frame(1, "drive", x=1.0), 5.0)
    assert operator.poll(5.0 + 0.99 * SILENCE) is not None
    assert operator.poll(5.0 + 1.01 * SILENCE) is None


def test_the_arm_is_held_where_it_is_driven_without_a_push(operator: BrowserOperator) -> None:
    operator.hear(frame(1, "drive"), 0.0)
    found = operator.poll(0.0)
    assert found is not None and found.enabled and found.action is None


def test_nobody_drives_by_accident(operator: BrowserOperator) -> None:
    operator.hear(frame(1, x=1.0), 0.0)
    assert operator.poll(0.0) is None


def test_a_late_frame_is_dropped_and_a_new_page_begins_anew(operator: BrowserOperator) -> None:
    operator.hear(frame(9, "drive", x=1.0), 0.0)
    operator.hear(frame(8), 0.0)
    assert operator.poll(0.0) is not None
    operator.release()
    operator.hear(frame(1, "drive", y=1.0), 0.1)
    found = operator.poll(0.1)
    assert found is not None and found.action is not None and found.action[1] == 1.0


def test_an_event_is_told_once_however_long_its_key_is_held(operator: BrowserOperator) -> None:
    for seq in (1, 2, 3):
        operator.hear(frame(seq, "success"), 0.01 * seq)
    first = operator.poll(0.03)
    assert first is not None and first.event == "success"
    assert operator.poll(0.04) is None
    # A press between two polls counts.
    operator.hear(frame(4), 0.05)
    operator.hear(frame(5, "cut"), 0.06)
    operator.hear(frame(6), 0.07)
    found = operator.poll(0.08)
    assert found is not None and found.event == "cut"


def test_taking_back_waits_for_whom_it_concerns(operator: BrowserOperator) -> None:
    operator.hear(frame(1, "undo"), 0.0)
    operator.poll(0.0)
    assert operator.take_undo() and not operator.take_undo()


def test_somebody_is_there_while_the_page_says_so(operator: BrowserOperator) -> None:
    assert not operator.awake(0.0)
    operator.hear(frame(1, "awake"), 0.0)
    assert operator.awake(0.5) and operator.poll(0.0) is None
    assert not operator.awake(2.0), "the page is gone"
    operator.hear(frame(2), 2.1)
    assert not operator.awake(2.1)


def test_what_no_key_moves_is_told_and_a_push_is_a_force_of_a_wrench() -> None:
    device = BrowserOperator(("fx", "fy", "fz", "tx", "ty", "tz", "left/x"))
    device.hear(frame(1, "drive", x=1.0, rz=-1.0), 0.0)
    found = device.poll(0.0)
    assert found is not None and found.action is not None
    np.testing.assert_allclose(found.action, [1, 0, 0, 0, 0, -1, 0])
    assert device.undriven == ("left/x",) and BrowserOperator(NAMES).undriven == ()

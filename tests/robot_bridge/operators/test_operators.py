"""Operators: terminals are pseudo-terminals, devices are pipes with the kernel's own records."""

import os
import pty
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_bridge.operators.handheld import GamepadOperator, SpaceMouseOperator, find_space_mouse
from robot_bridge.operators.keyboard import KeyboardOperator
from scenes.contract.operator import (
    Axes,
    OperatorError,
    OperatorGroup,
    OperatorInput,
    without_deadband,
)

AXES = Axes(("x", "y", "z", "gripper"))


# -- directions ----------------------------------------------------------------------------------


def test_actions_follow_the_names_of_the_action():
    axes = Axes(("gripper", "turn", "z", "x"))
    pushed = {"x": 0.5, "y": 0.25, "z": -1.0, "gripper": 1.0}
    assert axes.action(pushed).tolist() == [1.0, 0.0, -1.0, 0.5]
    assert axes.action({"x": 0.0, "y": 0.0}) is None


@pytest.mark.parametrize(("facing", "x", "y"), [(0, 1, 0), (90, 0, 1), (180, -1, 0), (-90, 0, -1)])
def test_forward_is_where_the_person_looks(facing: float, x: float, y: float):
    action = Axes(("x", "y"), facing=facing).action({"x": 1.0})
    np.testing.assert_allclose(action, [x, y], atol=1e-12)
    left = Axes(("x", "y"), facing=facing).action({"y": 1.0})
    np.testing.assert_allclose(left, [-y, x], atol=1e-12)


@given(st.floats(-2, 2), st.floats(0, 0.9))
def test_the_deadband_starts_at_zero_and_ends_at_one(value: float, deadband: float):
    out = without_deadband(value, deadband)
    assert abs(out) <= 1.0 and (out == 0.0 if abs(value) <= deadband else (out > 0) == (value > 0))
    assert without_deadband(-value, deadband) == -out
    if abs(value) >= 1.0:
        assert abs(out) == 1.0


# -- keyboard ------------------------------------------------------------------------------------


@pytest.fixture
def terminal():
    """Both ends of a pseudo-terminal: what a person types goes into the first."""
    first, program = pty.openpty()
    with open(first, "wb", buffering=0) as person:
        yield person, program
    os.close(program)


@pytest.fixture
def keyboard(terminal):
    operator = KeyboardOperator(AXES, terminal=terminal[1])
    operator.open()
    yield operator
    operator.close()


def type_keys(terminal: tuple[IO[bytes], int], text: str) -> None:
    terminal[0].write(text.encode())
    time.sleep(0.005)  # the line discipline passes it on in the background


@pytest.mark.parametrize(
    ("key", "axis", "value"),
    [
        *(("w", 0, 0.5), ("s", 0, -0.5), ("a", 1, 0.5), ("d", 1, -0.5)),
        *(("r", 2, 0.5), ("f", 2, -0.5), ("c", 3, 0.5), ("o", 3, -0.5)),
    ],
)
def test_keys_push(terminal, keyboard, key: str, axis: int, value: float):
    type_keys(terminal, key)
    wanted = keyboard.poll(1.0)
    assert wanted.action.tolist() == [value if i == axis else 0.0 for i in range(4)]
    assert wanted.enabled and wanted.event is None


def test_a_push_lasts_as_long_as_its_key_repeats(terminal, keyboard):
    type_keys(terminal, "w")
    assert keyboard.poll(1.00).action is not None
    assert keyboard.poll(1.10).action is not None
    type_keys(terminal, "w")
    assert keyboard.poll(1.11).action is not None
    assert keyboard.poll(1.22).action is not None
    assert keyboard.poll(1.24).action is None


def test_hold_to_run_is_let_go_after_300_ms(terminal, keyboard):
    assert keyboard.poll(0.9) is None
    type_keys(terminal, " ")
    assert keyboard.poll(1.0) == OperatorInput(enabled=True)
    assert keyboard.poll(1.29).enabled
    type_keys(terminal, " ")
    assert keyboard.poll(1.30).enabled
    assert keyboard.poll(1.61) is None


def test_keys_that_came_between_polls_all_count(terminal, keyboard):
    type_keys(terminal, "WA c")
    wanted = keyboard.poll(2.0)
    assert wanted.action.tolist() == [0.5, 0.5, 0.0, 0.5] and wanted.enabled


@pytest.mark.parametrize(
    ("typed", "event"),
    [
        *(("\x1b", "stop"), ("q", "stop"), ("y", "success"), ("n", "failure"), ("0", "cut")),
        *(("yq", "stop"), ("qy", "stop"), ("w\x1bw", "stop")),
        # Cursor and function keys are no Escape, and the letters in them no keys.
        *(("\x1b[A", None), ("\x1b[1;5D", None), ("\x1bOc", None), ("\x1b[", None)),
    ],
)
def test_events(terminal, keyboard, typed: str, event: str | None):
    type_keys(terminal, typed)
    wanted = keyboard.poll(1.0)
    assert (None if wanted is None else wanted.event) == event
    assert keyboard.poll(2.0) is None


@given(st.binary(max_size=40))
def test_whatever_is_typed_gives_an_action_in_range(data: bytes):
    person, program = pty.openpty()
    operator = KeyboardOperator(AXES, terminal=program)
    operator.open()
    try:
        os.write(person, data.replace(b"\x03", b"").replace(b"\x1c", b""))
        wanted = operator.poll(1.0)
        assert wanted is None or wanted.action is None or abs(wanted.action).max() <= 1.0
    finally:
        operator.close()
        os.close(person)
        os.close(program)


def test_the_terminal_is_given_back_as_it_was(terminal):
    before = termios.tcgetattr(terminal[1])
    operator = KeyboardOperator(AXES, terminal=terminal[1])
    operator.open()
    during = termios.tcgetattr(terminal[1])
    assert not during[3] & (termios.ICANON | termios.ECHO)
    assert during[3] & termios.ISIG  # Ctrl-C still interrupts
    assert during[6][termios.VSUSP] == b"\x00"  # Ctrl-Z does not stop the process
    operator.close()
    operator.close()
    assert termios.tcgetattr(terminal[1]) == before


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "1 / 0"])
def test_the_terminal_is_given_back_by_a_process_that_forgets(terminal, ending: str):
    before = termios.tcgetattr(terminal[1])
    script = (
        "import termios; from robot_bridge.operators.keyboard import KeyboardOperator as K; "
        "from scenes.contract.operator import Axes; K(Axes(())).open(); "
        f"assert not termios.tcgetattr(0)[3] & termios.ECHO; {ending}"
    )
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, stdin=terminal[1], cwd=root, stderr=subprocess.PIPE, text=True)
    assert "AssertionError" not in done.stderr and bool(done.returncode) == bool(ending)
    assert termios.tcgetattr(terminal[1]) == before


def test_a_terminal_that_hangs_up_is_let_go(terminal, keyboard):
    type_keys(terminal, " ")
    assert keyboard.poll(1.0).enabled
    terminal[0].close()
    assert keyboard.poll(2.0) is None
    assert keyboard.lost == "the terminal is gone"


def test_without_a_terminal_it_is_refused_in_one_line():
    reader, writer = os.pipe()
    with pytest.raises(OperatorError, match=r"needs a terminal .*; use `ssh -t`, or another"):
        KeyboardOperator(AXES, terminal=reader).open()
    os.close(reader)
    os.close(writer)


def test_the_help_names_every_key(keyboard):
    for key in [*keyboard.PUSHES, "q", "y", "n", "0", "space", "esc"]:
        assert key in keyboard.help_text


# -- devices -------------------------------------------------------------------------------------


@pytest.fixture
def wire(tmp_path: Path):
    """A device file and its other end."""
    path = tmp_path / "device"
    os.mkfifo(path)
    # Opened for both, so that neither end waits for the other.
    with path.open("r+b", buffering=0) as end:
        yield path, end


def cap(x: int = 0, y: int = 0, z: int = 0, *, rotations: bool = False) -> bytes:
    return struct.pack("<Bhhh", 1, x, y, z) + (bytes(6) if rotations else b"")


@pytest.fixture
def mouse(wire):
    operator = SpaceMouseOperator(AXES, path=wire[0])
    operator.open()
    yield operator
    operator.close()


@pytest.mark.parametrize("rotations", [False, True])
@pytest.mark.parametrize(
    ("report", "action"),
    [
        ({"y": -350}, [1, 0, 0, 0]),  # pushed away from the person
        ({"x": -350}, [0, 1, 0, 0]),  # to the left
        ({"z": -350}, [0, 0, 1, 0]),  # pulled up
        ({"x": 350, "y": 350, "z": 350}, [-1, -1, -1, 0]),
        ({"y": -500}, [1, 0, 0, 0]),
    ],
)
def test_the_cap_pushes(wire, mouse, report: dict, action: list, rotations: bool):
    wire[1].write(cap(**report, rotations=rotations))
    wanted = mouse.poll(1.0)
    assert wanted.action.tolist() == action and wanted.enabled


def test_a_cap_at_rest_is_nobody(wire, mouse):
    assert mouse.poll(1.0) is None
    wire[1].write(cap(x=20, y=-25, z=10))
    assert mouse.poll(1.1) is None


def test_a_cap_in_the_middle_pushes_less(wire, mouse):
    wire[1].write(cap(y=-175))
    assert mouse.poll(1.0).action[0] == pytest.approx((0.5 - 0.08) / 0.92)


def test_silence_is_letting_go(wire, mouse):
    wire[1].write(cap(y=-350))
    assert mouse.poll(1.0).enabled and mouse.poll(1.29).enabled
    assert mouse.poll(1.31) is None


def test_buttons_work_the_gripper(wire, mouse):
    for pressed, gripper in ((1, 1.0), (2, -1.0)):
        wire[1].write(bytes([3, pressed, 0]))
        wanted = mouse.poll(1.0)
        assert wanted.action.tolist() == [0, 0, 0, gripper] and wanted.enabled
    wire[1].write(bytes([3, 3, 0]))
    assert mouse.poll(1.0) == OperatorInput(enabled=True)
    wire[1].write(bytes([3, 0, 0]))
    assert mouse.poll(1.0) is None


@pytest.mark.parametrize("report", [b"\x01\x00", b"\x17\x64", b"\x02" + bytes(6), b"\x03"])
def test_other_reports_are_passed_over(wire, mouse, report: bytes):
    wire[1].write(report)
    assert mouse.poll(1.0) is None and mouse.lost is None


def test_an_unplugged_mouse_is_let_go(wire, mouse):
    wire[1].write(bytes([3, 1, 0]))
    assert mouse.poll(1.0).enabled
    wire[1].close()
    assert mouse.poll(1.05) is None and mouse.lost == "SpaceMouse is gone"


def test_a_missing_mouse_says_how_to_allow_it(tmp_path: Path):
    with pytest.raises(OperatorError, match=r"SpaceMouse at .*hidraw9 cannot be opened: No such"):
        SpaceMouseOperator(AXES, path=tmp_path / "hidraw9").open()


def test_the_mouse_is_found_by_its_maker(tmp_path: Path):
    ids = {"hidraw0": "0003:0000046D:0000C52B", "hidraw1": "0003:0000256F:0000C635"}
    for name, number in ids.items():
        folder = tmp_path / name / "device"
        folder.mkdir(parents=True)
        (folder / "uevent").write_text(f"DRIVER=hid-generic\nHID_ID={number}\nHID_NAME=x\n")
    (tmp_path / "hidraw2").mkdir()
    assert find_space_mouse(tmp_path) == Path("/dev/hidraw1")
    (tmp_path / "hidraw1/device/uevent").unlink()
    with pytest.raises(OperatorError, match="No SpaceMouse is plugged in"):
        find_space_mouse(tmp_path)
    (tmp_path / "hidraw0/device/uevent").write_text("HID_ID=0003:0000046D:0000C626\n")
    assert find_space_mouse(tmp_path) == Path("/dev/hidraw0")


# -- gamepad -------------------------------------------------------------------------------------


def js(kind: int, number: int, value: int) -> bytes:
    return struct.pack("<IhBB", 123, value, kind, number)


BUTTON, AXIS, AT_OPENING = 1, 2, 0x80


@pytest.fixture
def gamepad(wire):
    operator = GamepadOperator(AXES, path=wire[0])
    operator.open()
    yield operator
    operator.close()


@pytest.mark.parametrize(
    ("axis", "value", "action"),
    [
        (1, -32767, [1, 0, 0, 0]),
        (1, 32767, [-1, 0, 0, 0]),
        (0, -32767, [0, 1, 0, 0]),
        (4, -32767, [0, 0, 1, 0]),
        (4, -32768, [0, 0, 1, 0]),
    ],
)
def test_sticks_push_until_they_are_let_go(wire, gamepad, axis: int, value: int, action: list):
    wire[1].write(js(AXIS, axis, value))
    for now in (1.0, 5.0):  # the kernel tells changes only
        assert gamepad.poll(now).action.tolist() == action
    wire[1].write(js(AXIS, axis, 900))
    assert gamepad.poll(6.0) is None


def test_only_the_shoulder_button_enables(wire, gamepad):
    wire[1].write(js(AXIS, 1, -32767))
    assert not gamepad.poll(1.0).enabled
    wire[1].write(js(BUTTON, 4, 1))
    assert gamepad.poll(2.0).enabled
    wire[1].write(js(BUTTON, 4, 0))
    assert not gamepad.poll(3.0).enabled


@pytest.mark.parametrize(
    ("button", "event"), [(6, "stop"), (7, "success"), (2, "failure"), (3, "cut")]
)
def test_buttons_are_events_once(wire, gamepad, button: int, event: str):
    wire[1].write(js(BUTTON, button, 1))
    assert gamepad.poll(1.0).event == event
    wire[1].write(js(BUTTON, button, 0))
    assert gamepad.poll(2.0) is None


def test_stop_goes_before_what_came_after_it(wire, gamepad):
    wire[1].write(js(BUTTON, 6, 1) + js(BUTTON, 7, 1))
    assert gamepad.poll(1.0).event == "stop"


def test_what_was_pressed_before_is_no_event(wire, gamepad):
    wire[1].write(js(BUTTON | AT_OPENING, 7, 1) + js(AXIS | AT_OPENING, 1, -32767))
    wanted = gamepad.poll(1.0)
    assert wanted.event is None and wanted.action.tolist() == [1, 0, 0, 0]


def test_half_an_event_waits_for_its_rest(wire, gamepad):
    event = js(AXIS, 1, -32767)
    wire[1].write(event[:3])
    assert gamepad.poll(1.0) is None
    wire[1].write(event[3:])
    assert gamepad.poll(2.0).action[0] == 1.0


def test_buttons_work_the_pads_gripper(wire, gamepad):
    wire[1].write(js(BUTTON, 0, 1))
    assert gamepad.poll(1.0).action.tolist() == [0, 0, 0, 1]
    wire[1].write(js(BUTTON, 0, 0) + js(BUTTON, 1, 1))
    assert gamepad.poll(1.0).action.tolist() == [0, 0, 0, -1]


def test_an_unplugged_gamepad_is_let_go(wire, gamepad):
    wire[1].write(js(AXIS, 1, -32767) + js(BUTTON, 4, 1))
    assert gamepad.poll(1.0).enabled
    wire[1].close()
    assert gamepad.poll(2.0) is None and gamepad.lost == "Gamepad is gone"


def test_a_missing_gamepad_is_told(tmp_path: Path):
    with pytest.raises(OperatorError, match=r"Gamepad at .*js0 cannot be opened: No such file"):
        GamepadOperator(AXES, path=tmp_path / "js0").open()


# -- several at once -----------------------------------------------------------------------------


class Scripted:
    """Says what it is told to."""

    def __init__(self, name: str, said: OperatorInput | None = None, *, broken: bool = False):
        self.help_text, self.said, self.broken = name, said, broken
        self.lost: str | None = None
        self.is_open = False

    def open(self) -> None:
        if self.broken:
            raise OperatorError(f"{self.help_text} is broken")
        self.is_open = True

    def poll(self, now: float) -> OperatorInput | None:
        return self.said

    def close(self) -> None:
        self.is_open = False


def test_a_group_adds_up_its_devices():
    push = np.array([1.0, 0, 0, 0])
    mouse = Scripted("mouse", OperatorInput(action=push, event="success"))
    pedal = Scripted("pedal", OperatorInput(enabled=True))
    keys = Scripted("keys", OperatorInput(action=-push, event="stop"))
    group = OperatorGroup(mouse, pedal, keys)
    group.open()
    wanted = group.poll(1.0)
    assert wanted.action is push and wanted.enabled and wanted.event == "stop"
    assert group.help_text == "mouse\npedal\nkeys" and group.lost is None
    mouse.said = pedal.said = keys.said = None
    assert group.poll(2.0) is None
    pedal.lost = "pedal is gone"
    assert group.lost == "pedal is gone"
    group.close()
    assert not mouse.is_open


def test_a_group_opens_all_or_none():
    good = Scripted("good")
    with pytest.raises(OperatorError, match="bad is broken"):
        OperatorGroup(good, Scripted("bad", broken=True)).open()
    assert not good.is_open
